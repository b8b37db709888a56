"""Making the inverted file of a segment from its sealed column file, in bounded memory.

Which bins a column has follows from some of its rows alone, evenly spaced; so the same rows give
the same file, whatever the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from teravec.filters.kinds import ColumnKind, Kind, kind_of
from teravec.storage.column_types import filterable_names
from teravec.storage.columnfile import ColumnFile
from teravec.storage.invertedfile import InvertedFileWriter, verify_inverted
from teravec.storage.store import StorePath

__all__ = ["INVERTING_BYTES", "invert_columns", "inverted_schema"]

Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
Entries = tuple[UInt32, Any]
"""Rows (n,), ascending, and a value of each; of lists, each element with its row."""
Pieces = Callable[[], Iterator[Entries]]

INVERTING_BYTES = 64 << 20
"""Memory for inverting, where nobody says."""

_PIECE_BYTES, _PIECE_ROWS = 8 << 20, 1 << 20
_MOST_BYTES = 256 << 20  # of values together: Arrow's strings end at 2 GiB


class BinSizes(NamedTuple):
    """How a column is divided into bins.

    Attributes
    ----------
    sampled : int
        Rows that bins are chosen by.
    few : int
        Distinct values among these that get a bin each.
    most : int
        About so many bins else.
    least_rows : int
        About so many rows at least of a bin of several values.
    """

    sampled: int = 1 << 16
    few: int = 1024
    most: int = 2048
    least_rows: int = 256


USUAL_BINS = BinSizes()
"""What users get."""

_ENTRY_BYTES = 48  # in memory, besides the value


def inverted_schema(schema: Any) -> Any:
    """Return the schema of the columns that have inverted files; None without any."""
    names = [] if schema is None else filterable_names(schema)
    return pa.schema([schema.field(name) for name in names]) if names else None


def invert_columns(
    path: StorePath,
    columns: ColumnFile,
    schema: Any,
    memory_bytes: int,
    sizes: BinSizes = USUAL_BINS,
) -> None:
    """Seal the inverted file of a column file.

    Parameters
    ----------
    path : StorePath
    columns : ColumnFile
    schema : pyarrow.Schema
        Of the columns to invert.
    memory_bytes : int
        For the values of some bins; the more, the fewer times the column is read.
    sizes : BinSizes
    """
    with path.publish(verify_inverted) as file:
        writer = InvertedFileWriter(file, columns.header, schema)
        for column in schema:
            _Inverting(columns, column, writer, memory_bytes, sizes).write()
        writer.finish()


class _Bins(NamedTuple):
    """How values are divided: edges ascending, and which of them are bins of their own.

    A value's bin is 2 i + 1 if it is the i-th edge and that edge has its own bin, else 2 i + 2 with
    i the last edge that is not above it, or 0.
    """

    edges: npt.NDArray[Any]
    own: npt.NDArray[np.bool_]

    def of(self, ticks: npt.NDArray[Any]) -> Int64:
        at = np.searchsorted(self.edges, ticks, side="right") - 1
        inside = np.maximum(at, 0)
        own = (at >= 0) & self.own[inside] & (self.edges[inside] == ticks)
        return np.asarray(2 * (at + 1) - own, np.int64)


class _Inverting:
    """One column on its way into the file."""

    def __init__(
        self,
        columns: ColumnFile,
        column: Any,
        writer: InvertedFileWriter,
        memory_bytes: int,
        sizes: BinSizes,
    ) -> None:
        self._sizes = sizes
        self._columns, self._name, self._writer = columns, column.name, writer
        self._kind: ColumnKind = kind_of(column.type)
        self._is_list, self._memory_bytes = self._kind.is_list, min(memory_bytes, _MOST_BYTES)
        self._nulls: list[UInt32] = []

    def write(self) -> None:
        held, size = [], 0
        for entries in self._read():  # all of the column, if it fits
            size += entries[1].nbytes + _ENTRY_BYTES * len(entries[0])
            if size <= self._memory_bytes:
                held.append(entries)
        fits = size <= self._memory_bytes
        pieces: Pieces = (lambda: iter(held)) if fits else self._read
        nulls = np.concatenate([np.empty(0, np.uint32), *self._nulls])
        self._writer.begin_column(nulls)
        bins = self._choose_bins(pieces)
        nbins = 2 * len(bins.edges) + 1
        passes = min(nbins, -(-size // self._memory_bytes)) if not fits else 1
        if not fits:
            held.clear()
        for number in range(passes):
            first, last = nbins * number // passes, nbins * (number + 1) // passes
            self._write_bins(pieces, bins, first, last)

    def _read(self) -> Iterator[Entries]:
        """Yield the values, without nulls and not-a-numbers; keep the rows of nulls."""
        file, self._nulls = self._columns, []
        for start, stop in file.plan_pieces(0, file.header.ntotal, _PIECE_BYTES, _PIECE_ROWS):
            values = file.read(start, stop, [self._name]).column(0).combine_chunks()
            rows = np.arange(start, stop, dtype=np.uint32)
            if values.null_count:
                null = np.asarray(values.is_null())
                self._nulls.append(rows[null])
            if self._is_list:
                rows = rows[np.asarray(pc.list_parent_indices(values))]
                values = pc.list_flatten(values)
            usable = pc.is_valid(values)
            if self._kind.kind is Kind.FLOAT:
                if pa.types.is_float16(values.type):
                    usable = pc.and_(usable, pc.invert(pc.is_nan(values.cast(pa.float32()))))
                else:
                    usable = pc.and_(usable, pc.invert(pc.is_nan(values)))
            usable = pc.fill_null(usable, False)
            if pc.all(usable).as_py() is False:
                values, rows = values.filter(usable), rows[np.asarray(usable)]
            yield rows, values

    def _choose_bins(self, pieces: Pieces) -> _Bins:
        step, seen, sample = max(1, self._columns.header.ntotal // self._sizes.sampled), 0, []
        for rows, values in pieces():
            wanted = np.arange(-seen % step, len(rows), step)
            sample.append(self._kind.ticks(values.take(pa.array(wanted))))
            seen += len(rows)
        edges, counts = (
            np.unique(np.concatenate(sample), return_counts=True)
            if sample
            else (np.empty(0, np.int64), np.empty(0, np.int64))
        )
        if len(edges) <= self._sizes.few:
            return _Bins(edges, np.ones(len(edges), np.bool_))
        least = max(self._sizes.least_rows // step, int(counts.sum()) // self._sizes.most, 1)
        chosen, own, held = [], [], least  # the first edge begins a bin
        for at, count in enumerate(counts.tolist()):
            if count >= least:
                chosen.append(at)
                own.append(True)
                held = least
            elif held >= least:
                chosen.append(at)
                own.append(False)
                held = count
            else:
                held += count
        return _Bins(edges[chosen], np.array(own, np.bool_))

    def _write_bins(self, pieces: Pieces, bins: _Bins, first: int, last: int) -> None:
        """Write bins [first, last), those that have rows."""
        numbers, rows, values = [], [], []
        for row, value in pieces():
            number = self._number(value, bins)
            mine = (number >= first) & (number < last)
            if not mine.all():
                number, row, value = number[mine], row[mine], value.filter(pa.array(mine))
            numbers.append(number)
            rows.append(row)
            values.append(value)
        if not values:
            return
        number = np.concatenate(numbers)
        order = np.argsort(number, kind="stable")
        number, row = number[order], np.concatenate(rows)[order]
        value = pa.concat_arrays(values)
        starts = np.flatnonzero(np.diff(number, prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(number)]):
            # Taken, not sliced: what lies around a slice would be written too.
            self._write_bin(row[start:stop], value.take(pa.array(order[start:stop])))

    def _number(self, values: Any, bins: _Bins) -> Int64:
        """Return the bin of each value, (n,); repeated values are compared once."""
        if pa.types.is_float16(values.type):  # of which Arrow makes no dictionary
            return bins.of(self._kind.ticks(values))
        shared = values.dictionary_encode()
        found = bins.of(self._kind.ticks(shared.dictionary))
        return found[np.asarray(shared.indices)] if len(found) else np.empty(0, np.int64)

    def _write_bin(self, rows: UInt32, values: Any) -> None:
        low, high = _bounds(values)
        distinct = np.flatnonzero(np.diff(rows, prepend=np.int64(-1)))
        if low == high:
            self._writer.write_bin(rows[distinct], low, low, None)
        elif self._is_list:
            offsets = pa.array(np.append(distinct, len(rows)).astype(np.int32))
            lists = pa.ListArray.from_arrays(offsets, values)
            self._writer.write_bin(rows[distinct], low, high, lists)
        else:
            self._writer.write_bin(rows, low, high, values)


def _bounds(values: Any) -> tuple[Any, Any]:
    if pa.types.is_float16(values.type):
        found = np.asarray(values)
        return pa.scalar(found.min(), values.type), pa.scalar(found.max(), values.type)
    found = pc.min_max(values)
    return found["min"], found["max"]
