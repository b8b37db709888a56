"""The cache of lists: never a wrong byte, never too large, never flushed by a passer-by."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.search.list_cache import ListCache

NKEYS = 12


def content(key: int, size: int) -> np.ndarray:
    """Bytes that tell the key."""
    return np.full(size, key % 251 + 1, np.uint8)


def keep(cache: ListCache, keys: list[int], sizes: np.ndarray) -> None:
    """Offer lists to the cache from one buffer."""
    data = np.concatenate([np.empty(0, np.uint8), *(content(key, sizes[key]) for key in keys)])
    mine = sizes[keys].astype(np.int64)
    cache.keep(np.array(keys, np.int64), data, np.cumsum(mine) - mine, mine)


@settings(max_examples=300, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=NKEYS, max_size=NKEYS),
    capacity=st.integers(0, 150),
    batches=st.lists(st.sets(st.integers(0, NKEYS - 1), max_size=6), max_size=30),
    held=st.integers(0, 3),
)
def test_what_is_found_is_what_was_kept(
    sizes: list[int], capacity: int, batches: list[set[int]], held: int
) -> None:
    """Several searches at once: each one's pins hold while the others come and go."""
    cache, size = ListCache(NKEYS, capacity), np.array(sizes)
    open_searches: list[tuple[np.ndarray, np.ndarray]] = []
    for batch in batches:
        keys = np.array(sorted(batch), np.int64)
        at = cache.pin(keys)
        found = keys[at >= 0]
        open_searches.append((found, at[at >= 0]))
        keep(cache, keys[at < 0].tolist(), size)
        for pinned, places in open_searches:
            for key, place in zip(pinned.tolist(), places.tolist(), strict=True):
                np.testing.assert_array_equal(
                    cache.buffer[place : place + size[key]], content(key, size[key])
                )
        while len(open_searches) > held:
            cache.unpin(open_searches.pop(0)[0])
        assert cache.kept_bytes <= capacity
    every = np.arange(NKEYS)
    at = cache.pin(every)
    spans = sorted(
        (place, place + size[key]) for key, place in enumerate(at.tolist()) if place >= 0
    )
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert all(stop <= capacity for _, stop in spans)


def test_all_is_kept_where_all_fits() -> None:
    cache, sizes = ListCache(NKEYS, 12 * 10), np.full(NKEYS, 10)
    for key in (3, 1, 7, 0, 2, 11, 4, 5, 6, 8, 9, 10):
        cache.unpin(np.array([], np.int64))
        assert cache.pin(np.array([key]))[0] == -1
        keep(cache, [key], sizes)
    assert (cache.pin(np.arange(NKEYS)) >= 0).all()


def test_a_batch_passing_through_does_not_flush_what_is_wanted_often() -> None:
    nkeys, hot = 1000, np.arange(10)
    cache, sizes = ListCache(nkeys, 20 * 10), np.full(nkeys, 10)
    for _ in range(5):
        at = cache.pin(hot)
        cache.unpin(hot[at >= 0])
        keep(cache, hot[at < 0].tolist(), sizes)
    for key in range(10, nkeys):  # each once
        assert cache.pin(np.array([key]))[0] == -1
        keep(cache, [key], sizes)
    assert (cache.pin(hot) >= 0).all()


def test_what_was_wanted_once_makes_room_in_time() -> None:
    cache, sizes = ListCache(100, 100), np.full(100, 10)
    old, new = np.arange(10), np.arange(50, 60)
    for keys in (old, new):
        for _ in range(200):
            at = cache.pin(keys)
            cache.unpin(keys[at >= 0])
            keep(cache, keys[at < 0].tolist(), sizes)
        at = cache.pin(keys)
        assert (at >= 0).mean() > 0.8
        cache.unpin(keys[at >= 0])
