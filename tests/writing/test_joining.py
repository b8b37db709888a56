"""Many small additions: a bounded number of layers and delete sets, and the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.index.manifest import read_manifest
from teravec.index.pending import begin_change
from teravec.storage.layout import IndexPaths
from teravec.writing import joining
from teravec.writing.joining import plan_joining
from tests.conftest import clustered
from tests.writing.test_compacting import layered

ROWS = clustered(500, 8, seed=3)
BASE = 300


@pytest.fixture
def index(tmp_path: Path) -> Path:
    out = tmp_path / "index"
    ids = np.arange(BASE)
    teravec.build(
        ROWS[:BASE], out, ids=ids, nlist=8, niter=2, codec="flat", sample=200, calibrate=False
    )
    teravec.calibrate(out, data=ROWS[:BASE], ids=ids, nqueries=20, ks=(1, 5))
    return out


def test_many_additions_leave_few_layers(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "LEAST_ROWS", 4)
    rng, rows = np.random.default_rng(1), dict(enumerate(ROWS[:BASE]))
    for number in range(40):
        ids = rng.choice(400, 3, replace=False)
        some = ROWS[rng.integers(BASE, len(ROWS), 3)]
        assert teravec.add(index, some, ids=ids).what == "add 3 rows"
        rows |= dict(zip(ids.tolist(), some, strict=True))
        if number % 9 == 4:
            gone = rng.choice(sorted(rows), 5, replace=False)
            teravec.delete(index, gone)
            for id_ in gone.tolist():
                del rows[id_]
    manifest = read_manifest(IndexPaths(index))
    assert len(manifest.layers) <= 1 + 2 * 8
    assert len(manifest.deletes) <= len(manifest.layers) + 6
    teravec.verify(index)
    with teravec.open(index) as opened:
        distances, ids = opened.search(ROWS[:4], len(rows) + 9, nprobe=8)
    there = np.array(sorted(rows))
    for query, found, far in zip(ROWS[:4], ids, distances, strict=True):
        kept = found[found >= 0]
        assert sorted(kept.tolist()) == there.tolist()
        squares = [((rows[i] - query) ** 2).sum() for i in kept.tolist()]
        np.testing.assert_allclose(far[: len(kept)], squares, rtol=1e-4, atol=1e-4)
    teravec.calibrate(index, ks=(1, 5))
    teravec.vacuum(index, older_than="0s")
    teravec.verify(index)


def test_a_compaction_that_is_going_on_is_left_alone(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = IndexPaths(index)
    built = [segment.file for segment in read_manifest(paths).segments]
    with begin_change(paths, {"compact": built, "deletes": [], "model": ""}, lambda _: False):
        for number in range(9):
            teravec.add(index, ROWS[BASE : BASE + 2], ids=[1000 + number, 2000 + number])
        assert len(read_manifest(paths).layers) == 10
    teravec.add(index, ROWS[BASE : BASE + 2], ids=[9000, 9001])
    assert len(read_manifest(paths).layers) == 2


def test_a_killed_joining_does_not_stop_later_ones(index: Path) -> None:
    paths = IndexPaths(index)
    for number in range(5):
        teravec.add(index, ROWS[BASE : BASE + 2], ids=[1000 + number, 2000 + number])
    few = [segment.file for segment in read_manifest(paths).segments[-3:]]
    for segments in (few, ["segments/gone-00000.lists"]):
        content = {"compact": segments, "deletes": [], "model": ""}
        with pytest.raises(KeyboardInterrupt), begin_change(paths, content, lambda _: False):
            raise KeyboardInterrupt
    for number in range(4):
        teravec.add(index, ROWS[BASE : BASE + 2], ids=[3000 + number, 4000 + number])
    assert len(read_manifest(paths).layers) == 3


def test_layers_of_one_class_are_joined() -> None:
    def joined(*rows: int) -> int:
        return len(plan_joining(layered(*rows)))

    assert joined(1000) == joined(1000, 5) == joined(9000, *[10] * 7) == 0
    assert joined(9000, *[10] * 8) == 8
    assert joined(100_000, *[8000] * 7, *[1000] * 8) == 15
    assert joined(100_000, *[8000] * 6, *[1000] * 8) == 8
    assert joined(100_000, *[1000] * 7, 5000) == 8
    large = layered(100_000, *[1000] * 8)
    grown = tuple(replace(each, size=4 << 20) for each in large.segments)
    assert plan_joining(replace(large, segments=grown)) == ()
