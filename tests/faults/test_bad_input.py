"""Bad input: one line that says what was found, exit code 2, and nothing written."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from teravec.cli.main import app
from tests.conftest import clustered, write_fbin
from tests.faults.conftest import tree

runner = CliRunner()


def fails(*arguments: object, code: int = 2) -> str:
    """Run a command that must fail in one line; return the line."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("teravec: ")
    assert result.stdout == ""
    return lines[0]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_fbin(tmp_path / "good.fbin", clustered(300, 8))


def with_value(value: float, n: int = 300) -> np.ndarray:
    vectors = clustered(n, 8)
    vectors[123, 4] = value
    return vectors


def write_header(path: Path, n: int, d: int, rows: int = 300) -> None:
    path.write_bytes(struct.pack("<II", n, d) + clustered(rows, 8).tobytes())


def npy(vectors: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getvalue()


def write_parquet(path: Path, name: str, rows: Sequence[object]) -> None:
    pq.write_table(pa.table({name: list(rows)}), path)


# Name, how it is written, what the message must say.
Case = tuple[str, Callable[[Path], object], str]
SOURCES: dict[str, Case] = {
    "no extension": ("x", lambda p: p.write_text("1 2 3"), "extension"),
    "unknown extension": ("x.txt", lambda p: p.write_text("1 2 3"), "txt.*fvecs"),
    "short of the header": ("x.fbin", lambda p: write_header(p, 1000, 8), "9,?608.*32,?008"),
    "beyond the header": ("x.fbin", lambda p: write_header(p, 100, 8), "9,?608.*3,?208"),
    "huge header": ("x.fbin", lambda p: p.write_bytes(struct.pack("<II", 2**32 - 1, 2**31)), ""),
    "header cut": ("x.fbin", lambda p: p.write_bytes(b"abc"), "3 bytes"),
    "no bytes": ("x.fbin", lambda p: p.write_bytes(b""), "0 bytes|empty"),
    "d is 0": ("x.fbin", lambda p: p.write_bytes(struct.pack("<II", 9, 0)), "dimension|d is 0|0"),
    "fvecs of two d": (
        "x.fvecs",
        lambda p: p.write_bytes(
            struct.pack("<i2f", 2, 1, 2) + struct.pack("<i3f", 3, 1, 2, 3) + bytes(20)
        ),
        "",
    ),
    "fvecs of negative d": (
        "x.fvecs",
        lambda p: p.write_bytes(struct.pack("<i2f", -2, 1, 2)),
        "-2",
    ),
    "NaN": ("x.fbin", lambda p: write_fbin(p, with_value(np.nan)), "row 123.*nan"),
    "infinite": ("x.npy", lambda p: np.save(p, with_value(np.inf)), "row 123.*inf"),
    "NaN outside the sample": (
        "x.fbin",
        lambda p: write_fbin(p, with_value(np.nan, 5000)),
        "row 123.*nan",
    ),
    "too large to square": ("x.fbin", lambda p: write_fbin(p, with_value(1e30)), "row 123.*1e.30"),
    "too large to square, outside the sample": (
        "x.fbin",
        lambda p: write_fbin(p, with_value(1e30, 5000)),
        "row 123.*1e.30",
    ),
    "no rows": (
        "x.npy",
        lambda p: np.save(p, np.empty((0, 8), np.float32)),
        "empty|no rows|0 rows",
    ),
    "no file": ("x.npy", lambda p: None, "no such file"),
    "directory without vectors": ("x", lambda p: p.mkdir(), "nothing found"),
    "glob without files": ("*.u8bin", lambda p: None, "no file matches"),
    "objects": ("x.npy", lambda p: np.save(p, np.array([[{}]]), allow_pickle=True), "object|dtype"),
    "complex": ("x.npy", lambda p: np.save(p, np.ones((9, 8), complex)), "c16.*float32"),
    "one axis": ("x.npy", lambda p: np.save(p, np.ones(9, np.float32)), r"\(9,\)"),
    "npy cut": ("x.npy", lambda p: p.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'"), ""),
    "npy cut in its rows": (
        "x.npy",
        lambda p: p.write_bytes(npy(clustered(300, 8))[:4000]),
        "4,?000.*9,?728",
    ),
    "not parquet": ("x.parquet", lambda p: p.write_text("hello, this is text"), ""),
    "not arrow": ("x.arrow", lambda p: p.write_text("hello, this is text"), ""),
    "no vectors in parquet": ("x.parquet", lambda p: write_parquet(p, "a", ["x", "y"]), ""),
    "ragged parquet": (
        "x.parquet",
        lambda p: write_parquet(p, "v", [[1.0, 2.0]] * 6 + [[3.0]]),
        "",
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_bad_sources(case: str, tmp_path: Path) -> None:
    name, write, words = SOURCES[case]
    write(tmp_path / name)
    out = tmp_path / "i"
    message = fails("build", tmp_path / name, "--out", out, "--nlist", "4", "-q")
    assert str(tmp_path / name) in message
    assert re.search(words, message), message
    assert not out.exists()


def test_bad_values_in_a_build_that_was_begun(tmp_path: Path) -> None:
    # Row 123 is neither in the sample nor among the rows that the assignment is checked on.
    # What an earlier run left is not this run's to remove; the output must stay of use.
    source, out = write_fbin(tmp_path / "x.fbin", with_value(np.nan, 40_000)), tmp_path / "i"
    options = ["--out", str(out), "--nlist", "4", "--seed", "7", "-q"]
    assert runner.invoke(app, ["train", str(source), *options]).exit_code == 0
    before = tree(out)
    assert "x.fbin: row 123" in fails("build", source, *options)
    assert "x.fbin: row 123" in fails("shard", source, "--out", out, "-q")
    assert [p for p in sorted(tree(out)) if p != "shards"] == sorted(before)
    assert "not finished" in fails("search", out, source, code=1)


def test_mixed_dimensions(good: Path, tmp_path: Path) -> None:
    narrow = write_fbin(tmp_path / "narrow.fbin", clustered(50, 7))
    message = fails("build", good, narrow, "--out", tmp_path / "i")
    assert "narrow.fbin" in message
    assert "7" in message
    assert "8" in message
    assert not (tmp_path / "i").exists()


Marks = pytest.MarkDecorator | tuple[()]
OPTIONS: list[tuple[list[str], str, Marks]] = [
    (["--nlist", "301"], "300.*301", ()),
    (["--nlist", "0"], "nlist is 0", ()),
    (["--nlist", "-4"], "nlist is -4", ()),
    (["--nlist", "some"], "nlist.*'some'", ()),
    (["--nlist", "50", "--sample", "40"], "40 training vectors for 50 lists", ()),
    (["--sample", "0"], "sample|training vectors", ()),
    (["--codec", "zip"], "'zip'.*sq8", ()),
    (["--codec", "pq3"], "divisible by 3", ()),
    (["--codec", "pq0"], "pq0", ()),
    (["--codec", "pq4x40"], "pq4x40", ()),
    (["--codec", "pq4", "--sample", "100", "--nlist", "4"], "100.*256", ()),
    (["--codec", "rabitq9"], "rabitq9", ()),
    (["--codec", ""], "codec", ()),
    (["--metric", "l7"], "'l7'.*cosine", ()),
    (["--transform", "pca9"], "pca9.*8|9.*8", ()),
    (["--transform", "pca0"], "pca0", ()),
    (["--transform", "twist"], "'twist'.*rotation", ()),
    (["--memory", "lots"], "'lots'.*512MiB", ()),
    (["--memory", "-5"], "'-5'", ()),
    (["--memory", ""], "''", ()),
    (["--memory", "0"], "at least 1 expected", ()),
    (["--memory", "1MiB"], "needs.*limit is 1 MiB", ()),
    (["--niter", "0"], "niter is 0", ()),
    (["--seed", "-1"], "seed is -1", ()),
    (["--shards", "0"], "shards is 0", ()),
    (["--shards", "301"], "301 shards of 300", ()),
    (["--slices", "0"], "slices is 0", ()),
    (["--nlist", "3", "--slices", "4"], "4 slices of 3", ()),
    (["--threads", "-1"], "threads is -1; 1 to 4,096 expected", ()),
    (["--threads", "99999999999"], "threads is 99999999999; 1 to 4,096 expected", ()),
    (["--engine", "ray", "--workers", "99999999999"], "workers is 99999999999; 1 to", ()),
    (["--shards", "99999999999"], "shards of 300", ()),
    (["--id-column", "id"], "'id'.*parquet", ()),
    (["--vector-column", "v"], "'v'.*parquet", ()),
]


@pytest.mark.parametrize(
    ("options", "words"),
    [pytest.param(o, words, marks=m, id=" ".join(o)) for o, words, m in OPTIONS],
)
def test_bad_options(options: list[str], words: str, good: Path, tmp_path: Path) -> None:
    message = fails("build", good, "--out", tmp_path / "i", *options)
    assert re.search(words, message), message
    assert not (tmp_path / "i").exists()


def test_too_little_memory_seals_nothing(good: Path, tmp_path: Path) -> None:
    fails("build", good, "--out", tmp_path / "i", "--nlist", "4", "--memory", "1MiB")
    assert list(tree(tmp_path / "i")) in ([], ["build.json"])
    done = runner.invoke(app, ["build", str(good), "--out", str(tmp_path / "i"), "--nlist", "4"])
    assert done.exit_code == 0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a source, its index, and a model without shards."""
    root = tmp_path_factory.mktemp("prepared")
    source = str(write_fbin(root / "good.fbin", clustered(300, 8)))
    for stage in (
        ["build", source, "--out", str(root / "i")],
        ["train", source, "--out", str(root / "trained")],
    ):
        result = runner.invoke(app, [*stage, "--nlist", "4", "-q"])
        assert result.exit_code == 0, result.output
    return root


def test_bad_searches(prepared: Path, tmp_path: Path) -> None:
    index, good, before = prepared / "i", prepared / "good.fbin", tree(prepared)
    narrow = write_fbin(tmp_path / "narrow.fbin", clustered(5, 7))
    nan = write_fbin(tmp_path / "nan.fbin", with_value(np.nan))
    assert re.search("k is 0; 1 ", fails("search", index, good, "-k", "0"))
    assert re.search("k is -1; 1 ", fails("search", index, good, "-k", "-1"))
    assert "nprobe is 0; at least 1" in fails("search", index, good, "--nprobe", "0")
    assert "nprobe is -9; at least 1" in fails("search", index, good, "--nprobe", "-9")
    assert re.search(r"\(5, 7\).*\(nq, 8\) expected", fails("search", index, narrow))
    assert "row 123" in fails("search", index, nan)
    assert "lots" in fails("search", index, good, "--memory", "lots")
    assert "needs" in fails("search", index, good, "--memory", "1MiB")
    assert "threads is 0" in fails("search", index, good, "--threads", "0")
    assert "no such file" in fails("search", index, tmp_path / "none.fbin")
    assert "radius" in fails("range-search", index, good, "--radius", "nan")
    assert "radius" in fails("range-search", index, good, "--radius", "inf")
    assert ".txt" in fails("search", index, good, "--out", tmp_path / "r.txt")
    assert ".ibin" in fails(
        "range-search", index, good, "--radius", "1", "--out", tmp_path / "r.ibin"
    )
    assert "no" in fails("search", index, good, "--out", tmp_path / "none" / "r.npz")
    assert "good.fbin exists" in fails("export-faiss", index, good)
    assert sorted(tree(tmp_path)) == ["nan.fbin", "narrow.fbin"]
    assert tree(prepared) == before


def test_what_is_no_index(prepared: Path, tmp_path: Path) -> None:
    good, trained = prepared / "good.fbin", prepared / "trained"
    commands: dict[str, list[object]] = {
        "search": [good],
        "range-search": [good, "--radius", "1"],
        "verify": [],
        "info": [],
        "export-faiss": [tmp_path / "x.faiss"],
    }
    for command, more in commands.items():
        assert "no teravec index" in fails(command, tmp_path, *more, code=1)
        assert "no teravec index" in fails(command, tmp_path / "none", *more, code=1)
        assert "no teravec index" in fails(command, good, *more, code=1)
        assert "no manifest.json" in fails(command, trained, *more, code=1)
    assert tree(tmp_path) == {}


def test_stages_without_what_comes_before(prepared: Path, tmp_path: Path) -> None:
    good, trained = prepared / "good.fbin", prepared / "trained"
    before = tree(prepared)
    assert "build.json" in fails("shard", good, "--out", tmp_path / "none", code=1)
    assert "build.json" in fails("merge", "--out", tmp_path / "none", code=1)
    assert "no shards" in fails("merge", "--out", trained, code=1)
    for rows in ("5", "a:b", "5:2", "0:0", "0:301", "300:301", "-1:3", "1:2:3", ""):
        assert "rows" in fails("shard", good, "--out", trained, f"--rows={rows}")
    other = write_fbin(tmp_path / "other.fbin", clustered(300, 8, seed=1))
    assert "other vectors" in fails("shard", other, "--out", trained)
    assert "needs" in fails("shard", good, "--out", trained, "--memory", "1MiB")
    assert {**tree(prepared), "trained/shards": None} == {**before, "trained/shards": None}
    assert sorted(tree(tmp_path)) == ["other.fbin"]


TRUTHS: dict[str, Case] = {
    "no file": ("t.ibin", lambda p: None, "no such file"),
    "extension": ("t.txt", lambda p: p.write_text("1"), "txt.*ibin"),
    "short": ("t.ibin", lambda p: p.write_bytes(struct.pack("<II", 9, 9)), "332.*8|8.*332"),
    "empty": ("t.bin", lambda p: p.write_bytes(b""), ""),
    "objects": ("t.npy", lambda p: np.save(p, np.array([[{}]]), allow_pickle=True), ""),
    "objects in npz": ("t.npz", lambda p: np.savez(p, ids=np.array([[{}]], object)), ""),
    "no ids": ("t.npz", lambda p: np.savez(p, other=np.ones((3, 4))), "ids"),
    "not a zip": ("t.npz", lambda p: p.write_text("hello"), ""),
    "fractions": ("t.npy", lambda p: np.save(p, np.ones((3, 4))), "float64"),
    "not parquet": ("t.parquet", lambda p: p.write_text("hello"), ""),
    "negative rows": ("t.ivecs", lambda p: p.write_bytes(struct.pack("<ii", -1, 3)), ""),
    "other queries": (
        "t.ibin",
        lambda p: p.write_bytes(struct.pack("<II", 3, 10) + bytes(120)),
        "3.*300|300.*3",
    ),
    "too few neighbours": (
        "t.ibin",
        lambda p: p.write_bytes(struct.pack("<II", 300, 2) + bytes(2400)),
        "2.*10|10.*2",
    ),
}


@pytest.mark.parametrize("case", TRUTHS)
def test_ground_truth_that_cannot_be_read(case: str, prepared: Path, tmp_path: Path) -> None:
    name, write, words = TRUTHS[case]
    write(tmp_path / name)
    message = fails("eval", prepared / "i", prepared / "good.fbin", tmp_path / name, "-k", "10")
    if case not in ("other queries", "too few neighbours"):
        assert str(tmp_path / name) in message
    assert re.search(words, message), message


def test_bad_ground_truth_commands(prepared: Path, tmp_path: Path) -> None:
    good, out = prepared / "good.fbin", tmp_path / "gt.ibin"
    narrow = write_fbin(tmp_path / "narrow.fbin", clustered(5, 7))
    nan = write_fbin(tmp_path / "nan.fbin", with_value(np.nan))
    assert "k is 0" in fails("groundtruth", good, good, "--out", out, "-k", "0")
    assert "300" in fails("groundtruth", good, good, "--out", out, "-k", "301")
    assert "7" in fails("groundtruth", good, narrow, "--out", out, "-k", "1")
    assert "l7" in fails("groundtruth", good, good, "--out", out, "-k", "1", "--metric", "l7")
    assert ".txt" in fails("groundtruth", good, good, "--out", tmp_path / "t.txt")
    assert "QUERIES" in fails("groundtruth", good, "--out", out)
    assert "row 123" in fails("groundtruth", nan, good, "--out", out, "-k", "1", "-q")
    assert "needs" in fails("groundtruth", good, good, "--out", out, "--memory", "1KiB")
    nprobe = fails("eval", prepared / "i", good, good, "--nprobe", "1,x")
    assert "nprobe" in nprobe
    assert sorted(tree(tmp_path)) == ["nan.fbin", "narrow.fbin"]


def test_a_process_says_one_line_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 2 3")
    command = [
        sys.executable,
        "-m",
        "teravec",
        "build",
        str(tmp_path / "x.txt"),
        "--out",
        str(tmp_path / "i"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"teravec: {tmp_path / 'x.txt'}: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "i").exists()


def test_results_replace_no_input(prepared: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", clustered(20, 8))
    (tmp_path / "link.npy").symlink_to("q.npy")
    index, queries, before = prepared / "i", tmp_path / "q.npy", tree(prepared)
    for out in (queries, tmp_path / "link.npy"):
        assert "is one of the input files" in fails("search", index, queries, "-o", out)
        for data in ([prepared / "good.fbin", queries], [queries, prepared / "good.fbin"]):
            assert "is one of the input files" in fails("groundtruth", *data, "-k", 3, "-o", out)
    centroids = index / "model" / "centroids.npy"
    assert "is inside the index" in fails("search", index, queries, "-o", centroids)
    np.testing.assert_array_equal(np.load(queries), clustered(20, 8))
    assert tree(prepared) == before


def test_too_many_lists_are_capped_and_said(prepared: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "teravec",
        "search",
        str(prepared / "i"),
        str(prepared / "good.fbin"),
        "--json",
        "--nprobe",
    ]
    capped, whole = (
        subprocess.run([*command, nprobe], capture_output=True, text=True, check=True)
        for nprobe in ("99", "4")
    )
    assert "nprobe 99 is more than the 4 lists" in capped.stderr
    assert capped.stderr.count("\n") == 1
    assert whole.stderr == ""
    assert capped.stdout == whole.stdout


def test_outputs_that_are_taken(prepared: Path, tmp_path: Path) -> None:
    index, good, before = prepared / "i", prepared / "good.fbin", tree(prepared)
    other = write_fbin(tmp_path / "other.fbin", clustered(300, 8, seed=1))
    build = ["build", good, "--out", index, "--nlist"]
    assert re.search("codec sq8, not sq4", fails(*build, "4", "--codec", "sq4"))
    assert re.search("nlist 4, not 5", fails(*build, "5"))
    assert re.search("seed 1234, not 3", fails(*build, "4", "--seed", "3"))
    assert re.search("shards left to the rules, not 2", fails(*build, "4", "--shards", "2"))
    assert "other vectors" in fails("build", other, "--out", index, "--nlist", "4")
    assert "other vectors" in fails("build", good, other, "--out", index, "--nlist", "4")
    assert "not sq4" in fails("train", good, "--out", index, "--nlist", "4", "--codec", "sq4")
    assert tree(prepared) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "not a teravec build" in fails("build", good, "--out", tmp_path / "mine")
    (tmp_path / "file").write_text("mine")
    assert "file" in fails("build", good, "--out", tmp_path / "file")
    assert "file" in fails("build", good, "--out", tmp_path / "file" / "below")
    assert tree(tmp_path) == {
        "mine": None,
        "mine/letter.txt": b"dear",
        "file": b"mine",
        "other.fbin": other.read_bytes(),
    }


# Works as root once, so that every module is loaded, and then as nobody: another user may not
# be able to read this installation.
_AS_NOBODY = """
import json, os, sys
from typer.testing import CliRunner
import teravec
from teravec.cli.main import app
commands = json.load(sys.stdin)
for command in commands["first"]:
    assert CliRunner().invoke(app, command).exit_code in (0, 1, 2)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
results = []
for command in commands["then"]:
    result = CliRunner().invoke(app, command)
    results.append([result.exit_code, result.stderr, repr(result.exception)])
for data, out in commands["build"]:  # by the function, which has no command line to catch it
    try:
        teravec.build(data, out, nlist=4)
    except Exception as error:
        exit_code = getattr(error, "exit_code", 1)
        results.append([exit_code, f"teravec: {error}\\n", repr(error)])
print(json.dumps(results))
"""


def as_nobody(
    first: list[list[str]], then: list[list[str]], build: list[list[str]]
) -> list[tuple[int, str, str]]:
    """Run commands as root, and then others, and ``teravec.build``, as a user without rights."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY],
        input=json.dumps({"first": first, "then": then, "build": build}),
        capture_output=True,
        text=True,
        check=True,
        # Root's cache of measurements is closed to others; opening an index would say so.
        env={**os.environ, "TERAVEC_CACHE_DIR": "/nonexistent"},
    )
    return [(code, errors, exception) for code, errors, exception in json.loads(done.stdout)]


def without_permission(root: Path) -> dict[str, list[str]]:
    """Commands that nobody has the right to, by what they may not do."""
    good = str(write_fbin(root / "good.fbin", clustered(300, 8)))
    for name in ("closed", "unreadable"):
        (root / name).mkdir()
    shutil.copy(good, root / "closed" / "good.fbin")
    shutil.copy(good, root / "unreadable" / "good.fbin")
    (root / "unreadable" / "good.fbin").chmod(0)
    (root / "closed").chmod(0o700)
    return {
        "make the output": ["build", good, "--out", f"{root}/i", "-q"],
        "read the source": ["build", f"{root}/unreadable/good.fbin", "--out", f"{root}/i", "-q"],
        "write into an index": ["build", good, "--out", f"{root}/trained", "--nlist", "4", "-q"],
        "write a result": ["search", f"{root}/index", good, "--out", f"{root}/r.npz"],
        "export": ["export-faiss", f"{root}/index", f"{root}/x.faiss", "-q"],
        "read a model": ["search", f"{root}/sealed", good],
        "see the output": ["build", good, "--out", f"{root}/closed/i", "-q"],
        "see the source": ["build", f"{root}/closed/good.fbin", "--out", f"{root}/i", "-q"],
        "see the index": ["search", f"{root}/closed/i", good],
        "see the export": ["export-faiss", f"{root}/index", f"{root}/closed/x.faiss", "-q"],
        "see the result": ["search", f"{root}/index", good, "--out", f"{root}/closed/r.npz"],
        "see the ground truth": ["eval", f"{root}/index", good, f"{root}/closed/t.ibin"],
    }


ALLOWED_TO_ROOT = (
    "make the output",
    "read the source",
    "write into an index",
    "write a result",
    "export",
    "read a model",
    "see the output",
    "see the source",
    "see the index",
    "see the export",
    "see the result",
    "see the ground truth",
    "function: make the output",
    "function: see the output",
    "function: see the source",
)


@pytest.fixture(scope="module")
def refusals() -> Iterator[dict[str, tuple[int, str, str, str]]]:
    """What each command that nobody has the right to says, and the directory it was about."""
    # Not below pytest's own directory: other users cannot enter that.
    root = Path(tempfile.mkdtemp(prefix="teravec-test-"))
    root.chmod(0o755)
    try:
        commands, good = without_permission(root), str(root / "good.fbin")
        first = [
            ["build", good, "--out", str(root / name), "--nlist", "4", "-q"]
            for name in ("index", "sealed")
        ]
        first += [
            ["train", good, "--out", str(root / "trained"), "--nlist", "4", "-q"],
            ["search", str(root / "index"), good, "--out", str(root / "mine.npz")],
        ]
        for command in first:
            assert runner.invoke(app, command).exit_code == 0
        (root / "sealed" / "model" / "codec.npy").chmod(0)
        before = tree(root)
        builds = {
            "function: make the output": [good, f"{root}/i"],
            "function: see the output": [good, f"{root}/closed/i"],
            "function: see the source": [f"{root}/closed/good.fbin", f"{root}/i"],
        }
        results = as_nobody(first, list(commands.values()), list(builds.values()))
        assert tree(root) == before
        names = [*commands, *builds]
        yield {what: (*result, str(root)) for what, result in zip(names, results, strict=True)}
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("what", ALLOWED_TO_ROOT)
def test_no_permission(what: str, refusals: dict[str, tuple[int, str, str, str]]) -> None:
    code, errors, exception, root = refusals[what]
    assert code == 2, exception
    assert re.fullmatch(rf"teravec: [^\n]*{root}[^\n]*no permission[^\n]*\n", errors)
