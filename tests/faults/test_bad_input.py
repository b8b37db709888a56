"""Bad input: one line that says what was found, exit code 2, and nothing written."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from teravec.cli.main import app
from tests.conftest import clustered, write_fbin

runner = CliRunner()


def fails(*arguments: str | Path, code: int = 2) -> str:
    """Run a command that must fail in one line; return the line."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("teravec: ")
    assert not isinstance(result.exception, Exception)
    return lines[0]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_fbin(tmp_path / "good.fbin", clustered(300, 8))


def with_value(value: float) -> np.ndarray:
    vectors = clustered(300, 8)
    vectors[123, 4] = value
    return vectors


def short_header(path: Path) -> None:
    path.write_bytes(struct.pack("<II", 1000, 8) + clustered(300, 8).tobytes())


SOURCES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "unknown extension": ("x.txt", lambda p: p.write_text("1 2 3"), "txt"),
    "wrong header": ("x.fbin", short_header, "1,?000"),
    "huge header": (
        "x.fbin", lambda p: p.write_bytes(struct.pack("<II", 2**32 - 1, 2**31)), "x.fbin",
    ),
    "NaN": ("x.fbin", lambda p: write_fbin(p, with_value(np.nan)), "row 123"),
    "infinite": ("x.npy", lambda p: np.save(p, with_value(np.inf)), "row 123"),
    "empty": ("x.npy", lambda p: np.save(p, np.empty((0, 8), np.float32)), "empty|no rows|0 rows"),
    "no file": ("x.npy", lambda p: None, "no such file"),
    "objects": ("x.npy", lambda p: np.save(p, np.array([[{}]]), allow_pickle=True), "object|dtype"),
    "torn": ("x.npy", lambda p: p.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'"), "x.npy"),
}  # fmt: skip


@pytest.mark.parametrize("case", SOURCES)
def test_bad_sources(case: str, tmp_path: Path) -> None:
    name, write, words = SOURCES[case]
    write(tmp_path / name)
    message = fails("build", tmp_path / name, "--out", tmp_path / "i", "--nlist", "4")
    assert name in message
    assert re.search(words, message), message
    left = [p for p in (tmp_path / "i").rglob("*") if p.is_file() and p.suffix == ".lists"]
    assert not left
    assert not (tmp_path / "i" / "manifest.json").exists()


def test_mixed_dimensions(good: Path, tmp_path: Path) -> None:
    narrow = write_fbin(tmp_path / "narrow.fbin", clustered(50, 7))
    message = fails("build", good, narrow, "--out", tmp_path / "i")
    assert "narrow.fbin" in message
    assert "7" in message
    assert "8" in message
    assert not (tmp_path / "i").exists()


OPTIONS = [
    (["--nlist", "301"], "301"),
    (["--nlist", "0"], "nlist"),
    (["--nlist", "some"], "nlist"),
    (["--nlist", "50", "--sample", "40"], "40"),
    (["--codec", "zip"], "zip"),
    (["--codec", "pq3"], "divisible by 3"),
    (["--codec", "rabitq9"], "rabitq9"),
    (["--metric", "l7"], "l7"),
    (["--transform", "pca9"], "pca9"),
    (["--transform", "twist"], "twist"),
    (["--memory", "lots"], "lots"),
    (["--memory", "1MiB"], "needs"),
    (["--niter", "0"], "niter"),
    (["--seed", "-1"], "seed"),
    (["--shards", "0"], "shards"),
    (["--slices", "0"], "slices"),
    (["--nlist", "3", "--slices", "4"], "slices"),
    (["--threads", "-1"], "threads"),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS, ids=[" ".join(o) for o, _ in OPTIONS])
def test_bad_options(options: list[str], words: str, good: Path, tmp_path: Path) -> None:
    assert words in fails("build", good, "--out", tmp_path / "i", *options)
    assert not (tmp_path / "i" / "model").exists()
    assert not (tmp_path / "i" / "manifest.json").exists()


@pytest.fixture
def index(good: Path, tmp_path: Path) -> Path:
    result = runner.invoke(app, ["build", str(good), "--out", str(tmp_path / "i"), "--nlist", "4"])
    assert result.exit_code == 0, result.output
    return tmp_path / "i"


def test_bad_searches(index: Path, good: Path, tmp_path: Path) -> None:
    narrow = write_fbin(tmp_path / "narrow.fbin", clustered(5, 7))
    truth = tmp_path / "truth.ibin"
    truth.write_bytes(struct.pack("<II", 9, 9))
    assert "k is 0" in fails("search", index, good, "-k", "0")
    assert "k is 301" in fails("search", index, good, "-k", "301")
    assert "nprobe is 0" in fails("search", index, good, "--nprobe", "0")
    assert "(nq, 8) expected" in fails("search", index, narrow)
    assert "radius" in fails("range-search", index, good, "--radius", "nan")
    assert ".txt" in fails("search", index, good, "--out", tmp_path / "r.txt")
    assert "no directory" in fails("search", index, good, "--out", tmp_path / "no" / "r.npz")
    assert "truth.ibin" in fails("eval", index, good, truth)
    assert "no teravec index" in fails("search", tmp_path, good, code=1)
    assert "exists" in fails("export-faiss", index, good)


def test_too_many_lists_are_capped_and_said(index: Path, good: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "teravec", "search", str(index), str(good), "--nprobe", "99",
         "--json"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "nprobe 99 is more than the 4 lists" in done.stderr


def test_outputs_that_are_taken(index: Path, good: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in index.rglob("*") if p.is_file()}
    other = write_fbin(tmp_path / "other.fbin", clustered(300, 8, seed=1))
    assert "codec" in fails("build", good, "--out", index, "--nlist", "4", "--codec", "sq4")
    assert "other vectors" in fails("build", other, "--out", index, "--nlist", "4")
    assert {p: p.read_bytes() for p in index.rglob("*") if p.is_file()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "not a teravec build" in fails("build", good, "--out", tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    (tmp_path / "file").write_text("mine")
    assert "file" in fails("build", good, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_no_permission(good: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        directory.chmod(0o755)
    command = [sys.executable, "-m", "teravec", "build", str(good), "--out", str(closed / "i")]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, user=65534, cwd="/"
        )
    except PermissionError:
        pytest.skip("another user cannot run this installation's Python")
    if "No module named" in done.stderr:
        pytest.skip("another user cannot read this installation")
    assert done.returncode == 2, done.stderr
    assert "no permission" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(closed.iterdir()) == []
