"""Rows that were added are found exactly as if they had been there from the beginning."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import teravec
from teravec.storage.local_store import LocalStore
from tests.writing.conftest import BASE, CODECS, NLIST, QUERIES, ROWS, D, MakeIndex

Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def all_lists(path: Path, k: int = 10) -> Found:
    """Search all lists, and refine all candidates where codes have two stages."""
    with teravec.open(path) as index:
        exact = {"candidates": index.ntotal} if index.two_stages else {}
        return index.search(QUERIES, k, nprobe=NLIST, **exact)


def brute_force(rows: npt.NDArray[np.int64], k: int = 10) -> npt.NDArray[np.int64]:
    """Ids of the nearest among some rows."""
    squares = ((QUERIES[:, None].astype(np.float64) - ROWS[rows][None]) ** 2).sum(-1)
    nearest: npt.NDArray[np.int64] = rows[np.argsort(squares, axis=1)[:, :k]]
    return nearest


def test_all_lists_are_exact(index_of: MakeIndex) -> None:
    out = index_of()
    for start, stop in ((BASE, 2300), (2300, 2301), (2301, 3000)):
        teravec.add(out, ROWS[start:stop])
    assert (all_lists(out)[1] == brute_force(np.arange(len(ROWS)))).all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_pieces_do_not_matter(index_of: MakeIndex, codec: str, metric: str) -> None:
    one = index_of(codec, metric)
    several = one.with_name("several")
    shutil.copytree(one, several)
    teravec.add(one, ROWS[BASE:])
    for start in range(BASE, 3000, 250):
        teravec.add(several, ROWS[start : start + 250])
    for k, options in ((10, {"nprobe": 5}), (3, {"nprobe": NLIST}), (4000, {"nprobe": NLIST})):
        with teravec.open(one) as index, teravec.open(several, memory="64MiB") as other:
            expected = index.search(QUERIES, k, **options)
            for mine, theirs in zip(other.search(QUERIES, k, **options), expected, strict=True):
                np.testing.assert_array_equal(mine, theirs)
            for query, row in zip(QUERIES[:5], expected[1][:5], strict=True):
                np.testing.assert_array_equal(other.search(query, k, **options)[1], row)


def test_ranges_span_segments(index_of: MakeIndex) -> None:
    out = index_of("sq8")
    teravec.add(out, ROWS[BASE:])
    with teravec.open(out) as index:
        lims, distances, ids = index.range_search(QUERIES, 8.0, nprobe=NLIST)
        top, names = index.search(QUERIES, 3000, nprobe=NLIST)
    for i in range(len(QUERIES)):
        part = slice(lims[i], lims[i + 1])
        inside = top[i] < 8.0
        np.testing.assert_array_equal(ids[part], names[i][inside])
        np.testing.assert_allclose(distances[part], top[i][inside], rtol=1e-5)
    assert (ids >= BASE).any()


def test_rows_without_ids_are_numbered_on(index_of: MakeIndex) -> None:
    out = index_of()
    teravec.add(out, ROWS[BASE : BASE + 10])
    manifest = teravec.add(out, ROWS[BASE + 10 : BASE + 20])
    assert (manifest.number, manifest.ntotal, manifest.next_id) == (2, BASE + 20, BASE + 20)
    with teravec.open(out) as index:
        _, ids = index.search(ROWS[BASE : BASE + 20], 1, nprobe=NLIST)
    assert ids[:, 0].tolist() == list(range(BASE, BASE + 20))


@pytest.mark.parametrize("codec", ["flat", "rabitq1+sq8"])
def test_a_row_replaces_that_of_its_id(index_of: MakeIndex, codec: str) -> None:
    out = index_of(codec, ids=True)
    moved = ROWS[BASE : BASE + 100]  # ids of the first hundred rows, elsewhere
    teravec.add(out, moved, ids=10 * np.arange(100))
    teravec.add(out, ROWS[:50], ids=10 * np.arange(50))  # half of them back again
    _, ids = all_lists(out, BASE)
    assert all(len(set(row[row >= 0].tolist())) == BASE for row in ids)  # each id once
    with teravec.open(out) as index:
        exact = {"candidates": index.ntotal} if index.two_stages else {}
        for vectors, expected in ((moved[50:], 10 * np.arange(50, 100)), (ROWS[:50], None)):
            _, nearest = index.search(vectors, 1, nprobe=NLIST, **exact)
            wanted = 10 * np.arange(50) if expected is None else expected
            assert (nearest[:, 0] == wanted).mean() > 0.97  # a code may lie nearer to another


def test_append_replaces_nothing(index_of: MakeIndex) -> None:
    out = index_of(ids=True)
    manifest = teravec.add(out, ROWS[BASE:], ids=100_000 + np.arange(1000), append=True)
    assert not manifest.deletes
    assert (all_lists(out)[1] >= 100_000).any()


def test_files_with_an_id_column(tmp_path: Path) -> None:
    def write(name: str, start: int, stop: int) -> Path:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS[start:stop].ravel()), D)
        table = pa.table({"key": pa.array(range(start, stop), pa.int64()), "v": vectors})
        pq.write_table(table, tmp_path / name)
        return tmp_path / name

    out = tmp_path / "index"
    first = write("a.parquet", 0, BASE)
    teravec.build(first, out, id_column="key", nlist=NLIST, codec="flat", calibrate=False)
    teravec.add(out, write("b.parquet", BASE - 500, 3000))  # 500 rows again, and 1,000 new ones
    assert (all_lists(out)[1] == brute_force(np.arange(len(ROWS)))).all()


def test_an_id_twice_in_files(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS[:3].ravel()), D)
    for name, ids in (("a.parquet", [1, 2, 3]), ("b.parquet", [4, 2, 5])):
        pq.write_table(pa.table({"key": pa.array(ids), "v": vectors}), tmp_path / name)
    out = tmp_path / "index"
    first = tmp_path / "a.parquet"
    teravec.build(first, out, id_column="key", nlist=1, codec="flat", calibrate=False)
    with pytest.raises(
        teravec.InvalidSource, match=r"id 2 .*a\.parquet: row 1 .*b\.parquet: row 1"
    ):
        teravec.add(out, [first, tmp_path / "b.parquet"])


def test_streams(index_of: MakeIndex) -> None:
    out = index_of()
    for start in (BASE, 2500):
        teravec.add(out, iter(np.split(ROWS[start : start + 500], 5)))
    assert (all_lists(out)[1] == brute_force(np.arange(len(ROWS)))).all()
    assert list((out / "adding").iterdir()) == []
    (out / "adding" / "killed.spool").write_bytes(b"rows")
    assert teravec.vacuum(out).files == 1


def test_a_rebuild_finds_the_changed_index(index_of: MakeIndex, tmp_path: Path) -> None:
    out = index_of()
    teravec.add(out, ROWS[BASE:])
    options = {"nlist": NLIST, "codec": "flat", "slices": 3}
    assert teravec.build(ROWS[:BASE], out, **options).ntotal == len(ROWS)  # type: ignore[arg-type]
    with pytest.raises(teravec.OutputExists):
        teravec.build(ROWS[:100], out, nlist=4)
    manifest = teravec.build(ROWS[:100], out, nlist=4, codec="flat", overwrite=True)
    assert (manifest.number, manifest.ntotal) == (0, 100)
    assert not (out / "versions").exists()


def test_rows_that_do_not_fit(index_of: MakeIndex) -> None:
    out = index_of(ids=True)
    with pytest.raises(teravec.InvalidArgument, match="dimensions"):
        teravec.add(out, ROWS[:, :-1], ids=np.arange(len(ROWS)))
    with pytest.raises(teravec.InvalidArgument, match="give its ids"):
        teravec.add(out, ROWS)
    with pytest.raises(teravec.InvalidArgument, match="id 7 found at rows 1 and 2"):
        teravec.add(out, ROWS[:3], ids=[5, 7, 7])
    with pytest.raises(teravec.MissingFile):
        teravec.add(out.with_name("nothing"), ROWS)
    assert [version.number for version in teravec.versions(out)] == [0]


def test_open_indexes_keep_their_version(index_of: MakeIndex) -> None:
    out = index_of()
    with teravec.open(out) as before:
        expected = before.search(QUERIES, 10, nprobe=NLIST)
        teravec.add(out, ROWS[BASE:])
        for mine, theirs in zip(before.search(QUERIES, 10, nprobe=NLIST), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert before.refresh()
        assert before.ntotal == len(ROWS)
        assert (before.search(QUERIES, 10, nprobe=NLIST)[1] == all_lists(out)[1]).all()
        assert not before.refresh()
    with teravec.open(out, version=0) as first:
        for mine, theirs in zip(first.search(QUERIES, 10, nprobe=NLIST), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_lists_of_some_servers(index_of: MakeIndex) -> None:
    out = index_of("rabitq1+sq8")
    teravec.add(out, ROWS[BASE:])
    teravec.delete(out, np.arange(0, 3000, 7))
    with teravec.open(out) as index:
        wanted = index.steps.nearest_lists(QUERIES, index.effort(NLIST))
        whole = index.steps.search_lists(*wanted, 3000, 3000)
    parts = []
    for lists in ((0, 9), (9, NLIST)):
        with teravec.open(out, lists=lists) as index:
            prepared, list_nos, distances = index.steps.nearest_lists(QUERIES, index.effort(NLIST))
            mine = np.where((list_nos >= lists[0]) & (list_nos < lists[1]), list_nos, -1)
            parts.append(index.steps.search_lists(prepared, mine, distances, 3000, 3000))
    for row in range(len(QUERIES)):
        ids = np.concatenate([part[1][row] for part in parts])
        assert sorted(ids[ids >= 0]) == sorted(whole[1][row][whole[1][row] >= 0])


def test_a_committed_addition_is_not_repeated_after_its_version_is_gone(
    index_of: MakeIndex,
) -> None:
    """A kill between the commit and the end of the record, then a compaction and a vacuum."""
    path = index_of()
    more = ROWS[BASE:]
    record = []

    class Killed(BaseException):
        pass

    def kill(store: LocalStore, name: str) -> None:
        if name.startswith("adding/") and name.endswith(".json"):
            record.append(name)
            raise Killed
        remove(store, name)

    remove = LocalStore.remove
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "remove", kill)
        with pytest.raises(Killed):
            teravec.add(path, more)
    assert (path / record[0]).exists()
    teravec.add(path, more[:5] + 1)  # others go on meanwhile
    teravec.compact(path, full=True)
    teravec.vacuum(path, older_than=timedelta(seconds=-5))
    assert len(teravec.versions(path)) == 1
    assert teravec.add(path, more).ntotal == BASE + len(more) + 5
    assert not (path / "adding").exists() or not list((path / "adding").glob("*.json"))
    assert teravec.add(path, more).ntotal == BASE + 2 * len(more) + 5  # asked for anew


def test_verify_reads_the_files_of_older_versions(index_of: MakeIndex) -> None:
    path = index_of()
    teravec.add(path, ROWS[BASE:])
    teravec.delete(path, [3])
    old = teravec.versions(path)[1].segments[-1].file
    teravec.compact(path, full=True)
    teravec.verify(path)
    data = bytearray((path / old).read_bytes())
    data[200] ^= 1
    (path / old).write_bytes(data)
    with pytest.raises(teravec.CorruptFile, match=old):
        teravec.verify(path)
    teravec.vacuum(path, older_than=timedelta(seconds=-5))
    teravec.verify(path)
