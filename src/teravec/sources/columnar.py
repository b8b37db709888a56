"""What Parquet and Arrow IPC files share: a vector column, and an id column where one is named."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from teravec.errors import InvalidSource, TeravecError
from teravec.sources.arrays import (
    VECTOR_TYPES,
    decode_ids,
    decode_vectors,
    is_vectors,
    list_length,
    value_dtype,
)
from teravec.sources.cursor import ColumnReader
from teravec.sources.vectorfile import RowReader, VectorFile, source_errors

__all__ = ["ColumnTable", "ColumnarFile", "Columns", "arrow_errors"]

_PIECE_BYTES = 2 << 20
_ID_ROWS = 64 << 10


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None for row numbers, and for the only vector column."""

    ids: str | None = None
    vectors: str | None = None


class ColumnTable(ABC):
    """A file of columns in groups of rows (row groups, record batches).

    Attributes
    ----------
    path : Path
    size_bytes : int
    schema : pyarrow.Schema
    names : list of str
        Columns, in order.
    starts : ndarray of shape (groups + 1,), int64
        First row of each group; the last entry is the number of rows.
    """

    def __init__(self, path: Path, size_bytes: int, schema: Any, group_rows: list[int]) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.schema = schema
        self.names: list[str] = schema.names  # decoded here, where pyarrow's errors are caught
        self.starts = np.concatenate(([0], np.cumsum(group_rows, dtype=np.int64)))

    @abstractmethod
    def arrays(self, column: str, group: int, rows: int) -> Iterator[Any]:
        """Decode a column from a group's first row to the file's end.

        Yields
        ------
        pyarrow.Array
            ``rows`` rows or fewer at a time where the format can stop inside a group.
        """

    def pieces(self, column: str, group: int, rows: int) -> Iterator[tuple[int, Any]]:
        """As `arrays`, each with its first row's number, and errors named after the file."""
        row = int(self.starts[group])
        arrays = self.arrays(column, group, rows)
        while True:
            with arrow_errors(self.path):
                array = next(arrays, None)
                if array is None:
                    return
                array.validate(full=True)  # IPC hands on whatever offsets a damaged file claims
            yield row, array
            row += len(array)


class ColumnarFile(VectorFile):
    """The vectors of one column of a table, and the ids of another.

    Raises
    ------
    InvalidSource
        No column, or more than one, that could be meant, or one of an unfit type.
    """

    is_decoded = True

    def __init__(self, table: ColumnTable, columns: Columns) -> None:
        name = _vector_column(table, columns.vectors)
        kind = table.schema.field(name).type
        dtype = value_dtype(kind)
        n = int(table.starts[-1])
        d = _dimension(table, name) if n else list_length(kind) or 0
        super().__init__(table.path, n, d, dtype, table.size_bytes)
        self.vector_column = name
        self._table = table
        rows = max(1, _PIECE_BYTES // max(1, d * dtype.itemsize))
        self._vectors = ColumnReader(table.path, table.starts, partial(self._matrices, rows=rows))
        self._id_column = columns.ids
        if columns.ids is not None:
            _check_id_column(table, columns.ids)
        self._ids = ColumnReader(table.path, table.starts, self._id_arrays)

    @contextmanager
    def reading(self) -> Iterator[RowReader]:
        """Yield a reader that goes on from where an earlier one stopped."""
        yield self._vectors.read

    def read_ids(self, start: int, stop: int) -> np.ndarray | None:
        """Read the id column of rows [start, stop); None where none is named."""
        return None if self._id_column is None else self._ids.read(start, stop)

    def release(self) -> None:
        """Close the file and forget decoded rows."""
        self._vectors.release()
        self._ids.release()

    def _matrices(self, group: int, *, rows: int) -> Iterator[np.ndarray]:
        assert self.vector_column is not None
        for row, array in self._table.pieces(self.vector_column, group, rows):
            yield decode_vectors(self.path, array, row, self.d)

    def _id_arrays(self, group: int) -> Iterator[np.ndarray]:
        assert self._id_column is not None
        for row, array in self._table.pieces(self._id_column, group, _ID_ROWS):
            yield decode_ids(self.path, array, row)


@contextmanager
def arrow_errors(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises into typed errors; it also raises ``OSError`` for corrupt bytes."""
    try:
        yield
    except TeravecError:
        raise
    except OSError as error:
        if error.errno is not None:
            with source_errors(path):
                raise
        raise _unsound(path, error) from error
    except (pa.ArrowException, ValueError) as error:  # a name that is not UTF-8 is a ValueError
        raise _unsound(path, error) from error


def _unsound(path: Path, error: Exception) -> InvalidSource:
    why = " ".join(str(error).split())
    return InvalidSource(f"{path}: not a sound {path.suffix} file: {why}")


def _vector_column(table: ColumnTable, named: str | None) -> str:
    if named is not None:
        kind = _column_type(table, named)
        if not is_vectors(kind):
            raise InvalidSource(
                f"{table.path}: column {named!r} of type {kind} found, expected {VECTOR_TYPES}"
            )
        return named
    candidates = [field.name for field in table.schema if is_vectors(field.type)]
    if len(candidates) > 1:
        raise InvalidSource(
            f"{table.path}: vector columns {', '.join(candidates)} found, expected one; "
            "name the column to read"
        )
    if not candidates:
        found = ", ".join(f"{field.name} ({field.type})" for field in table.schema) or "none"
        raise InvalidSource(f"{table.path}: columns {found} found, expected {VECTOR_TYPES}")
    return str(candidates[0])


def _check_id_column(table: ColumnTable, name: str) -> None:
    kind = _column_type(table, name)
    if not pa.types.is_integer(kind):
        raise InvalidSource(
            f"{table.path}: id column {name!r} of type {kind} found, expected an integer type"
        )


def _column_type(table: ColumnTable, name: str) -> Any:
    if len(table.schema.get_all_field_indices(name)) != 1:
        names = ", ".join(table.names) or "none"
        raise InvalidSource(
            f"{table.path}: columns {names} found, expected exactly one called {name!r}"
        )
    return table.schema.field(name).type


def _dimension(table: ColumnTable, name: str) -> int:
    """Dimension that the type states, or else the length of row 0."""
    stated = list_length(table.schema.field(name).type)
    if stated is not None:
        return stated
    for _, array in table.pieces(name, 0, 1):
        if len(array):
            if array[0].as_py() is None:
                raise InvalidSource(f"{table.path}: row 0 has a null vector, expected a vector")
            return len(array[0])
    raise InvalidSource(f"{table.path}: no row found, expected {table.starts[-1]}")
