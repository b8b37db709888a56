"""Rebalancing changes where rows lie, and not which rows there are."""

from __future__ import annotations

import multiprocessing
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

import teravec
from teravec.engines.resources import Resources
from teravec.index.manifest import read_manifest
from teravec.index.pending import list_pending
from teravec.progress import Bar, NoProgress
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile
from teravec.writing.adding import AddOptions, add_rows
from teravec.writing.balance import plan_balance
from teravec.writing.compacting import compact_index
from teravec.writing.rebalancing import rebalance_index
from tests.conftest import clustered
from tests.writing.conftest import CODECS, QUERIES, ROWS, D, MakeIndex

RNG = np.random.default_rng(0)
SKEWED = (ROWS[7] + 0.3 * ROWS.std() * RNG.standard_normal((1500, D))).astype(np.float32)
"""Rows around one of the others: the list that gets them grows out of bounds."""

Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def everything(path: Path, k: int = 4000) -> Found:
    """The nearest of all rows, in all lists."""
    with teravec.open(path) as index:
        exact = {"candidates": index.ntotal} if index.two_stages else {}
        return index.search(QUERIES[:20], k, nprobe=index.nlist, **exact)


def skew(path: Path) -> None:
    teravec.add(path, SKEWED)
    teravec.delete(path, np.arange(0, 3500, 13))


def sizes(path: Path) -> npt.NDArray[np.int64]:
    with teravec.open(path) as index:
        return index.list_sizes


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_flat_finds_the_same(index_of: MakeIndex, metric: str) -> None:
    out = index_of("flat", metric)
    skew(out)
    before, largest = everything(out), int(sizes(out).max())
    manifest = teravec.rebalance(out, memory="128MiB")
    assert manifest is not None
    assert manifest.what.startswith("rebalance: ")
    assert int(sizes(out).max()) < largest / 2
    teravec.verify(out)
    for one, other in zip(everything(out), before, strict=True):
        np.testing.assert_array_equal(one, other)
    with teravec.open(out) as index:
        lims, _, ids = index.range_search(QUERIES[:5], float(before[0][0, 20]), nprobe=index.nlist)
    teravec.rollback(out, 2)
    with teravec.open(out) as index:
        expected = index.range_search(QUERIES[:5], float(before[0][0, 20]), nprobe=index.nlist)
    np.testing.assert_array_equal(lims, expected[0])
    np.testing.assert_array_equal(ids, expected[2])


@pytest.mark.parametrize("codec", CODECS)
def test_every_row_stays_once(index_of: MakeIndex, codec: str) -> None:
    out = index_of(codec)
    skew(out)
    before = everything(out)
    assert teravec.rebalance(out) is not None
    after = everything(out)
    np.testing.assert_array_equal(np.sort(after[1], axis=1), np.sort(before[1], axis=1))
    teravec.compact(out, full=True)
    teravec.verify(out)
    assert [s.voided for s in read_manifest(IndexPaths(out)).segments] == [0]
    for one, other in zip(everything(out), after, strict=True):
        np.testing.assert_array_equal(one, other)


def codes_by_id(path: Path, list_no: int) -> dict[int, bytes]:
    """The codes of a list in all segments, voided ones too, by the ids in the files."""
    found: dict[int, bytes] = {}
    for segment in read_manifest(IndexPaths(path)).segments:
        with ListFile(path / segment.file) as file:
            if segment.lists[0] <= list_no < segment.lists[1]:
                at = list_no - segment.lists[0]
                rows = int(file.starts[at]), int(file.starts[at + 1])
                ids = (file.read_ids(*rows) + segment.id_base).tolist()
                found |= dict(zip(ids, map(bytes, file.read_codes(*rows)), strict=True))
    return found


def test_rows_that_stay_keep_their_codes(index_of: MakeIndex) -> None:
    out = index_of("sq8")
    skew(out)
    with teravec.open(out) as index:
        held, centroids = index.list_sizes, np.array(index.steps.opened.model.centroids)
    before = [codes_by_id(out, list_no) for list_no in range(len(held))]
    manifest = teravec.rebalance(out)
    assert manifest is not None
    with teravec.open(out) as index:
        opened = index.steps.opened
        same = (opened.model.centroids[: len(held)] == centroids).all(1)
        last = len(opened.segments) - 1
        file, seen = opened.segments[last], 0
        for list_no in np.flatnonzero(same).tolist():
            rows = int(file.starts[list_no]), int(file.starts[list_no + 1])
            ids, codes = file.read_ids(*rows).tolist(), file.read_codes(*rows)
            for name, code in zip(ids, codes, strict=True):
                if name in before[list_no]:
                    assert bytes(code) == before[list_no][name]
                    seen += 1
    assert seen > 20


