"""Deleted rows are never found, and k others are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.writing.conftest import BASE, CODECS, NLIST, QUERIES, ROWS, MakeIndex
from tests.writing.test_adding import all_lists, brute_force


def test_what_is_left_is_exact(index_of: MakeIndex) -> None:
    out = index_of()
    teravec.add(out, ROWS[BASE:])
    rng = np.random.default_rng(0)
    gone = rng.choice(3000, 900, replace=False)
    for part in np.array_split(gone, 3):
        teravec.delete(out, part)
    kept = np.setdiff1d(np.arange(3000), gone)
    assert (all_lists(out)[1] == brute_force(kept)).all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("memory", ["64MiB", "2GiB"])
def test_k_rows_are_found_beside_deleted_ones(index_of: MakeIndex, codec: str, memory: str) -> None:
    out = index_of(codec)
    nearest = all_lists(out, 20)[1]
    gone = np.unique(nearest[:, :10])
    teravec.delete(out, gone)
    with teravec.open(out, memory=memory) as index:
        for _ in range(2):  # read, then kept
            _, ids = index.search(QUERIES, 10, nprobe=NLIST)
            assert (ids >= 0).all()
            assert not np.isin(ids, gone).any()
        lims, _, within = index.range_search(QUERIES, 20.0, nprobe=NLIST)
        assert not np.isin(within, gone).any()
        assert lims[-1] > 0
        _, alone = index.search(QUERIES[0], 10, nprobe=NLIST)
        np.testing.assert_array_equal(alone, ids[0])


def test_all_rows(index_of: MakeIndex) -> None:
    out = index_of("sq8")
    teravec.delete(out, np.arange(BASE))
    assert (all_lists(out)[1] == -1).all()
    teravec.add(out, ROWS[BASE:])
    assert (all_lists(out)[1] >= BASE).all()


def test_a_deleted_id_may_be_added_again(index_of: MakeIndex) -> None:
    out = index_of(ids=True)
    teravec.delete(out, [50])
    teravec.add(out, ROWS[5:6], ids=[50])
    with teravec.open(out) as index:
        distances, ids = index.search(ROWS[5], 2, nprobe=NLIST)
    assert (ids[0], distances[0]) == (50, 0)
    assert ids[1] != 50


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "no ids"),
        ([1.5], "integers"),
        ([[1]], "shape"),
        (["a"], "integers"),
        ([2**64 - 1], "at most"),
    ],
)
def test_ids_that_are_none(index_of: MakeIndex, ids: list[object], message: str) -> None:
    with pytest.raises(teravec.InvalidArgument, match=message):
        teravec.delete(index_of(), ids)


def test_a_damaged_delete_set_is_named(index_of: MakeIndex) -> None:
    out = index_of()
    teravec.delete(out, [3, 5])
    path: Path = next((out / "deletes").iterdir())
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(teravec.CorruptFile, match=path.name):
        teravec.open(out)
    with pytest.raises(teravec.CorruptFile, match=path.name):
        teravec.verify(out)
    path.unlink()
    with pytest.raises(teravec.MissingFile, match=path.name):
        teravec.open(out)
