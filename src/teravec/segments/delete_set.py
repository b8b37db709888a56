"""Delete sets: the ids that a version hides, sealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile
from teravec.storage.arrays import read_array
from teravec.storage.layout import IndexPaths

__all__ = [
    "DeleteSet",
    "DeletedIds",
    "SequencedRows",
    "is_deleted",
    "read_delete_set",
    "read_deleted",
    "sets_that_hide",
]

Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


class SequencedRows(Protocol):
    """Rows that some versions added, with some delete sets applied: see ``Segment``."""

    @property
    def sequences(self) -> tuple[int, int]:
        """First and last version that added some of the rows."""
        ...

    @property
    def deletes_through(self) -> int:
        """Delete sets up to this version are applied."""
        ...


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

    def hides_in(self, rows: SequencedRows) -> bool:
        """Whether some of these rows, as a segment's, may be hidden by this set."""
        return self.sequence > max(rows.sequences[1], rows.deletes_through)


def sets_that_hide(
    deletes: Sequence[DeleteSet], segments: Sequence[SequencedRows]
) -> set[DeleteSet]:
    """Return the sets that may hide rows of some segments.

    Who writes these rows anew without the hidden ones commits on versions with these sets only: a
    rollback may have brought the rows back.
    """
    return {entry for entry in deletes if any(map(entry.hides_in, segments))}


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


class DeletedIds:
    """The ids that a version's delete sets hide in its segments.

    Parameters
    ----------
    paths : IndexPaths
    deletes : sequence of DeleteSet
        By ascending sequence.
    before : DeletedIds, optional
        Of another version: what both have is not read again.
    """

    def __init__(
        self, paths: IndexPaths, deletes: Sequence[DeleteSet], before: DeletedIds | None = None
    ) -> None:
        self._paths, self._deletes = paths, deletes
        self._known = {} if before is None else before._joined
        self._joined: dict[tuple[DeleteSet, ...], Int64] = {}

    def hidden_in(self, segment: SequencedRows) -> Int64:
        """Return the ids that are hidden in a segment, ascending and distinct.

        Segments that the same sets apply to share an array, in other versions too.

        Raises
        ------
        MissingFile, CorruptFile
        """
        hiding = tuple(entry for entry in self._deletes if entry.hides_in(segment))
        if hiding not in self._joined:
            self._joined[hiding] = self._join(hiding)
        return self._joined[hiding]

    def _join(self, hiding: tuple[DeleteSet, ...]) -> Int64:
        for count in range(len(hiding), 0, -1):  # the later sets are those that were added
            if (known := self._known.get(hiding[:count])) is not None:
                break
        else:
            count, known = 0, np.empty(0, np.int64)
        new = [read_delete_set(self._paths, entry) for entry in hiding[count:]]
        return _merge([known, *new]) if new else known


def _merge(ascending: Sequence[Int64]) -> Int64:
    """Merge ascending arrays into one without repetitions."""
    ids = np.sort(np.concatenate(ascending), kind="stable")  # linear in a few ascending parts
    merged: Int64 = ids[np.diff(ids, prepend=ids[:1] - 1) != 0]
    return merged


def read_deleted(
    paths: IndexPaths, deletes: Sequence[DeleteSet], groups: Sequence[SequencedRows]
) -> list[Int64]:
    """Read the ids that are hidden in each group of rows, as a segment, ascending and distinct."""
    found = DeletedIds(paths, deletes)
    return [found.hidden_in(rows) for rows in groups]


def is_deleted(ids: Int64, deleted: Int64) -> Bools:
    """Return which of the ids (n,) are among the deleted ones, which ascend."""
    if not len(deleted) or not len(ids) or ids.max() < deleted[0] or ids.min() > deleted[-1]:
        return np.zeros(len(ids), np.bool_)
    at = np.searchsorted(deleted, ids)
    at[at == len(deleted)] = 0
    found: Bools = deleted[at] == ids
    return found
