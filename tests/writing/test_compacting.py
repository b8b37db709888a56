"""Compaction changes no result, and leaves out what is deleted."""

from __future__ import annotations

import multiprocessing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.segments.segment import Segment
from teravec.writing.compacting import plan_compaction
from tests.writing.conftest import BASE, CODECS, NLIST, QUERIES, ROWS, MakeIndex
from tests.writing.test_adding import Found, all_lists, brute_force


def change(out: Path) -> None:
    """Add in pieces, delete some of all."""
    for start in range(BASE, 3000, 250):
        teravec.add(out, ROWS[start : start + 250])
        teravec.delete(out, np.arange(0, start, 11) + start % 7)


def found(path: Path) -> list[Found]:
    results = [all_lists(path)]
    with teravec.open(path) as index:
        results.append(index.search(QUERIES, 12, nprobe=6))
        results.append(index.search(QUERIES[3], 2500, nprobe=NLIST))
    return results


@pytest.mark.parametrize("codec", CODECS)
def test_results_stay(index_of: MakeIndex, codec: str) -> None:
    out = index_of(codec)
    change(out)
    before = found(out)
    visible = sum(int((ids >= 0).sum()) for _, ids in before[2:])
    manifest = teravec.compact(out, full=True, memory="64MiB")
    assert manifest is not None
    assert (len(manifest.layers), manifest.deletes, manifest.ntotal) == (1, (), visible)
    teravec.verify(out)
    for mine, theirs in zip(found(out), before, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    assert teravec.compact(out, full=True) is None


def test_rows_go_on_to_be_found_and_deleted(index_of: MakeIndex) -> None:
    out = index_of()
    teravec.add(out, ROWS[BASE:2500])
    teravec.compact(out, full=True)
    teravec.add(out, ROWS[2500:])
    teravec.delete(out, np.arange(2400, 2600))
    kept = np.setdiff1d(np.arange(3000), np.arange(2400, 2600))
    assert (all_lists(out)[1] == brute_force(kept)).all()
    teravec.compact(out, full=True)
    assert (all_lists(out)[1] == brute_force(kept)).all()


def test_a_replaced_row_does_not_come_back(index_of: MakeIndex) -> None:
    out = index_of(ids=True)
    for start in (BASE, BASE + 100, BASE + 200):
        teravec.add(out, ROWS[start : start + 100], ids=10 * np.arange(100))
        teravec.compact(out)
    before = all_lists(out, BASE)
    teravec.compact(out, full=True)
    for one, other in zip(all_lists(out, BASE), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(len(set(row.tolist())) == BASE for row in before[1])


def test_what_is_deleted_leaves_the_disk(index_of: MakeIndex) -> None:
    out = index_of()
    gone = ROWS[77].tobytes()
    assert any(gone in path.read_bytes() for path in out.rglob("*") if path.is_file())
    teravec.delete(out, [77])
    teravec.compact(out, purge=True)
    assert not any(gone in path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert not list((out / "slices").glob("*"))
    teravec.verify(out)


def _add_and_delete(path: Path) -> None:
    for start in range(2200, 2600, 100):
        teravec.add(path, ROWS[start : start + 100])
        teravec.delete(path, [start, start - 2000])


def test_changes_beside_a_compaction_stay(index_of: MakeIndex) -> None:
    out = index_of()
    teravec.add(out, ROWS[BASE:2200])
    writer = multiprocessing.get_context("spawn").Process(target=_add_and_delete, args=(out,))
    writer.start()
    while writer.is_alive():
        teravec.compact(out, full=True)
    writer.join()
    assert writer.exitcode == 0
    gone = [*range(2200, 2600, 100), *range(200, 600, 100)]
    kept = np.setdiff1d(np.arange(2600), gone)
    assert (all_lists(out)[1] == brute_force(kept)).all()
    teravec.compact(out, full=True)
    teravec.vacuum(out, older_than=timedelta(0))
    assert (all_lists(out)[1] == brute_force(kept)).all()


def test_a_compaction_that_another_overtook(index_of: MakeIndex) -> None:
    out = index_of()
    teravec.add(out, ROWS[BASE:])
    teravec.compact(out, full=True)
    teravec.rollback(out, 1)
    assert teravec.compact(out, full=True) is not None
    assert (all_lists(out)[1] == brute_force(np.arange(3000))).all()


def layered(*rows: int) -> teravec.Manifest:
    """A manifest of layers of so many rows."""
    segments = tuple(
        Segment(f"segments/{i}.lists", (0, 10), n, n, str(i), sequences=(i, i))
        for i, n in enumerate(rows)
    )
    return teravec.Manifest(
        creator="",
        d=1,
        ntotal=sum(rows),
        nlist=10,
        code_size=1,
        metric="l2",
        transform="none",
        codec="sq8",
        model="",
        files={},
        segments=segments,
        source={},
        number=len(rows) - 1,
    )


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        ((1000,), None),
        ((1000, 10), None),  # the build is not written again for one row in a hundred
        ((1000, 10, 10), 1),
        ((1000, 100, 10), None),
        ((1000, 100, 10, 10), 1),
        ((1000, 200), 0),
        ((1 << 30, 1 << 26, 1 << 22, 1 << 18, 1 << 14), 3),  # a query reads four runs a list
    ],
)
def test_which_layers_are_joined(rows: tuple[int, ...], first: int | None) -> None:
    manifest = layered(*rows)
    chosen = plan_compaction(manifest)
    assert chosen == (() if first is None else manifest.segments[first:])


def test_runs_of_a_list_stay_few_and_little_is_written() -> None:
    written, rows = 0, [10_000]
    for _ in range(300):
        rows.append(100)
        chosen = plan_compaction(layered(*rows))
        if chosen:
            kept = len(rows) - len(chosen)
            written += sum(rows[kept:])
            rows = [*rows[:kept], sum(rows[kept:])]
        assert len(rows) <= 5
    assert sum(rows) == 40_000
    assert written < 12 * 40_000
