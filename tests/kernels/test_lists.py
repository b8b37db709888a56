"""Bookkeeping of lists in compiled calls: the same as on NumPy, and nothing outside of buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.pairs import Pairs
from teravec.native import extensions as compiled
from teravec.native import lists
from teravec.search.list_cache import NOT_KEPT, ListCache

pytestmark = pytest.mark.skipif(compiled.listing is None, reason="not compiled")

NLIST = 9


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.permutations(range(-3, NLIST)), min_size=1, max_size=6),
    nprobe=st.integers(1, 8),
    sizes=st.none() | st.lists(st.integers(0, 2), min_size=NLIST, max_size=NLIST),
)
def test_pairs_are_those_of_numpy(
    rows: list[list[int]], nprobe: int, sizes: list[int] | None
) -> None:
    list_nos = np.maximum(np.array(rows, np.int64)[:, :nprobe], -1)
    distances = np.arange(list_nos.size, dtype=np.float32).reshape(list_nos.shape)
    known = None if sizes is None else np.array(sizes, np.int64)
    found = Pairs.of(list_nos, distances, known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "listing", None)
        expected = Pairs.of(list_nos, distances, known)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values)
        assert getattr(found, name).dtype == values.dtype


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_runs_and_their_pairs_are_those_of_numpy(data: st.DataObject) -> None:
    nlayers, nq = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    sizes = np.array(data.draw(st.lists(st.integers(0, 2), min_size=nlayers * NLIST)), np.int64)
    sizes = sizes[: nlayers * NLIST]
    rows = [data.draw(st.permutations(range(NLIST))) for _ in range(nq)]
    nprobe = data.draw(st.integers(1, NLIST))
    visited = np.ascontiguousarray(np.array(rows, np.int64)[:, :nprobe])
    distances = np.arange(visited.size, dtype=np.float32).reshape(visited.shape)
    pairs = Pairs.of(visited, distances, sizes.reshape(nlayers, NLIST).sum(axis=0))

    def find() -> tuple[Any, ...]:
        runs, list_nos = lists.runs(NLIST, sizes, pairs.list_nos)
        return runs, list_nos, *vars(pairs.of_lists(list_nos)).values()

    found = find()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "listing", None)
        expected = find()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (np.diff(found[1]) >= 0).all()
    assert len(found[0]) == sum(
        sizes[list_no::NLIST].astype(bool).sum() for list_no in pairs.list_nos
    )


def test_runs_and_pairs_of_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="list 9 of 9"):
        lists.runs(NLIST, np.ones(2 * NLIST, np.int64), np.array([NLIST]))
    pairs = Pairs.of(np.array([[3, 5]]), np.zeros((1, 2), np.float32))
    for wanted in ([3, 4], [5, 3], [3, 3, 6]):
        with pytest.raises(ValueError, match="without pairs"):
            pairs.of_lists(np.array(wanted))


def test_a_list_that_there_is_not() -> None:
    one = np.zeros((1, 1), np.float32)
    with pytest.raises(ValueError, match="not below 3"):
        Pairs.of(np.array([[3]]), one, np.ones(3, np.int64))
    with pytest.raises(ValueError, match="not below"):
        Pairs.of(np.array([[1 << 40]]), one)


@pytest.mark.parametrize("native", [True, False])
def test_ids_by_place(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(compiled, "listing", None)
    cache = ListCache(2 * NLIST, 1000)
    ids = np.arange(100, 112)
    cache.keep(
        np.array([NLIST + 2, NLIST + 5]), ids.view(np.uint8), np.array([0, 40]), np.array([40, 56])
    )
    places = np.array([5 << PLACE_BITS | 6, -1, 3 << PLACE_BITS, 2 << PLACE_BITS | 4, 5 << 32])
    found, missing = cache.ids(NLIST, places)
    assert found.tolist() == [111, -1, NOT_KEPT, 104, 105]
    assert missing == 1
    assert cache.ids(NLIST, places[:0])[1] == 0
    assert cache.pin(np.array([NLIST + 2])).tolist() == [0]


def test_ids_refuses() -> None:
    cache = ListCache(2 * NLIST, 1000)
    cache.keep(np.array([NLIST]), np.zeros(16, np.uint8), np.array([0]), np.array([16]))
    for place in (2, NLIST << PLACE_BITS, 1 << 62):
        with pytest.raises(ValueError, match="row"):
            cache.ids(NLIST, np.array([place]))
    for keys in ([2 * NLIST], [-1]):
        with pytest.raises(ValueError, match="key"):
            cache.pin(np.array(keys))
        with pytest.raises(ValueError, match="key"):
            cache.unpin(np.array(keys))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), k=st.integers(1, 9), nscans=st.integers(1, 3), similarity=st.booleans())
def test_lowest_of_several_scans(
    data: st.DataObject, k: int, nscans: int, similarity: bool
) -> None:
    """By value and place; what lies beyond the counts is not looked at."""
    assert compiled.scanning is not None
    nq, room = 3, 12
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    best = rng.integers(-2, data.draw(st.integers(0, 9)), (nscans, nq, room)).astype(np.float32)
    places = rng.permutation(best.size).reshape(best.shape)
    counts = rng.integers(0, room + 1, (nscans, nq)).astype(np.int32)
    distances, found = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
    compiled.scanning.lowest(k, similarity, best, places, counts, distances, found)
    for query in range(nq):
        kept = sorted(
            (best[scan, query, i], places[scan, query, i])
            for scan in range(nscans)
            for i in range(counts[scan, query])
        )[:k]
        kept += [(np.inf, -1)] * (k - len(kept))
        sign = -1 if similarity else 1
        assert distances[query].tolist() == [sign * value for value, _ in kept]
        assert found[query].tolist() == [place for _, place in kept]


def test_lowest_refuses() -> None:
    assert compiled.scanning is not None
    good: dict[str, Any] = {
        "best": np.zeros((2, 1, 5), np.float32),
        "places": np.zeros((2, 1, 5), np.int64),
        "counts": np.zeros((2, 1), np.int32),
        "distances": np.zeros((1, 3), np.float32),
        "found": np.zeros((1, 3), np.int64),
    }
    compiled.scanning.lowest(3, False, *good.values())
    for change in (
        {"counts": np.full((2, 1), 6, np.int32)},
        {"counts": np.full((2, 1), -1, np.int32)},
        {"counts": np.zeros(3, np.int32)},
        {"places": np.zeros(9, np.int64)},
        {"distances": np.zeros(4, np.float32)},
        {"found": np.zeros(2, np.int64)},
    ):
        with pytest.raises(ValueError, match=r"elements|kept"):
            compiled.scanning.lowest(3, False, *{**good, **change}.values())


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(0, 4),
    k=st.integers(0, 9),
    m=st.integers(0, 9),
    spread=st.sampled_from([3, 12, 2**62]),
    seed=st.integers(0, 1 << 32),
)
def test_ranks_are_the_first_columns(n: int, k: int, m: int, spread: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    names = random.integers(-2, spread, (n, m))
    ids = random.integers(-2, spread, (n, k))
    if m and k:
        ids[:, ::2] = names[:, random.integers(0, m, (k + 1) // 2)]
    expected = [
        [row.tolist().index(i) if i != -1 and i in row else m for i in wanted]
        for wanted, row in zip(ids.tolist(), names, strict=True)
    ]
    found = lists.ranks(ids, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "listing", None)
        np.testing.assert_array_equal(lists.ranks(ids, names), found)
    np.testing.assert_array_equal(found, np.array(expected, np.int64).reshape(n, k))


def test_ranks_need_rows_that_fit() -> None:
    ids = np.zeros((2, 3), np.int64)
    assert compiled.listing is not None
    with pytest.raises(ValueError, match="names"):
        compiled.listing.ranks(3, 4, ids, ids, np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match="out_ranks"):
        compiled.listing.ranks(3, 3, ids, ids, np.zeros(5, np.int64))
