"""Voided lists: those whose runs in older segments a rebalance has written anew, sealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile
from teravec.segments.segment import Segment
from teravec.storage.arrays import read_array
from teravec.storage.layout import IndexPaths

__all__ = ["VoidedLists", "read_voided_lists", "read_voided_sets", "valid_sizes"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class VoidedLists:
    """Lists that a version wrote anew: sealed, ascending and distinct.

    Parameters
    ----------
    file : str
        Path below the index directory, of an array file.
    size : int
        Bytes of the file.
    checksum : str
        XXH3-64 of the file.
    count : int
        Number of lists.
    sequence : int
        The version. Runs of these lists in segments of lower ``voids_through`` hold nothing.
    """

    file: str
    size: int
    checksum: str
    count: int
    sequence: int

    def voids_in(self, segment: Segment) -> bool:
        """Whether runs of the segment may be void by this set."""
        return self.sequence > segment.voids_through


def read_voided_lists(paths: IndexPaths, entry: VoidedLists) -> Int64:
    """Read the lists of a set.

    Raises
    ------
    MissingFile, CorruptFile
        The file is missing, damaged, or its lists are not ascending and distinct.
    """
    path = paths.file(entry.file)
    expected = {"size": entry.size, "checksum": entry.checksum}
    list_nos = read_array(path, expected, (entry.count,), np.int64)
    if (np.diff(list_nos) <= 0).any() or (list_nos < 0).any():
        raise CorruptFile(f"{path}: lists that are not ascending and distinct found")
    return list_nos


def read_voided_sets(
    paths: IndexPaths, voided: Sequence[VoidedLists], segments: Sequence[Segment]
) -> list[Int64]:
    """Read the lists whose runs are void in each segment, ascending and distinct.

    Segments that the same sets apply to share an array, so some of its lists may not be theirs.
    """
    joined: dict[tuple[VoidedLists, ...], Int64] = {(): np.empty(0, np.int64)}
    found = []
    for segment in segments:
        voiding = tuple(entry for entry in voided if entry.voids_in(segment))
        if voiding not in joined:
            sets = [read_voided_lists(paths, entry) for entry in voiding]
            joined[voiding] = np.unique(np.concatenate(sets))
        found.append(joined[voiding])
    return found


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
