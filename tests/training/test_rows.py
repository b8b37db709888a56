"""Rows of the sample: uniform, distinct, found part by part, in bounded memory."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from teravec.training.rows import SampleRows

SIZES = [(1, 1), (7, 1), (7, 7), (1000, 999), (300_000, 5), (300_000, 2000), (50_000, 48_000)]


BLOCK_ROWS = [16, 1 << 16]  # blocks of a few rows too, so that small sources have many


@pytest.mark.parametrize("block_rows", BLOCK_ROWS)
@pytest.mark.parametrize(("ntotal", "n"), SIZES)
def test_rows_are_distinct_and_found_in_parts(ntotal: int, n: int, block_rows: int) -> None:
    drawn = SampleRows(ntotal, n, 1, block_rows, block_rows // 4)
    whole = drawn.rows(0, n)
    assert len(whole) == n
    assert whole[0] >= 0
    assert whole[-1] < ntotal
    assert (np.diff(whole) > 0).all()
    cuts = [0, n // 3, n // 3, n // 2, n]
    parts = [drawn.rows(a, b) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("block_rows", BLOCK_ROWS)
@pytest.mark.parametrize(("ntotal", "n"), SIZES)
def test_left_out_rows_are_not_in_the_sample(ntotal: int, n: int, block_rows: int) -> None:
    drawn = SampleRows(ntotal, n, 1, block_rows, block_rows // 4)
    for count in (1, 100, 20_000):
        rows = drawn.draw_outside(count)
        assert len(rows) == min(count, ntotal - n)
        assert (np.diff(rows) > 0).all()
        assert not np.isin(rows, drawn.rows(0, n)).any()
    if ntotal - n <= 20_000:
        both = np.concatenate([rows, drawn.rows(0, n)])
        np.testing.assert_array_equal(np.sort(both), np.arange(ntotal))


def test_every_row_is_equally_likely() -> None:
    """Of 23 rows in blocks of 4, the last of 3, over many seeds; by chi squared."""
    seeds, ntotal = 2500, 23
    for n in (3, 11, 20):
        drawn, left = np.zeros(ntotal), np.zeros(ntotal)
        for seed in range(seeds):
            rows = SampleRows(ntotal, n, seed, 4, 1)
            drawn[rows.rows(0, n)] += 1
            left[rows.draw_outside(1)] += 1
        for found, each in ((drawn, n), (left, 1)):
            expected = seeds * each / ntotal
            # Mean 22, deviation 6.6; drawn rows, which exclude each other, vary less.
            assert ((found - expected) ** 2 / expected).sum() < 22 + 4 * 6.6


def test_every_block_gives_its_share() -> None:
    rows = SampleRows(10_000_000, 300_000, 5).rows(0, 300_000)
    counts = np.bincount(rows >> 16, minlength=153)[:-1]
    share = 300_000 * (1 << 16) / 10_000_000
    assert (abs(counts - share) < 1).all()


def test_seeds_differ() -> None:
    first, other = (SampleRows(100_000, 1000, seed).rows(0, 1000) for seed in (1, 2))
    assert len(np.intersect1d(first, other)) < 50  # about 10 by chance


@pytest.mark.parametrize("n", [5, 640_000_000, 600_000_000_000, 999_999_999_999])
def test_a_trillion_rows_take_little_memory(n: int) -> None:
    drawn = SampleRows(10**12, n, 1)
    tracemalloc.start()
    try:
        for start in (0, n // 2, n - 5):
            rows = drawn.rows(start, min(n, start + 10_000))
            assert len(rows) == min(10_000, n - start)
            assert (abs(rows - start * (10**12 / n)) <= 2 * 10**12).all()
        assert len(drawn.draw_outside(50)) == min(50, 10**12 - n)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
