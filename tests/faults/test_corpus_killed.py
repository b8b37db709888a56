"""Killing a search of many queries: a rerun goes on, and the result has the same bytes."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import clustered, write_fbin
from tests.faults.conftest import Commands, interrupt, tree

KILLED = -signal.SIGKILL
QUERIES = 15_000
# About 3,000 queries a batch.
MEMORY = ["--memory", "12MiB", "--threads", "2", "-q"]


@pytest.fixture(scope="module")
def data(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an index and its queries."""
    root = tmp_path_factory.mktemp("corpus-killed")
    vectors = clustered(20_000 + QUERIES, 16)
    write_fbin(root / "x.fbin", vectors[:20_000])
    write_fbin(root / "q.fbin", vectors[20_000:])
    arguments = ["build", root / "x.fbin", "--out", root / "i", "--nlist", "64", "--niter", "3"]
    assert commands.run(*arguments, "-q") == 0
    return root


def search(data: Path, out: Path, kind: str) -> list[object]:
    """Arguments of the search that is killed here."""
    question = ["search", data / "i", data / "q.fbin", "-k", "10"]
    if kind == "radius":
        question = ["range-search", data / "i", data / "q.fbin", "--radius", "9"]
    return [*question, "--nprobe", "4", "--out", out, *MEMORY]


@pytest.mark.parametrize(
    ("kind", "extension"), [("k", ".bin"), ("k", ".parquet"), ("radius", ".parquet")]
)
def test_killed_often(
    kind: str, extension: str, commands: Commands, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, out = tmp_path / "whole" / f"r{extension}", tmp_path / "killed" / f"r{extension}"
    started = time.monotonic()
    assert commands.run(*search(data, whole, kind)) == 0
    longest = 0.5 * (time.monotonic() - started)
    partial, rng, kills = out.with_name(out.name + ".partial"), random.Random(7), 0
    for name in (partial, partial / "search.json", out.with_name(out.name + ".tmp")):
        code = commands.run(*search(data, out, kind), kill_at=name)
        assert code in (0, KILLED)
        kills += code == KILLED
    out.unlink(missing_ok=True)
    for _ in range(40):
        code = commands.run(*search(data, out, kind), kill_after_s=rng.uniform(0.02, longest))
        if code == 0:
            break
        assert code == KILLED
        kills += 1
    else:
        assert commands.run(*search(data, out, kind)) == 0
    assert kills >= 3
    assert tree(out.parent) == tree(whole.parent)  # the file, and no parts


def test_interrupt_leaves_a_resumable_search(
    commands: Commands, data: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "r.ibin", tmp_path / "whole.ibin"
    partial = tmp_path / "r.ibin.partial"
    interrupt(search(data, out, "k"), lambda: any(partial.glob("0*.json")))
    assert not list(tmp_path.rglob("*.tmp"))
    sealed = tree(partial)
    assert commands.run(*search(data, out, "k"), kill_at=out.with_name("r.ibin.tmp")) in (0, KILLED)
    if partial.exists():  # parts that were there were not searched again
        assert {name: data for name, data in tree(partial).items() if name in sealed} == sealed
        assert commands.run(*search(data, out, "k")) == 0
    assert commands.run(*search(data, whole, "k")) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not partial.exists()
