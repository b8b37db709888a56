"""Which rows go into which shard: pure functions of the options and the sealed shards."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

__all__ = [
    "BLOCK_BYTES",
    "WRITE_BYTES",
    "RowRange",
    "bytes_of_rows",
    "fixed_bytes",
    "missing_ranges",
    "rows_in_memory",
    "shard_ranges",
]

RowRange = tuple[int, int]

BLOCK_BYTES = 8 << 20  # of float32 vectors read, assigned and encoded at a time
WRITE_BYTES = 4 << 20  # of codes and ids gathered in list order at a time
_SORT_BYTES = 8 + 8 + 4 + 8  # per row besides its code: id, position in order, list, slack


def fixed_bytes(model_bytes: int) -> int:
    """Return a worker's memory without its shard's rows: models and blocks in flight."""
    return 2 * model_bytes + 7 * BLOCK_BYTES + 3 * WRITE_BYTES


def bytes_of_rows(code_size: int, rows: float) -> float:
    """Return the memory to gather and sort the codes of ``rows`` rows."""
    return rows * (code_size + _SORT_BYTES)


def rows_in_memory(code_size: int, bytes_free: int) -> int:
    """Return how many rows' codes can be gathered and sorted in ``bytes_free``; at least 1."""
    return max(1, bytes_free // (code_size + _SORT_BYTES))


def shard_ranges(
    ntotal: int, shards: int | None, rows_most: int, workers: int = 1
) -> list[RowRange]:
    """Cut the rows into equal ranges: ``shards`` of them, or more if memory demands it.

    Parameters
    ----------
    ntotal : int
    shards : int, optional
        Not given: as few as memory allows, rounded up to a multiple of the workers.
    rows_most : int
        Rows that can be sorted in memory.
    workers : int
        Shards that are encoded at once.
    """
    count = max(shards or 1, -(-ntotal // rows_most))
    if shards is None:
        count = min(ntotal, -(-count // workers) * workers)
    bounds = [ntotal * i // count for i in range(count + 1)]
    return list(pairwise(bounds))


def missing_ranges(ranges: Iterable[RowRange], sealed: Iterable[RowRange]) -> list[RowRange]:
    """Return the parts of the ranges that no sealed shard covers."""
    covered = sorted(sealed)
    missing = []
    for start, stop in ranges:
        for low, high in covered:
            if start < stop and low < stop and high > start:
                if start < low:
                    missing.append((start, low))
                start = max(start, high)
        if start < stop:
            missing.append((start, stop))
    return missing
