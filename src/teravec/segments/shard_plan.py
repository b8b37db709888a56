"""Which rows go into which shard: pure functions of what is asked for and what is sealed."""

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
_SORT_BYTES = 8 + 8 + 4 + 8  # of a row beside its code: id, place in order, list, slack


def fixed_bytes(model_bytes: int) -> int:
    """Memory of a worker beside the rows of its shard: models, and blocks in flight."""
    return 2 * model_bytes + 7 * BLOCK_BYTES + 3 * WRITE_BYTES


def bytes_of_rows(code_size: int, rows: float) -> float:
    """Memory in which the codes of so many rows are gathered and sorted."""
    return rows * (code_size + _SORT_BYTES)


def rows_in_memory(code_size: int, bytes_free: int) -> int:
    """Rows whose codes can be gathered and sorted in ``bytes_free``; at least 1."""
    return max(1, bytes_free // (code_size + _SORT_BYTES))


def shard_ranges(
    ntotal: int, shards: int | None, rows_most: int, workers: int = 1
) -> list[RowRange]:
    """Equal ranges of rows: as many as asked for, or more where memory is too small.

    Parameters
    ----------
    ntotal : int
    shards : int, optional
        Shards asked for; not given, as few as memory allows, in whole rounds of the workers.
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


def missing_ranges(wanted: Iterable[RowRange], sealed: Iterable[RowRange]) -> list[RowRange]:
    """The parts of the wanted ranges that no sealed shard covers."""
    covered = sorted(sealed)
    missing = []
    for start, stop in wanted:
        for low, high in covered:
            if start < stop and low < stop and high > start:
                if start < low:
                    missing.append((start, low))
                start = max(start, high)
        if start < stop:
            missing.append((start, stop))
    return missing
