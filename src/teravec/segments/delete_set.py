"""Delete sets: the ids that a version hides, sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from teravec.segments.sealed_set import SealedSet, read_sealed_set
from teravec.storage.layout import IndexPaths

__all__ = [
    "DeleteSet",
    "DeletedIds",
    "HiddenIds",
    "SequencedRows",
    "is_deleted",
    "read_deleted",
    "sets_that_hide",
]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hash, of 64 bits
_TABLE_BITS, _SPARSITY = 10, 8  # least bits of a table's size; entries for each id, or more

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
    """The ids in a version's delete sets, each once, with the last set that has it.

    A row is hidden if its id is in a set that applies to it, and of all sets that have the id the
    last one applies to most rows. So one table serves all segments, however many sets there are.

    Parameters
    ----------
    paths : IndexPaths
    deletes : sequence of DeleteSet
        By ascending sequence.
    before : DeletedIds, optional
        Of another version: what both have is not read again.

    Raises
    ------
    MissingFile, CorruptFile
    """

    def __init__(
        self, paths: IndexPaths, deletes: Sequence[DeleteSet], before: DeletedIds | None = None
    ) -> None:
        self.sets = tuple(deletes)
        known = 0 if before is None else len(before.sets)
        ids, sequences = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        if before is not None and before.sets == self.sets[:known]:
            ids, sequences = [before._ids], [before._sequences]
        else:
            known = 0
        for entry in self.sets[known:]:
            ids.append(read_sealed_set(paths, entry))
            sequences.append(np.full(entry.count, entry.sequence, np.int64))
        self._ids: Int64 = ids[0]
        self._sequences: Int64 = sequences[0]
        if len(ids) > 1:
            self._ids, self._sequences = _last_of_each(*map(np.concatenate, (ids, sequences)))
        self._table: Bools | None = None
        self._shift = np.uint64(0)

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        table = 0 if self._table is None else self._table.nbytes
        return self._ids.nbytes + self._sequences.nbytes + table

    def make_table(self, most_bytes: int) -> None:
        """Make a table of 8 to 16 bytes an id, if there is room, for many small look-ups."""
        bits = max(_TABLE_BITS, (len(self._ids) * _SPARSITY).bit_length())
        if len(self._ids) and 1 << bits <= most_bytes:
            self._shift = np.uint64(64 - bits)
            table = np.zeros(1 << bits, np.bool_)
            table[self._hash(self._ids)] = True
            self._table = table

    def _hash(self, ids: Int64) -> npt.NDArray[np.uint64]:
        hashed: npt.NDArray[np.uint64] = (ids.view(np.uint64) * _GOLDEN) >> self._shift
        return hashed

    def hidden_in(self, rows: SequencedRows) -> HiddenIds:
        """Return the ids that are hidden in some rows, as a segment's."""
        return HiddenIds(self, max(rows.sequences[1], rows.deletes_through))

    def find(self, ids: Int64, after: int) -> Bools:
        """Return which of the ids (n,) are in a set of a version after that one."""
        if self._table is None:
            return self._search(ids, after)
        found = self._table[self._hash(np.ascontiguousarray(ids))]
        some = np.flatnonzero(found)
        found[some] = self._search(ids[some], after)
        return found

    def _search(self, ids: Int64, after: int) -> Bools:
        if not len(self._ids):
            return np.zeros(len(ids), np.bool_)
        at = np.searchsorted(self._ids, ids)
        at[at == len(self._ids)] = 0
        found: Bools = (self._ids[at] == ids) & (self._sequences[at] > after)
        return found


def _last_of_each(ids: Int64, sequences: Int64) -> tuple[Int64, Int64]:
    """Order ids, each once, with the last of its sequences, which ascend."""
    order = np.argsort(ids, kind="stable")  # linear in a few ascending parts
    ids = ids[order]
    last = np.append(ids[1:] != ids[:-1], True) if len(ids) else np.empty(0, np.bool_)
    return ids[last], sequences[order[last]]


class HiddenIds:
    """The ids that are hidden in some rows, as a segment's.

    Parameters
    ----------
    deleted : DeletedIds
    after : int
        Sets of later versions than this one apply.

    Attributes
    ----------
    any : bool
        Whether some id may be hidden.
    """

    def __init__(self, deleted: DeletedIds, after: int) -> None:
        self._deleted, self._after = deleted, after
        self.any = any(entry.count for entry in self.sets)

    @property
    def sets(self) -> tuple[DeleteSet, ...]:
        """The sets that apply: equal ones hide the same rows."""
        return tuple(each for each in self._deleted.sets if each.sequence > self._after)

    def find(self, ids: Int64) -> Bools:
        """Return which of the ids (n,), as results have them, are hidden."""
        return self._deleted.find(ids, self._after) if self.any else np.zeros(len(ids), np.bool_)


def read_deleted(
    paths: IndexPaths,
    deletes: Sequence[DeleteSet],
    groups: Sequence[SequencedRows],
    table_bytes: int = 0,
) -> list[HiddenIds]:
    """Read the ids that are hidden in each group of rows, as a segment.

    A table that makes look-ups quicker may take ``table_bytes``.
    """
    applied = sets_that_hide(deletes, groups)
    found = DeletedIds(paths, [entry for entry in deletes if entry in applied])
    found.make_table(table_bytes)
    return [found.hidden_in(rows) for rows in groups]


def is_deleted(ids: Int64, deleted: Int64) -> Bools:
    """Return which of the ids (n,) are among the deleted ones, which ascend."""
    if not len(deleted) or not len(ids) or ids.max() < deleted[0] or ids.min() > deleted[-1]:
        return np.zeros(len(ids), np.bool_)
    at = np.searchsorted(deleted, ids)
    at[at == len(deleted)] = 0
    found: Bools = deleted[at] == ids
    return found
