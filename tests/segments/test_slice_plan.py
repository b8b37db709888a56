"""Which lists go into which slice, and whether shards fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teravec.errors import ForeignFile, MissingFile
from teravec.segments.slice_plan import SealedRange, check_coverage, slice_count, slice_ranges


@given(
    sizes=st.lists(st.integers(0, 5) | st.integers(0, 10**9), min_size=1, max_size=40),
    data=st.data(),
)
def test_slices_cover_all_lists_with_nearly_equal_bytes(
    sizes: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(sizes)) | st.just(len(sizes)))
    ranges = slice_ranges(np.array(sizes, np.int64), count)
    assert len(ranges) == count
    starts, stops = zip(*ranges, strict=True)
    assert starts == (0, *stops[:-1])
    assert stops[-1] == len(sizes)
    assert all(start < stop for start, stop in ranges)
    most = max(sum(sizes[start:stop]) for start, stop in ranges)
    assert most <= sum(sizes) / count + max(sizes)


@given(nlist=st.integers(1, 200), size=st.integers(1, 1000), data=st.data())
def test_equal_lists_give_equal_slices(nlist: int, size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, nlist))
    lengths = [b - a for a, b in slice_ranges(np.full(nlist, size, np.int64), count)]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([0, 0, 0], 2, [(0, 1), (1, 3)]),
        ([0, 0, 9], 3, [(0, 1), (1, 2), (2, 3)]),
        ([9, 0, 0], 3, [(0, 1), (1, 2), (2, 3)]),
        ([100, 1, 1, 1], 2, [(0, 1), (1, 4)]),
        ([1, 1, 1, 100], 2, [(0, 3), (3, 4)]),
        ([9, 10, 5], 2, [(0, 1), (1, 3)]),
        ([5, 10, 9], 2, [(0, 2), (2, 3)]),
    ],
)
def test_slices_by_hand(sizes: list[int], count: int, expected: list[tuple[int, int]]) -> None:
    assert slice_ranges(np.array(sizes, np.int64), count) == expected


def test_slice_count() -> None:
    assert slice_count(7, 100, 1 << 40) == 7
    assert slice_count(None, 10**6, 1 << 40) == 1024
    assert slice_count(None, 100, 1 << 40) == 100
    assert slice_count(None, 100, 0) == 1


def sealed(*ranges: tuple[int, int]) -> list[SealedRange]:
    return [SealedRange(a, b, Path(f"{a}-{b}")) for a, b in ranges]


@given(
    ranges=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), max_size=5).map(
        lambda pairs: [(a, a + length) for a, length in pairs]
    )
    | st.lists(st.integers(1, 9), max_size=5, unique=True).map(
        lambda cuts: list(zip([0, *sorted(cuts)], sorted(cuts), strict=False))
    ),
    ntotal=st.integers(1, 9),
    order=st.randoms(),
)
def test_coverage_is_accepted_exactly_where_every_row_is_there_once(
    ranges: list[tuple[int, int]], ntotal: int, order: object
) -> None:
    order.shuffle(ranges)  # type: ignore[attr-defined]
    times = np.zeros(40, int)
    for start, stop in ranges:
        times[start:stop] += 1
    expected = np.arange(40) < ntotal
    if (times == expected).all():
        check_coverage(sealed(*ranges), ntotal)
        return
    with pytest.raises((MissingFile, ForeignFile)) as caught:
        check_coverage(sealed(*ranges), ntotal)
    if caught.type is ForeignFile:
        assert (times > expected).any()
    elif max((stop for _, stop in ranges), default=0) <= ntotal:
        assert (times < expected).any()


@pytest.mark.parametrize(
    ("ranges", "error", "words"),
    [
        ([(0, 4), (6, 10)], MissingFile, "rows 4 to 6 .*0-4 and 6-10"),
        ([(2, 10)], MissingFile, "rows 0 to 2 .*2-10"),
        ([(0, 7)], MissingFile, "rows 7 to 10 .*0-7"),
        ([], MissingFile, "rows 0 to 10$"),
        ([(0, 6), (4, 10)], ForeignFile, "4-10: rows 4 to 10 overlap those of 0-6"),
        ([(0, 10), (0, 10)], ForeignFile, "overlap"),
        ([(0, 10), (3, 5)], ForeignFile, "3-5: .*overlap"),
        ([(0, 12)], ForeignFile, "0-12: rows up to 12 found, 10 expected"),
        ([(0, 10), (12, 15)], ForeignFile, "12-15"),
    ],
)
def test_uncovered_rows_are_named(
    ranges: list[tuple[int, int]], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_coverage(sealed(*ranges), 10)
