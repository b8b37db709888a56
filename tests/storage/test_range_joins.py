"""Which ranges are read by one request."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from teravec.storage.range_joins import join_near, join_ranges
from teravec.storage.store import Ranges, ReadFiles
from tests.storage.memory_store import MemoryStore

SIZE = 10_000_000


def ranges_of(pieces: list[tuple[int, int, int]]) -> Ranges:
    """Ranges of (file, offset, length)."""
    store = MemoryStore({"0": bytes(SIZE), "1": bytes(SIZE)})
    files, offsets, lengths = np.array(pieces, np.int64).reshape(-1, 3).T
    at = np.cumsum(lengths) - lengths
    return Ranges(ReadFiles([store.open("0"), store.open("1")]), files, offsets, lengths, at)


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, SIZE - 1), st.integers(1, 70_000)),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 200_000),
    st.integers(1, 64),
)
def test_each_range_is_in_one_request(
    pieces: list[tuple[int, int, int]], gap_bytes: int, depth: int
) -> None:
    ranges = ranges_of(pieces)
    joined = join_ranges(ranges, gap_bytes, depth)
    numbers = np.concatenate([each.numbers for each in joined])
    assert sorted(numbers.tolist()) == list(range(len(pieces)))
    for each in joined:
        assert len(set(ranges.file_nos[each.numbers].tolist())) == 1
        ends = (ranges.offsets + ranges.needed)[each.numbers]
        assert (ranges.offsets[each.numbers] >= each.start).all()
        assert (ends <= each.stop).all()
        assert ends.max() == each.stop
        assert ranges.offsets[each.numbers].min() == each.start
    read = sum(each.stop - each.start for each in joined)
    wanted = int(ranges.needed.sum())
    assert read <= max(1.2 * wanted, wanted + (1 << 20))
    if len(pieces) <= depth:
        assert read <= 1.2 * wanted


def test_the_narrowest_gaps_go_first() -> None:
    pieces = [(0, 0, 1000), (0, 1100, 1000), (0, 4000, 1000), (1, 5050, 1000)]
    joined = join_ranges(ranges_of(pieces), 1 << 20, 64)
    assert [(each.start, each.stop) for each in joined] == [(0, 2100), (4000, 5000), (5050, 6050)]
    one_at_a_time = join_ranges(ranges_of(pieces), 1 << 20, 2)
    assert [(each.start, each.stop) for each in one_at_a_time] == [(0, 5000), (5050, 6050)]


def test_first_reads_that_are_near_are_joined() -> None:
    assert join_near([(900, 1000), (0, 128), (5, 5)], 500) == [(0, 128), (900, 1000)]
    assert join_near([(900, 1000), (0, 128), (100, 200)], 700) == [(0, 1000)]
    assert join_near([], 0) == []
