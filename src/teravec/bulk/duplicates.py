"""Groups of near duplicates: all pairs within a threshold, joined; resumable, in bounded memory.

The pairs come from a range search of all rows, whose batches are sealed as they end. Rows are then
joined by a forest: each row points to an earlier row of its group, or to itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from teravec.bulk.corpus import answers, describe_search
from teravec.bulk.formats.whole import publishing_result
from teravec.bulk.parts import FoundInParts, SealedParts
from teravec.bulk.questions import Within
from teravec.errors import InvalidSource
from teravec.progress import Progress
from teravec.search.searchable import Searchable
from teravec.sources import Source
from teravec.storage.output_lock import hold_file

__all__ = ["GROUPING_BYTES", "DuplicateSummary", "Forest", "find_duplicates"]

Int64 = npt.NDArray[np.int64]

GROUPING_BYTES = 40
"""Memory of a row while rows are grouped: ids, their order and its making, the forest."""

_PAIRS = 1 << 18  # joined at a time
_ROWS = 1 << 18  # of the output written at a time

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class DuplicateSummary:
    """What was found.

    Parameters
    ----------
    rows : int
        Rows that were compared.
    pairs : int
        Pairs within the threshold, each counted from both of its rows where both found it.
    groups : int
        Groups of two rows or more.
    duplicates : int
        Rows in groups that are not kept: leaving them out leaves one row of each group.
    """

    rows: int
    pairs: int
    groups: int
    duplicates: int


class Forest:
    """Joins numbers [0, n) to groups, by arrays of pairs.

    The lowest number of a group is its root.

    Parameters
    ----------
    n : int
        The forest takes 8 bytes of memory for each.
    """

    def __init__(self, n: int) -> None:
        self._parents: Int64 = np.arange(n, dtype=np.int64)

    def join(self, ones: Int64, others: Int64) -> None:
        """Join each of ``ones`` with the same element of ``others``."""
        while len(ones):
            ones, others = self.roots(ones), self.roots(others)
            apart = ones != others
            low, high = np.minimum(ones, others)[apart], np.maximum(ones, others)[apart]
            # Of several pairs with the same higher root one wins; the others are joined next.
            np.minimum.at(self._parents, high, low)
            ones, others = low, high

    def roots(self, numbers: Int64) -> Int64:
        """Return the root of each number, and shorten the ways to it."""
        found = self._parents[numbers]
        while True:
            above = self._parents[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parents[numbers] = np.minimum(self._parents[numbers], found)
        return found


def find_duplicates(
    index: Searchable, source: Source, question: Within, out: Path, progress: Progress
) -> DuplicateSummary:
    """Write the rows that have near duplicates, with their groups.

    Parameters
    ----------
    index : Searchable
        Has the rows of the source, under the same ids.
    source : Source
    question : Within
        Leaves out each row itself.
    out : Path
        ``.parquet``, with ``id``, ``group`` (the id of the group's first row in the source) and
        ``kept`` (true for that row). Pairs are sealed in ``OUT.partial`` until it is complete.
    progress : Progress

    Raises
    ------
    InvalidArgument
        Rows, threshold or output that do not fit.
    InvalidSource
        An id occurs twice.
    """
    source.check_not(out)
    question.check(index, source)
    with hold_file(out):
        described = describe_search(index, source, question)
        parts = SealedParts(out.with_name(out.name + ".partial"), described)
        _search(index, source, question, parts, progress)
        rows = _RowsOfIds(source)
        forest, pairs = Forest(source.ntotal), 0
        if parts.rows:
            with progress.stage("group", source.ntotal, "vectors") as bar:
                pairs = _join(forest, rows, parts.found(None, source), bar.advance)
        groups, members = _write(out, rows, forest)
        parts.remove()
    return DuplicateSummary(source.ntotal, pairs, groups, members - groups)


def _search(
    index: Searchable, source: Source, question: Within, parts: SealedParts, progress: Progress
) -> None:
    with progress.stage("search", source.ntotal, "queries") as bar:
        bar.advance(parts.rows)
        for start, stop in parts.missing(source.ntotal):
            for first, found in answers(index, source, question, start, stop):
                parts.add(first, found)
                bar.advance(found.n)


class _RowsOfIds:
    """The rows of a source by their ids."""

    def __init__(self, source: Source) -> None:
        self.n, self._order = source.ntotal, None
        self._ids: Int64 | None = None
        if not source.has_ids:
            return
        ids = np.empty(source.ntotal, np.int64)
        for start in range(0, source.ntotal, _ROWS):
            stop = min(start + _ROWS, source.ntotal)
            ids[start:stop] = source.read_ids(start, stop)
        self._order = np.argsort(ids)
        self._ids = ids
        self._sorted = ids[self._order]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(twice):
            raise InvalidSource(f"id {self._sorted[twice[0]]} occurs twice; each id once expected")

    def ids(self, rows: Int64) -> Int64:
        """Return the ids of rows."""
        return rows if self._ids is None else self._ids[rows]

    def find(self, ids: Int64) -> Int64:
        """Return the row of each id; -1 where no row has it."""
        if self._order is None:
            return np.where((ids >= 0) & (ids < self.n), ids, -1)
        places = np.minimum(np.searchsorted(self._sorted, ids), self.n - 1)
        return np.where(self._sorted[places] == ids, self._order[places], -1)


def _join(forest: Forest, rows: _RowsOfIds, found: FoundInParts, advance: Any) -> int:
    pairs = at = 0
    for start in range(0, found.n, _ROWS):
        stop = min(start + _ROWS, found.n)
        counts = found.counts(start, stop)
        owners = np.arange(start, stop)
        ends = np.cumsum(counts)
        total = int(ends[-1])
        for first in range(0, total, _PAIRS):
            last = min(first + _PAIRS, total)
            _, ids = found.read(at + first, at + last)
            owner = owners[np.searchsorted(ends, np.arange(first, last), side="right")]
            others = rows.find(ids)
            known = others >= 0
            forest.join(owner[known], others[known])
            pairs += int(known.sum())
        at += total
        advance(stop - start)
    return pairs


def _write(out: Path, rows: _RowsOfIds, forest: Forest) -> tuple[int, int]:
    """Write the rows of groups of two or more; return the numbers of groups and of rows."""
    shared = np.zeros(rows.n, bool)
    for numbers in _blocks(rows.n):
        roots = forest.roots(numbers)
        shared[roots[roots != numbers]] = True
    groups = members = 0
    with (
        publishing_result(out) as file,
        pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
    ):
        for numbers in _blocks(rows.n):
            roots = forest.roots(numbers)
            inside = shared[roots]
            numbers, roots = numbers[inside], roots[inside]
            kept = numbers == roots
            columns = [rows.ids(numbers), rows.ids(roots), kept]
            arrays = [pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
            groups, members = groups + int(kept.sum()), members + len(numbers)
    return groups, members


def _blocks(n: int) -> Iterator[Int64]:
    for start in range(0, n, _ROWS):
        yield np.arange(start, min(start + _ROWS, n), dtype=np.int64)
