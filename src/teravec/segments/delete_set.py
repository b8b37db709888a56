"""Delete sets: the ids that a version hides, sealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile
from teravec.segments.segment import Segment
from teravec.storage.arrays import read_array
from teravec.storage.layout import IndexPaths

__all__ = ["DeleteSet", "is_deleted", "read_delete_set", "read_deleted"]

Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DeleteSet:
    """Ids that a version deleted: sealed, ascending and distinct.

    Parameters
    ----------
    file : str
        Path below the index directory, of an array file.
    size : int
        Bytes of the file.
    checksum : str
        XXH3-64 of the file.
    count : int
        Number of ids.
    sequence : int
        The version that deleted them: rows of lower sequence are hidden, later ones are not.
    """

    file: str
    size: int
    checksum: str
    count: int
    sequence: int

    def hides_in(self, segment: Segment) -> bool:
        """Whether rows of the segment may be hidden by this set."""
        return self.sequence > max(segment.sequences[1], segment.deletes_through)


def read_delete_set(paths: IndexPaths, entry: DeleteSet) -> Int64:
    """Read a delete set.

    Raises
    ------
    MissingFile, CorruptFile
        The file is missing, damaged, or its ids are not ascending and distinct.
    """
    path = paths.file(entry.file)
    expected = {"size": entry.size, "checksum": entry.checksum}
    ids = read_array(path, expected, (entry.count,), np.int64)
    if (np.diff(ids) <= 0).any():
        raise CorruptFile(f"{path}: ids that are not ascending and distinct found")
    return ids


def read_deleted(
    paths: IndexPaths, deletes: Sequence[DeleteSet], segments: Sequence[Segment]
) -> list[Int64]:
    """Read the ids that are hidden in each segment, ascending and distinct.

    Segments that the same sets apply to share an array.
    """
    joined: dict[tuple[DeleteSet, ...], Int64] = {(): np.empty(0, np.int64)}
    found = []
    for segment in segments:
        hiding = tuple(entry for entry in deletes if entry.hides_in(segment))
        if hiding not in joined:
            sets = [read_delete_set(paths, entry) for entry in hiding]
            joined[hiding] = np.unique(np.concatenate(sets))
        found.append(joined[hiding])
    return found


def is_deleted(ids: Int64, deleted: Int64) -> Bools:
    """Return which of the ids (n,) are among the deleted ones, which ascend."""
    if not len(deleted):
        return np.zeros(len(ids), np.bool_)
    at = np.searchsorted(deleted, ids)
    at[at == len(deleted)] = 0
    found: Bools = deleted[at] == ids
    return found