def test_lists_stay_within_bounds_and_none_unused_is_wanted(index_of: MakeIndex) -> None:
    out = index_of()
    skew(out)
    while teravec.rebalance(out) is not None:
        pass
    with teravec.open(out) as index:
        opened, held = index.steps.opened, index.list_sizes
        used = opened.model.used
        assert used is not None
        unused = np.setdiff1d(np.arange(index.nlist), used)
        assert len(unused)
        assert not held[unused].any()
        target = np.sqrt(index.ntotal * 2000) / 24
        assert held.max() <= 4 * target
        found = index.steps.nearest_lists(QUERIES, index.effort(index.nlist, None))[1]
        assert sorted(found[0][found[0] >= 0].tolist()) == used.tolist()
        assert np.isin(found, [-1, *used]).all()
    teravec.add(out, ROWS[2000:])
    assert not sizes(out)[unused].any()


def test_numbers_are_used_again(index_of: MakeIndex) -> None:
    out = index_of()
    nlists = []
    for start in range(0, 1500, 500):
        centre = ROWS[start]
        rows = centre + 0.3 * ROWS.std() * RNG.standard_normal((900, D))
        teravec.add(out, rows.astype(np.float32))
        while teravec.rebalance(out) is not None:
            pass
        with teravec.open(out) as index:
            used = index.steps.opened.model.used
            nlists.append((index.nlist, index.nlist if used is None else len(used)))
    assert nlists[-1][0] - nlists[-1][1] < 8  # numbers that no list has
    before = everything(out)
    teravec.compact(out, full=True)
    for one, other in zip(everything(out), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_max_list_bytes(index_of: MakeIndex) -> None:
    out = index_of("sq8")
    assert teravec.rebalance(out, max_list_bytes="2KiB") is not None
    assert sizes(out).max() * (D + 8) <= 2048 * 1.5


class Between(NoProgress):
    """Calls a function when a stage begins, once."""

    def __init__(self, stage: str, change: object) -> None:
        self.name, self.change = stage, change

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        if name == self.name:
            self.name = ""
            self.change()  # type: ignore[operator]
        return super().stage(name, total, unit)


def test_what_others_commit_meanwhile_moves_as_well(index_of: MakeIndex) -> None:
    out = index_of("flat", ids=True)
    names = 10 * np.arange(5000, 6500)
    teravec.add(out, SKEWED, ids=names)

    def change() -> None:
        teravec.add(out, SKEWED[:400], ids=names[:400] + 1)
        teravec.add(out, ROWS[2000:2200], ids=names[:200])  # replaces
        teravec.delete(out, names[300:350])

    with Resources(progress=Between("move", change)) as resources:
        manifest = rebalance_index(IndexPaths(out), resources)
    assert manifest is not None
    assert sum(s.voids_through > 0 for s in manifest.segments) >= 2
    after = everything(out)
    teravec.verify(out)
    teravec.rollback(out, manifest.number - 1)
    for one, other in zip(after, everything(out), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_addition_that_a_rebalance_overtakes(index_of: MakeIndex) -> None:
    out = index_of("sq8")
    teravec.add(out, SKEWED)
    before = everything(out, 3600)[1]
    with Resources(progress=Between("encode", lambda: teravec.rebalance(out))) as resources:
        manifest = add_rows(IndexPaths(out), ROWS[2000:2050], AddOptions(), resources)
    assert manifest.what == "add 50 rows"
    assert manifest.model_path != "model"
    teravec.verify(out)
    found = everything(out, 3600)[1]
    assert (np.sort(found, axis=1)[:, -3550:] == np.arange(3550)).all()
    assert before.shape == found.shape
    assert not list_pending(IndexPaths(out))
    teravec.vacuum(out, older_than=timedelta(0))
    named = {s.file for s in read_manifest(IndexPaths(out)).segments}
    assert {f"segments/{p.name}" for p in (out / "segments").iterdir()} <= named


@pytest.mark.parametrize("first", ["compact", "rollback", "rebalance"])
def test_the_second_is_discarded(index_of: MakeIndex, first: str) -> None:
    out = index_of()
    skew(out)
    others = {
        "compact": lambda: teravec.compact(out, full=True),
        "rollback": lambda: teravec.rollback(out, 1),
        "rebalance": lambda: teravec.rebalance(out, max_list_bytes="8KiB"),
    }
    with (
        Resources(progress=Between("move", others[first])) as resources,
        pytest.raises(teravec.OutputExists, match="rebalance again"),
    ):
        rebalance_index(IndexPaths(out), resources)
    before = everything(out)
    assert teravec.rebalance(out) is not None or first == "rebalance"
    for one, other in zip(everything(out), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_compaction_that_a_rebalance_overtakes(index_of: MakeIndex) -> None:
    out = index_of()
    skew(out)
    with (
        Resources(progress=Between("compact", lambda: teravec.rebalance(out))) as resources,
        pytest.raises(teravec.OutputExists, match="compact again"),
    ):
        compact_index(IndexPaths(out), resources, full=True)
    before = everything(out)
    teravec.compact(out, full=True)
    for one, other in zip(everything(out), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_compaction_during_which_rows_come_back(index_of: MakeIndex) -> None:
    out = index_of()
    before = everything(out)
    teravec.delete(out, np.arange(0, 2000, 5))
    with (
        Resources(progress=Between("compact", lambda: teravec.rollback(out, 0))) as resources,
        pytest.raises(teravec.OutputExists, match="compact again"),
    ):
        compact_index(IndexPaths(out), resources, full=True)
    for one, other in zip(everything(out), before, strict=True):
        np.testing.assert_array_equal(one, other)


def _add_and_delete(path: Path) -> None:
    for start in range(2000, 2600, 100):
        teravec.add(path, ROWS[start : start + 100])
        teravec.delete(path, [start, start - 1500])


def test_beside_another_process(index_of: MakeIndex) -> None:
    out = index_of()
    writer = multiprocessing.get_context("spawn").Process(target=_add_and_delete, args=(out,))
    writer.start()
    while writer.is_alive():
        teravec.rebalance(out, max_list_bytes="6KiB")
    writer.join()
    assert writer.exitcode == 0
    gone = [*range(2000, 2600, 100), *range(500, 1100, 100)]
    kept = np.setdiff1d(np.arange(2600), gone)
    squares = ((QUERIES[:20, None].astype(np.float64) - ROWS[kept][None]) ** 2).sum(-1)
    expected = kept[np.argsort(squares, axis=1)[:, :10]]
    assert (everything(out, 10)[1] == expected).all()
    teravec.verify(out)


def test_columns_go_along(tmp_path: Path) -> None:
    table = pa.table({"v": ROWS[:2000].tolist(), "name": [f"row {i}" for i in range(2000)]})
    out = tmp_path / "index"
    teravec.build(table, out, nlist=24, codec="sq8", calibrate=False, columns=["name"])
    more = pa.table({"v": SKEWED.tolist(), "name": [f"row {i + 2000}" for i in range(1500)]})
    teravec.add(out, more)
    assert teravec.rebalance(out, memory="96MiB") is not None
    teravec.verify(out)
    teravec.rebalance(out, max_list_bytes="8KiB")
    with teravec.open(out) as index:
        _, ids = index.search(QUERIES[:5], 40, nprobe=index.nlist, filter="name < 'row 2'")
    assert all(name == -1 or str(name) < "2" for name in ids.ravel().tolist())
    assert (ids[:, 9] >= 0).all()
    teravec.compact(out, full=True)
    with teravec.open(out) as index:
        opened = index.steps.opened
        (file,), (columns,) = opened.segments, [s.columns for s in opened.open_segments]
        ids = file.read_ids(0, file.header.ntotal)
        assert columns is not None
        names = columns.read(0, len(ids))["name"].to_pylist()
    assert names == [f"row {i}" for i in ids.tolist()]
    assert len(set(ids.tolist())) == 3500


def test_parts_of_an_index_are_served(index_of: MakeIndex) -> None:
    out = index_of("sq8")
    skew(out)
    teravec.rebalance(out)
    whole, nlist = everything(out, 10), read_manifest(IndexPaths(out)).nlist
    found = []
    for lists in ((0, 9), (9, nlist)):
        with teravec.open(out, lists=lists) as part:
            steps = part.steps
            prepared, list_nos, distances = steps.nearest_lists(
                QUERIES[:20], part.effort(nlist, None)
            )
            mine = np.where(steps.opened.is_open(list_nos), list_nos, -1)
            found.append(steps.search_lists(prepared, mine, distances, 10))
    best = np.concatenate([distances for distances, _ in found], axis=1)
    ids = np.concatenate([names for _, names in found], axis=1)
    order = np.argsort(best, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(np.take_along_axis(ids, order, 1), whole[1])


def test_export(index_of: MakeIndex, tmp_path: Path) -> None:
    out = index_of("flat")
    skew(out)
    teravec.rebalance(out)
    with pytest.raises(teravec.InvalidArgument, match="compact INDEX --full"):
        teravec.export_faiss(out, tmp_path / "x.faiss")
    teravec.compact(out, full=True)
    teravec.export_faiss(out, tmp_path / "x.faiss")
    exported = faiss.read_index(str(tmp_path / "x.faiss"))
    exported.nprobe = 5
    with teravec.open(out) as index:
        used = index.steps.opened.model.used
        assert used is not None
        assert exported.nlist == len(used)
        _, ids = index.search(QUERIES, 10, nprobe=5)
    assert (exported.search(QUERIES, 10)[1] == ids).all()


@pytest.mark.parametrize("kind", ["voided", "models"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found(index_of: MakeIndex, kind: str, damage: str) -> None:
    out = index_of()
    skew(out)
    teravec.rebalance(out)
    for path in sorted((out / kind).rglob("*.*")):
        data = path.read_bytes()
        if damage == "remove":
            path.unlink()
        else:
            cut = data[: len(data) // 2] if damage == "cut" else bytearray(data)
            if isinstance(cut, bytearray):
                cut[len(cut) // 2] ^= 4
            path.write_bytes(cut)
        with pytest.raises(teravec.TeravecError, match=path.name.replace(".", r"\.")):
            teravec.verify(out)
        path.write_bytes(data)
    teravec.verify(out)


def test_vacuum_and_rollback_know_models(index_of: MakeIndex) -> None:
    out = index_of()
    skew(out)
    before = everything(out)
    teravec.rebalance(out)
    teravec.rollback(out, 2)
    for one, other in zip(everything(out), before, strict=True):
        np.testing.assert_array_equal(one, other)
    teravec.vacuum(out, older_than=timedelta(0))
    assert not (out / "models").exists()
    assert not (out / "voided").exists()
    manifest = teravec.rebalance(out)
    assert manifest is not None
    teravec.vacuum(out, older_than=timedelta(0))
    assert len(list((out / "models").iterdir())) == 1
    assert not (out / "model").exists()
    teravec.verify(out)
    teravec.compact(out, full=True)
    teravec.vacuum(out, older_than=timedelta(0))
    assert not (out / "voided").exists()
    for one, other in zip(everything(out), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_plan_is_made_of_sizes() -> None:
    held = np.array([100, 100, 900, 10, 0, 100])
    plan = plan_balance(held, np.arange(6), 100.0, 24, None)
    assert plan.parts == {2: 9}
    assert plan.small == (4, 3)
    assert plan.cost > 3 * plan.cost_after
    assert plan_balance(held, np.array([0, 1, 5]), 100.0, 24, None).parts == {}
    assert plan_balance(held, np.arange(6), 100.0, 24, 24 * 99).parts.keys() == {0, 1, 2, 5}


def test_nothing_to_do(index_of: MakeIndex, tmp_path: Path) -> None:
    same = np.ones((300, 4), np.float32)
    rows = np.concatenate([clustered(100, 4), same])
    teravec.build(rows, tmp_path / "same", nlist=8, codec="flat", calibrate=False)
    for _ in range(4):
        teravec.rebalance(tmp_path / "same")
    assert teravec.rebalance(tmp_path / "same") is None  # equal rows cannot be split
    assert not list_pending(IndexPaths(tmp_path / "same"))
