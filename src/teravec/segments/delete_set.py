"""Delete sets: the ids that a version hides, sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from teravec.segments.sealed_set import JoinedSets, SealedSet
from teravec.storage.layout import IndexPaths

__all__ = [
    "DeleteSet",
    "DeletedIds",
    "SequencedRows",
    "is_deleted",
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


class DeleteSet(SealedSet):
    """Ids that a version deleted: rows of lower sequence are hidden, later ones are not."""

    numbers: ClassVar[str] = "ids"

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
        self._deletes = deletes
        self._sets: JoinedSets[DeleteSet] = JoinedSets(
            paths, None if before is None else before._sets
        )

    def hidden_in(self, segment: SequencedRows) -> Int64:
        """Return the ids that are hidden in a segment, ascending and distinct.

        Segments that the same sets apply to share an array, in other versions too.

        Raises
        ------
        MissingFile, CorruptFile
        """
        return self._sets.join([entry for entry in self._deletes if entry.hides_in(segment)])


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
