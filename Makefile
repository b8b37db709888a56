# make demo: set up, then build, check and search an index of 400,000 word vectors.
# make test: set up, then format, lint, types and every test.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-quick test-slurm check format clean

$(READY): pyproject.toml setup.py requirements.lock $(wildcard src/teravec/kernels/*.c src/teravec/kernels/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(READY)
	$(BIN)/python examples/words.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

test-quick: $(READY)
	$(BIN)/python -m pytest -m "not slow"

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build demo-output src/teravec/kernels/*.so

# Jobs under a real Slurm of four nodes on this host; installs Slurm where it is missing.
test-slurm: $(READY)
	command -v slurmctld > /dev/null && command -v munged > /dev/null || \
		{ apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; }
	$(BIN)/python -c "import ray" 2> /dev/null || $(BIN)/pip install --quiet "ray>=2.40"
	TERAVEC_TEST_SLURM=1 $(BIN)/python -m pytest tests/slurm
