"""Which rows go into which shard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from teravec.segments.shard_plan import RowRange, missing_ranges, rows_in_memory, shard_ranges


def rows_of(ranges: list[RowRange]) -> list[int]:
    return [row for start, stop in ranges for row in range(start, stop)]


@given(ntotal=st.integers(1, 10**13), shards=st.none() | st.integers(1, 50), data=st.data())
def test_shards_cover_all_rows_evenly(ntotal: int, shards: int | None, data: st.DataObject) -> None:
    rows_most = data.draw(st.integers(max(1, ntotal // 60), 2 * ntotal))
    ranges = shard_ranges(ntotal, shards, rows_most)
    starts, stops = zip(*ranges, strict=True)
    assert starts == (0, *stops[:-1])
    assert stops[-1] == ntotal
    sizes = [stop - start for start, stop in ranges]
    assert max(sizes) <= rows_most
    assert max(sizes) - min(sizes) <= 1
    fewest = -(-ntotal // rows_most)
    assert len(ranges) == max(shards or 1, fewest)


RANGES = st.lists(st.integers(0, 40), max_size=12, unique=True).map(
    lambda cuts: list(zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False))
)  # disjoint


@given(wanted=RANGES, sealed=RANGES, order=st.randoms())
def test_missing_is_wanted_without_sealed(
    wanted: list[RowRange], sealed: list[RowRange], order: object
) -> None:
    order.shuffle(sealed)  # type: ignore[attr-defined]
    missing = missing_ranges(wanted, sealed)
    assert all(start < stop for start, stop in missing)
    rows = rows_of(missing)
    assert len(rows) == len(set(rows))
    assert set(rows) == set(rows_of(wanted)) - set(rows_of(sealed))


@given(
    ntotal=st.integers(1, 200),
    first=st.integers(1, 200),
    second=st.integers(1, 200),
    keep=st.sets(st.integers(0, 200)),
)
def test_a_rerun_in_other_memory_fills_what_is_left(
    ntotal: int, first: int, second: int, keep: set[int]
) -> None:
    """Shards sealed by one run and those of the next cover every row once."""
    sealed = [r for i, r in enumerate(shard_ranges(ntotal, None, first)) if i in keep]
    missing = missing_ranges(shard_ranges(ntotal, None, second), sealed)
    assert sorted(rows_of(sealed + missing)) == list(range(ntotal))
    assert all(stop - start <= second for start, stop in missing)
    assert missing_ranges(shard_ranges(ntotal, None, second), sealed + missing) == []


def test_rows_in_memory() -> None:
    assert rows_in_memory(100, 0) == 1
    rows = rows_in_memory(100, 1 << 30)
    assert 100 * rows < 1 << 30 < 200 * rows
