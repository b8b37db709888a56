"""Which lists go into which slice, and whether shards cover all rows: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teravec.errors import ForeignFile, MissingFile
from teravec.storage.local_store import AnyPath

__all__ = [
    "ListRange",
    "SealedRange",
    "check_coverage",
    "in_row_order",
    "slice_count",
    "slice_ranges",
]

ListRange = tuple[int, int]

_SLICE_BYTES = 1 << 30


class SealedRange(NamedTuple):
    """Rows [start, stop) that a sealed shard covers."""

    start: int
    stop: int
    path: AnyPath


def in_row_order(shards: Iterable[SealedRange]) -> list[SealedRange]:
    """Sort shards by their first row."""
    return sorted(shards, key=lambda shard: (shard.start, shard.stop))


def check_coverage(shards: Sequence[SealedRange], ntotal: int) -> None:
    """Check that the shards cover rows [0, ntotal) exactly once.

    Raises
    ------
    MissingFile
        There is a gap; the message names the rows and the shards beside it.
    ForeignFile
        Two shards overlap, or one exceeds the source's rows; the message names them.
    """
    for shard in shards:
        if shard.stop > ntotal:
            raise ForeignFile(f"{shard.path}: rows up to {shard.stop:,} found, {ntotal:,} expected")
    covered, before = 0, None
    for shard in in_row_order(shards):
        if shard.start > covered:
            raise MissingFile(_describe_gap(covered, shard.start, before, shard.path))
        if shard.start < covered:
            raise ForeignFile(
                f"{shard.path}: rows {shard.start:,} to {shard.stop:,} overlap those of {before}"
            )
        covered, before = shard.stop, shard.path
    if covered < ntotal:
        raise MissingFile(_describe_gap(covered, ntotal, before, None))


def _describe_gap(start: int, stop: int, before: AnyPath | None, after: AnyPath | None) -> str:
    where = " and ".join(str(path) for path in (before, after) if path is not None)
    return f"no shard has rows {start:,} to {stop:,}" + (f" (beside {where})" if where else "")


def slice_count(slices: int | None, nlist: int, total_bytes: int) -> int:
    """Return the number of slices: the user's, or enough for slices of about 1 GiB."""
    return slices or max(1, min(nlist, round(total_bytes / _SLICE_BYTES)))


def slice_ranges(sizes: npt.NDArray[np.int64], count: int) -> list[ListRange]:
    """Cut the lists into ``count`` ranges of nearly equal bytes, none of them empty.

    Parameters
    ----------
    sizes : ndarray of shape (nlist,), int64
        Vectors in each list; all vectors have the same number of bytes.
    count : int
        1 to nlist.
    """
    nlist, stops = len(sizes), np.cumsum(sizes)
    bounds = [0]
    for i in range(1, count):
        ideal = int(stops[-1]) * i / count
        at = int(np.searchsorted(stops, ideal)) + 1
        # Cut before or after the list that contains the ideal position, whichever is nearer.
        if at > 1 and ideal - stops[at - 2] < stops[at - 1] - ideal:
            at -= 1
        bounds.append(min(max(at, bounds[-1] + 1), nlist - (count - i)))
    return list(pairwise([*bounds, nlist]))
