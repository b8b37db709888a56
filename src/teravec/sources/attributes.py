"""Attributes: the columns that an index keeps for each vector.

They are other columns of the source's own files, or those of tables beside them whose rows are the
source's rows, bad rows included. They are read by ranges of rows, in pieces of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash

from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources.columnar import ColumnPath, ColumnTable, arrow_errors, resolve_column
from teravec.storage.column_chunk import encode_chunk
from teravec.storage.column_types import SUPPORTED, name_type, schema_content, stored_type
from teravec.storage.columnfile import ColumnFile

__all__ = [
    "ALL",
    "Attributes",
    "RowsOfColumns",
    "SealedColumns",
    "TableColumns",
    "choose_columns",
    "parse_columns",
]

ALL = ("all",)
"""Stands for every column but those of vectors and ids."""


def parse_columns(columns: Any) -> tuple[str, ...]:
    """Return names of columns: a list of them, one text with commas between them, or "all".

    Raises
    ------
    InvalidArgument
    """
    if columns is None:
        return ()
    if isinstance(columns, str):
        columns = [name.strip() for name in columns.split(",")]
    if not isinstance(columns, list | tuple) or not all(isinstance(c, str) for c in columns):
        raise InvalidArgument(f"columns is {columns!r}; a list of names expected, or 'all'")
    if not columns or not all(columns):
        raise InvalidArgument("columns: an empty name found; names expected, or 'all'")
    return tuple(columns)


_PIECE_ROWS = 8192
_PIECE_BYTES = 4 << 20
_DIGESTED = 64  # pieces of each set of columns that a fingerprint is made of
_DIGESTED_ROWS = 4096


class RowsOfColumns(Protocol):
    """Some rows of the columns: of one file or table.

    Attributes
    ----------
    name : str
        Names the file in messages.
    n : int
        Rows.
    schema : pyarrow.Schema
        Of stored types.
    """

    name: str
    n: int
    schema: Any

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Yield rows [start, stop) as RecordBatches of a few MiB."""
        ...


class TableColumns:
    """Columns of a file of columns, or of a table in memory.

    Parameters
    ----------
    table : ColumnTable
    names : sequence of str
        Columns, or dotted names of fields in structs.

    Raises
    ------
    InvalidSource
        There is no such column, or it has a type that cannot be kept.
    """

    def __init__(self, table: ColumnTable, names: Sequence[str]) -> None:
        self.name, self.n, self._table = str(table.path), int(table.starts[-1]), table
        with arrow_errors(table.path):
            self._paths = [resolve_column(table, name) for name in names]
        self.schema = pa.schema([self._field(path) for path in self._paths])

    def _field(self, path: ColumnPath) -> Any:
        kind = stored_type(path.kind)
        if kind is None:
            raise InvalidSource(
                f"{self.name}: column {path.name!r} of type {path.kind} found; columns may be "
                f"{SUPPORTED}: leave it out of the columns, or convert it"
            )
        outer = self._table.schema.field(path.column)
        return pa.field(path.name, kind, outer.nullable or bool(path.fields))

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Yield rows [start, stop) as RecordBatches of a few MiB."""
        if start >= stop:
            return
        group = int(np.searchsorted(self._table.starts, start, side="right")) - 1
        row = int(self._table.starts[group])
        pieces = [
            _Pieces(self._table.pieces(path, group, self._rows_each(path)), field, self.name)
            for path, field in zip(self._paths, self.schema, strict=True)
        ]
        try:
            while row < stop:
                ready = [piece.look() for piece in pieces]
                count = min([stop - row, *map(len, ready)])
                arrays = [piece.take(count) for piece in pieces]
                skipped = max(0, start - row)
                if skipped < count:
                    arrays = [array.slice(skipped) for array in arrays]
                    yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)
                row += count
        finally:
            for piece in pieces:
                piece.close()

    def _rows_each(self, path: ColumnPath) -> int:
        each = self._table.value_bytes(path.column)
        return int(max(1, min(_PIECE_ROWS, _PIECE_BYTES // max(1.0, each))))


class _Pieces:
    """A column's pieces, of which any number of rows can be taken."""

    def __init__(self, pieces: Iterator[tuple[int, Any]], field: Any, name: str) -> None:
        self._pieces, self._field, self._name = pieces, field, name
        self._left: Any = pa.array([], field.type)

    def look(self) -> Any:
        """Return the rows that are there; read on if there are none."""
        while not len(self._left):
            found = next(self._pieces, None)
            if found is None:
                raise InvalidSource(
                    f"{self._name}: column {self._field.name!r} ends too early; the file has "
                    "changed since it was opened"
                )
            self._left = _store(found[1], self._field, f"{self._name}: row {found[0]}")
        return self._left

    def take(self, count: int) -> Any:
        """Take the first of the rows that are there."""
        taken, self._left = self._left.slice(0, count), self._left.slice(count)
        return taken

    def close(self) -> None:
        """End reading."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


def _store(array: Any, field: Any, place: str) -> Any:
    """Convert an array to its stored type."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    try:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif pa.types.is_run_end_encoded(array.type):
            array = pa.compute.run_end_decode(array)
        stored = array if array.type == field.type else array.cast(field.type)
    except (pa.ArrowException, ValueError) as error:
        why = " ".join(str(error).split())
        raise InvalidSource(f"{place}: column {field.name!r} is not {field.type}: {why}") from error
    return stored


