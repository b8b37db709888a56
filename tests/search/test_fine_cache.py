"""The cache of pages of finer codes: what it gives is what was kept, within its bytes."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.search.fine_cache import FineCache, rows_of

PAGE, ROW = 64, 10


def page(number: int) -> np.ndarray:
    """The bytes of a page, made from its number."""
    return np.random.default_rng(number).integers(0, 256, PAGE, np.uint8)


@settings(max_examples=50, deadline=None)
@given(
    npages=st.integers(1, 40), places=st.integers(0, 50),
    wanted=st.lists(st.lists(st.integers(0, 39), max_size=30), max_size=12),
)  # fmt: skip
def test_kept_rows_are_those_of_the_page(npages: int, places: int, wanted: list[list[int]]) -> None:
    cache = FineCache(npages, PAGE, places * PAGE + 3)
    for some in wanted:
        numbers = np.sort(np.array(some, np.int64) % npages)
        at = numbers * 7 % (PAGE - ROW + 1)
        rows, kept = cache.rows(numbers, at, ROW)
        for row, number, begin in zip(rows[kept], numbers[kept], at[kept], strict=True):
            np.testing.assert_array_equal(row, page(number)[begin : begin + ROW])
        new = np.unique(numbers[~kept])
        read = np.stack([page(number) for number in range(npages)])
        cache.keep(new, read, new)
        if places >= npages:  # room for all: what was wanted is there
            assert cache.rows(numbers, at, ROW)[1].all()
    assert cache._pages.nbytes <= places * PAGE


def test_a_page_that_is_wanted_is_spared() -> None:
    cache = FineCache(100, PAGE, 10 * PAGE)
    one, other, zero = np.array([3]), np.array([13]), np.array([0])  # two of one place
    cache.keep(one, page(3)[None], zero)
    assert cache.rows(one, np.array([0]), ROW)[1].all()
    cache.keep(other, page(13)[None], zero)
    assert cache.rows(one, np.array([0]), ROW)[1].all()
    for _ in range(4):
        cache.keep(other, page(13)[None], zero)
    rows, kept = cache.rows(other, np.array([5]), ROW)
    assert kept.all()
    np.testing.assert_array_equal(rows[0], page(13)[5 : 5 + ROW])


def test_rows_of_pages() -> None:
    pages = np.stack([page(0), page(1)])
    rows = rows_of(pages, np.array([1, 0, 1]), np.array([0, 3, PAGE - ROW]), ROW)
    expected = [page(1)[:ROW], page(0)[3 : 3 + ROW], page(1)[-ROW:]]
    np.testing.assert_array_equal(rows, expected)


def test_threads_get_whole_rows() -> None:
    cache = FineCache(50, PAGE, 5 * PAGE)
    pages = np.repeat(np.arange(50, dtype=np.uint8)[:, None], PAGE, axis=1)
    wrong = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            numbers = np.unique(rng.integers(0, 50, 8))
            rows, kept = cache.rows(numbers, np.zeros_like(numbers), ROW)
            wrong.append((rows[kept] != numbers[kept][:, None]).sum())
            cache.keep(numbers[~kept], pages, numbers[~kept])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wrong) == 0
