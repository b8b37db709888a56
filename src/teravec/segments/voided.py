"""Voided lists: those whose runs in older segments a rebalance has written anew, sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from teravec.segments.sealed_set import JoinedSets, SealedSet
from teravec.segments.segment import Segment
from teravec.storage.layout import IndexPaths

__all__ = ["VoidedLists", "read_voided_sets", "valid_sizes"]

Int64 = npt.NDArray[np.int64]


class VoidedLists(SealedSet):
    """Lists that a version wrote anew.

    Runs of these lists in segments whose ``voids_through`` is lower than its sequence hold nothing.
    """

    numbers: ClassVar[str] = "lists"
    least: ClassVar[int] = 0

    def voids_in(self, segment: Segment) -> bool:
        """Whether runs of the segment may be void by this set."""
        return self.sequence > segment.voids_through


def read_voided_sets(
    paths: IndexPaths, voided: Sequence[VoidedLists], segments: Sequence[Segment]
) -> list[Int64]:
    """Read the lists whose runs are void in each segment, ascending and distinct.

    Segments that the same sets apply to share an array, so some of its lists may not be theirs.
    """
    sets: JoinedSets[VoidedLists] = JoinedSets(paths)
    return [sets.join([v for v in voided if v.voids_in(segment)]) for segment in segments]


def valid_sizes(sizes: Int64, first: int, list_nos: Int64) -> Int64:
    """Return the sizes of a segment's runs, with 0 for those that are void.

    Parameters
    ----------
    sizes : ndarray of shape (n,), int64
        Vectors of lists [first, first + n) in the segment's file.
    first : int
    list_nos : ndarray of shape (m,), int64
        Voided lists, ascending.
    """
    at = list_nos[slice(*np.searchsorted(list_nos, (first, first + len(sizes))).tolist())]
    if not len(at):
        return sizes
    left = sizes.copy()
    left[at - first] = 0
    return left
