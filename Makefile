# make demo: set up, then build, check and search an index of 400,000 word vectors.
# make test: set up, then format, lint, types and every test.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Compiled modules are kept, as each of the many processes that tests start imports them.
export PYTHONDONTWRITEBYTECODE =

# Tests wait for processes as much as they compute: one process more than there are processors.
# All tests of a file, or of a room that shares a cluster or a database, run in one process.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS)

.PHONY: demo docs test tests test-quick test-long test-gpu test-integrations test-slurm test-times check chromium format clean soak soak-writes results

$(READY): pyproject.toml setup.py requirements.lock $(wildcard src/teravec/native/*.c src/teravec/native/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	-$(BIN)/python -m compileall -q -j 0 $(VENV)/lib src
	touch $@

demo: $(READY)
	$(BIN)/python examples/words.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Types are checked beside the tests, and Chromium is fetched beside the packages.
test:
	$(MAKE) --jobs 2 --keep-going check tests

tests: $(READY) chromium
	$(PYTEST)

chromium:
	.ci/chromium

# The documentation as a site, its links checked: build/site/index.html.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --quiet
	@echo built build/site/index.html

# Servers under faults and under floods, ten minutes each; writes its results to benchmarks/results.
soak: $(READY)
	$(BIN)/python -m benchmarks.soak

soak-writes: $(READY)
	$(BIN)/python -m benchmarks.soak_writes

# Render the pages of results from the benchmarks' records.
results: $(READY)
	$(BIN)/python -m benchmarks.render

test-quick: $(READY)
	$(PYTEST) -m "not slow"

# Every instant and every byte, where the usual tests take a share.
test-long: $(READY) chromium
	TERAVEC_TEST_LONG=1 $(PYTEST)

# Tests that compare times; they need an idle machine.
test-times: $(READY)
	TERAVEC_TEST_TIMES=1 $(BIN)/python -m pytest -s tests/planning

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build demo-output src/teravec/native/*.so

# Tests that need PyTorch (hundreds of megabytes, installed into .venv-gpu); they use a GPU if there is
# one. TORCH names another build.
TORCH ?= torch==2.13.0
test-gpu:
	$(MAKE) VENV=.venv-gpu .venv-gpu/.ready
	.venv-gpu/bin/pip install --quiet --disable-pip-version-check $(TORCH)
	.venv-gpu/bin/python -m pytest -rs tests/kernels/test_torch_scan.py tests/selftest/test_gpu.py tests/sources/test_torch.py

# Jobs under a real Slurm of four nodes on this host; installs Slurm if it is missing.
test-slurm: $(READY)
	command -v slurmctld > /dev/null && command -v munged > /dev/null || \
		{ apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; }
	TERAVEC_TEST_SLURM=1 $(BIN)/python -m pytest tests/slurm

# The suites of tools that teravec works with, LangChain's and scikit-learn's, in .venv-integrations:
# their plugins of pytest would change the other tests.
TOOLS ?= langchain-core langchain-tests scikit-learn
test-integrations:
	$(MAKE) VENV=.venv-integrations .venv-integrations/.ready
	.venv-integrations/bin/pip install --quiet --disable-pip-version-check $(TOOLS)
	.venv-integrations/bin/python -m pytest -rs -o asyncio_mode=auto \
		-o asyncio_default_fixture_loop_scope=function tests/integrations