class SealedColumns:
    """The columns of a sealed column file, to which a stream's were written."""

    def __init__(self, file: ColumnFile, names: Sequence[str] | None = None) -> None:
        self.name, self.n, self._file = file.path, file.header.ntotal, file
        self._names = file.schema.names if names is None else list(names)
        self.schema = pa.schema([file.schema.field(name) for name in self._names])

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Yield rows [start, stop) as RecordBatches of a few MiB."""
        for low, high in self._file.plan_pieces(start, stop, _PIECE_BYTES, _PIECE_ROWS):
            yield from self._file.read(low, high, self._names).combine_chunks().to_batches()


@dataclass(frozen=True)
class Attributes:
    """The columns of all rows of a source.

    Parameters
    ----------
    parts : tuple of RowsOfColumns
        One after another; their rows are those of the source's files.
    beside : dict, optional
        Describes the table beside the vectors, for a build's record: name, size, fingerprint.
    path : str, optional
        The file of that table, from which another process can open it.
    declared : pyarrow.Schema, optional
        The index's, of the same types: it says which columns hold no nulls.
    """

    parts: tuple[RowsOfColumns, ...]
    beside: dict[str, Any] | None = None
    path: str | None = None
    declared: Any = None

    def __post_init__(self) -> None:
        first = self.parts[0]
        for part in self.parts[1:]:
            for ours, theirs in zip(first.schema, part.schema, strict=True):
                if ours.type != theirs.type:
                    raise InvalidSource(
                        f"{part.name}: column {theirs.name!r} of type {name_type(theirs.type)} "
                        f"found, expected {name_type(ours.type)} as in {first.name}"
                    )

    @property
    def schema(self) -> Any:
        """Names and types; a column is nullable if it is in any part, unless declared."""
        if self.declared is not None:
            return self.declared
        fields = zip(*(part.schema for part in self.parts), strict=True)
        return pa.schema(
            [each[0].with_nullable(any(field.nullable for field in each)) for each in fields]
        )

    def reorder(self, order: Sequence[int]) -> Attributes:
        """Return the columns of the source's files in another order."""
        if self.beside is not None or len(order) != len(self.parts):
            return self  # a table beside the files has the order that the user sees
        return replace(self, parts=tuple(self.parts[i] for i in order))

    @property
    def n(self) -> int:
        """Rows."""
        return sum(part.n for part in self.parts)

    def check_rows(self, n: int, what: str) -> None:
        """Raise InvalidSource unless there are as many rows as vectors."""
        if self.n != n:
            raise InvalidSource(
                f"{self.parts[0].name}: {self.n:,} rows found, {n:,} expected, one for each row "
                f"of {what}"
            )

    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Yield rows [start, stop) of the files as RecordBatches of a few MiB."""
        schema, begin = self.schema, 0
        for part in self.parts:
            low, high = max(start, begin) - begin, min(stop, begin + part.n) - begin
            if low < high:
                with closing(part.batches(low, high)) as batches:  # type: ignore[type-var]
                    for batch in batches:
                        _check_nulls(batch, schema, part.name)
                        yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
            begin += part.n

    def describe(self, *, by_content: bool) -> dict[str, Any]:
        """Describe the columns, so that a resumed build recognises them.

        The files of a source have fingerprints of their own; ``by_content`` adds one of values.
        """
        described: dict[str, Any] = {"schema": schema_content(self.schema)}
        if self.beside is not None:
            described["beside"] = self.beside
        elif by_content:
            described["fingerprint"] = self._digest()
        return described

    def _digest(self) -> str:
        """Digest the values of some evenly spaced rows, or of all if they are few."""
        digest = xxhash.xxh3_64(self.n.to_bytes(8, "little"))
        starts = np.arange(0, self.n, _DIGESTED_ROWS)
        if len(starts) > _DIGESTED:
            starts = np.linspace(0, self.n - _DIGESTED_ROWS, _DIGESTED).astype(np.int64)
        for start in starts.tolist():
            batches = self.batches(start, min(self.n, start + _DIGESTED_ROWS))
            for column in pa.Table.from_batches(batches, self.schema).combine_chunks().columns:
                digest.update(encode_chunk(column.chunk(0)))
        return digest.hexdigest()


def _check_nulls(batch: Any, schema: Any, name: str) -> None:
    for column, field in zip(batch.columns, schema, strict=True):
        if column.null_count and not field.nullable:
            raise InvalidSource(f"{name}: column {field.name!r} holds a null; it may not here")


def choose_columns(
    tables: Sequence[ColumnTable], columns: Sequence[str], others: Sequence[str | None]
) -> list[str]:
    """Return the names of columns asked for: of ``ALL``, those of the first table.

    Parameters
    ----------
    tables : sequence of ColumnTable
    columns : sequence of str
    others : sequence of str or None
        The columns of vectors and of ids, which ``ALL`` leaves out.

    Raises
    ------
    InvalidArgument
        A column is named twice.
    InvalidSource
        There are no columns besides those of vectors and ids.
    """
    if tuple(columns) == ALL and "all" not in tables[0].names:
        left = {name.split(".")[0] for name in others if name is not None}
        columns = [name for name in tables[0].names if name not in left]
    if not columns:
        raise InvalidSource(f"{tables[0].path}: no columns besides vectors and ids found")
    for name in columns:
        if list(columns).count(name) > 1:
            raise InvalidArgument(f"column {name!r} is named twice; each once expected")
    return list(columns)
