"""Killing a change at any instant: nothing is half there, and a rerun ends it once."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.conftest import clustered, write_fbin
from tests.faults.conftest import Commands
from tests.faults.test_kill import KILLED, finish_under_kills

BASE, MORE = 4000, 20_000


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index, and beside it more rows to add."""
    folder = tmp_path_factory.mktemp("changes")
    vectors = clustered(BASE + MORE, 32)
    write_fbin(folder / "more.fbin", vectors[BASE:])
    teravec.build(vectors[:BASE], folder / "index", nlist=64, codec="rabitq1+sq8", calibrate=False)
    return folder / "index"


def added_rows(path: Path) -> int:
    """Rows beside those of the build; the index must be sound."""
    teravec.verify(path)
    with teravec.open(path) as opened:
        ids = opened.search(clustered(4, 32, seed=9), 10, nprobe=64)[1]
        assert (ids >= 0).all()
        assert (ids < opened.ntotal).all()
        return opened.ntotal - BASE


def test_additions_killed_at_any_time(commands: Commands, index: Path, tmp_path: Path) -> None:
    rng, more = random.Random(1), index.with_name("more.fbin")
    started = time.monotonic()
    shutil.copytree(index, tmp_path / "first")
    assert commands.run("add", tmp_path / "first", more, "-q") == 0
    seconds = time.monotonic() - started
    for attempt in range(4):
        out = tmp_path / f"killed-{attempt}"
        shutil.copytree(index, out)
        code = commands.run("add", out, more, "-q", kill_after_s=rng.uniform(0.1, seconds))
        assert code in (0, KILLED)
        assert added_rows(out) in (0, MORE)
        if added_rows(out) == 0 or list((out / "adding").glob("*.json")):
            finish_under_kills(
                commands, ["add", out, more, "-q"], lambda _: rng.uniform(0.3, seconds), most=4
            )
        assert added_rows(out) == MORE
        assert not list((out / "adding").glob("*.json"))
        with teravec.open(out) as one, teravec.open(tmp_path / "first") as other:
            queries = clustered(20, 32, seed=3)
            for mine, theirs in zip(
                one.search(queries, 20, nprobe=9), other.search(queries, 20, nprobe=9), strict=True
            ):
                np.testing.assert_array_equal(mine, theirs)


def crowd(folder: Path, index: Path) -> Path:
    """Return a copy of the index with a list that has grown out of bounds."""
    out = folder / "crowded"
    shutil.copytree(index, out)
    rows = clustered(BASE, 32)[5] + 0.05 * clustered(MORE // 2, 32, seed=4)
    teravec.add(out, rows.astype(np.float32))
    return out


def test_rebalancing_killed_at_any_time(commands: Commands, index: Path, tmp_path: Path) -> None:
    rng, crowded = random.Random(2), crowd(tmp_path, index)
    first = tmp_path / "first"
    shutil.copytree(crowded, first)
    started = time.monotonic()
    assert commands.run("rebalance", first, "-q") == 0
    seconds = time.monotonic() - started
    with teravec.open(crowded) as opened:
        rows = opened.ntotal
    for attempt in range(3):
        out = tmp_path / f"killed-{attempt}"
        shutil.copytree(crowded, out)
        code = commands.run("rebalance", out, "-q", kill_after_s=rng.uniform(0.1, seconds))
        assert code in (0, KILLED)
        teravec.verify(out)
        assert teravec.versions(out)[-1].number in (1, 2)
        teravec.delete(out, [3]) if attempt == 2 else None  # others go on
        number = teravec.versions(out)[-1].number
        if number == 1 or attempt == 2:
            finish_under_kills(
                commands, ["rebalance", out, "-q"], lambda _: rng.uniform(0.3, seconds), most=3
            )
        teravec.verify(out)
        teravec.vacuum(out, older_than="0s")
        named = {s.file for s in teravec.versions(out)[-1].segments}
        assert {f"segments/{p.name}" for p in (out / "segments").glob("*.lists")} <= named
        with teravec.open(out) as one, teravec.open(first) as other:
            assert one.ntotal in (rows, rows - 1)
            if attempt < 2:
                queries = clustered(20, 32, seed=3)
                for mine, theirs in zip(
                    one.search(queries, 20, nprobe=9),
                    other.search(queries, 20, nprobe=9),
                    strict=True,
                ):
                    np.testing.assert_array_equal(mine, theirs)
