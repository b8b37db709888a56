"""Joining near ranges of files to one request, where a request costs more than some bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teravec.storage.store import Ranges

__all__ = ["JoinedRange", "join_near", "join_ranges"]

Int64 = npt.NDArray[np.int64]

JOINED_BYTES = 1 << 20
"""Requests of near ranges are about this large: several carry more than one at a time."""

_WASTE = 0.2  # bytes between ranges that may be read, as a share of those that are wanted
_MANY_WASTE_BYTES = 1 << 20  # and of more requests than go at once, so that they are one wave


class JoinedRange(NamedTuple):
    """One request for several ranges of a file.

    Attributes
    ----------
    start, stop : int
        Bytes of the file.
    numbers : ndarray of shape (n,), int64
        The ranges.
    """

    start: int
    stop: int
    numbers: Int64


def join_near(ranges: Sequence[tuple[int, int]], gap_bytes: int) -> list[tuple[int, int]]:
    """Join ranges (start, stop) of one file over gaps of up to ``gap_bytes``; return them in order.

    Empty ranges are left out.
    """
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(each for each in ranges if each[0] < each[1]):
        if joined and start - joined[-1][1] <= gap_bytes:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined


def join_ranges(ranges: Ranges, gap_bytes: int, depth: int) -> list[JoinedRange]:
    """Plan the requests for ranges.

    The narrowest gaps are read across first, until what lies in them is a fifth of what is wanted.
    Only if there are still more requests than go at once, up to a megabyte more is.

    Parameters
    ----------
    ranges : Ranges
    gap_bytes : int
        Wider gaps are never read across.
    depth : int
        Requests that go at once.
    """
    needed = ranges.needed
    order = np.lexsort((ranges.offsets, ranges.file_nos))
    starts, stops = ranges.offsets[order], (ranges.offsets + needed)[order]
    files = ranges.file_nos[order]
    gaps = np.maximum(0, starts[1:] - stops[:-1])
    near = (files[1:] == files[:-1]) & (gaps <= gap_bytes)
    apart = ~(near & _choose(gaps, near, int(needed.sum()), depth))
    sums = np.cumsum(needed[order])
    apart |= sums[1:] // JOINED_BYTES != sums[:-1] // JOINED_BYTES
    firsts = np.concatenate([[0], np.flatnonzero(apart) + 1])
    return [
        JoinedRange(int(some[0]), int(ends.max()), numbers)
        for some, ends, numbers in zip(
            np.split(starts, firsts[1:]),
            np.split(stops, firsts[1:]),
            np.split(order, firsts[1:]),
            strict=True,
        )
    ]


def _choose(
    gaps: Int64, near: npt.NDArray[np.bool_], wanted: int, depth: int
) -> npt.NDArray[np.bool_]:
    """Return which gaps (n,) are read across, the narrowest first."""
    order = np.argsort(np.where(near, gaps, np.iinfo(np.int64).max), kind="stable")
    order = order[: int(near.sum())]
    spent = np.cumsum(gaps[order])
    count = int(np.searchsorted(spent, _WASTE * wanted, side="right"))
    many = int(np.searchsorted(spent, max(_WASTE * wanted, _MANY_WASTE_BYTES), side="right"))
    count = min(many, max(count, len(gaps) + 1 - depth))
    chosen = np.zeros(len(gaps), np.bool_)
    chosen[order[:count]] = True
    return chosen
