"""The common part of Parquet and Arrow files: a vector column and an optional id column."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from teravec.errors import InvalidSource, TeravecError
from teravec.sources.arrays import (
    VECTOR_TYPES,
    VectorKind,
    decode_ids,
    decode_vectors,
    first_length,
    how_to_convert,
    is_id,
    is_vectors,
    vector_kind,
)
from teravec.sources.cursor import ColumnReader
from teravec.sources.remote import SourcePath
from teravec.sources.vectorfile import RowReader, VectorFile, source_errors
from teravec.storage.text_ids import is_text_id

__all__ = ["ColumnPath", "ColumnTable", "ColumnarFile", "Columns", "arrow_errors", "resolve_column"]

_PIECE_BYTES = 2 << 20
_ID_ROWS = 64 << 10
_FIRST_ROWS = 1 << 10
_NAMED, _MOST_NAMES = 10, 50  # most columns in a message, with and without their types


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    Parameters
    ----------
    ids, vectors : str, optional
        Names of columns, or dotted names of fields in structs. Without ``ids``, ids are row
        numbers. Without ``vectors``, the table must have one vector column.
    lenient : bool
        Read bad rows as NaN instead of raising.
    kept : tuple of str
        Columns that the index keeps beside the vectors; ``("all",)`` for every one.
    """

    ids: str | None = None
    vectors: str | None = None
    lenient: bool = False
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnPath:
    """A column, or a field inside a column of structs.

    Parameters
    ----------
    name : str
        The user's notation, such as "embedding.values".
    column : str
        The column.
    fields : tuple of str
        Names of the fields from the column down.
    kind : pyarrow.DataType
    """

    name: str
    column: str
    fields: tuple[str, ...]
    kind: Any

    def child(self, field: Any) -> ColumnPath:
        """Return the path of one field of this struct."""
        name, fields = f"{self.name}.{field.name}", (*self.fields, field.name)
        return ColumnPath(name, self.column, fields, field.type)

    def field(self, array: Any) -> Any:
        """Take the field's array out of the column's; null where a struct above it is null."""
        for name in self.fields:
            array = array.storage if isinstance(array, pa.ExtensionArray) else array
            array = pc.struct_field(array, name)
        return array


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

    def __init__(
        self, path: SourcePath, size_bytes: int, schema: Any, group_rows: list[int]
    ) -> None:
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

    def value_bytes(self, column: str) -> float:
        """Return about how many bytes a value of the column takes in memory, if that is known."""
        return 1.0

    def pieces(self, path: ColumnPath, group: int, rows: int) -> Iterator[tuple[int, Any]]:
        """Yield `arrays` with the numbers of their first rows; errors name the file."""
        row = int(self.starts[group])
        arrays = self.arrays(path.column, group, rows)
        while True:
            with arrow_errors(self.path):
                array = next(arrays, None)
                if array is None:
                    return
                array.validate(full=True)  # pyarrow passes on the offsets of a damaged IPC file
                array = path.field(array)
            yield row, array
            row += len(array)


class ColumnarFile(VectorFile):
    """The vectors of one column of a table, and the ids of another.

    Raises
    ------
    InvalidSource
        No column fits, several fit, or the named column has an unsuitable type.
    """

    is_decoded = True

    def __init__(self, table: ColumnTable, columns: Columns) -> None:
        with arrow_errors(table.path):  # names may not be UTF-8
            self._column = _find_vector_column(table, columns.vectors)
            ids = None if columns.ids is None else _id_column(table, columns.ids)
        kind = vector_kind(self._column.kind)
        assert kind is not None
        n = int(table.starts[-1])
        d = kind.d or (_first_dimension(table, self._column, columns.lenient) if n else 0)
        super().__init__(table.path, n, d, kind.dtype, table.size_bytes)
        self.vector_column = self._column.name
        self.table, self._lenient = table, columns.lenient
        rows = max(1, _PIECE_BYTES // max(1, d * kind.dtype.itemsize))
        self._vectors = ColumnReader(table.path, table.starts, partial(self._matrices, rows=rows))
        self._id_column = ids
        self.has_text_ids = ids is not None and is_text_id(ids.kind)
        self._ids = ColumnReader(table.path, table.starts, self._id_arrays)

    @contextmanager
    def reading(self) -> Iterator[RowReader]:
        """Yield a reader that continues where an earlier one stopped."""
        yield self._vectors.read

    def read_ids(self, start: int, stop: int) -> np.ndarray | None:
        """Read the id column of rows [start, stop); None without an id column."""
        return None if self._id_column is None else self._ids.read(start, stop)

    def release(self) -> None:
        """Close the file and drop decoded rows."""
        self._vectors.release()
        self._ids.release()

    def _matrices(self, group: int, *, rows: int) -> Iterator[np.ndarray]:
        for row, array in self.table.pieces(self._column, group, rows):
            yield decode_vectors(self.path, array, row, self.d, lenient=self._lenient)

    def _id_arrays(self, group: int) -> Iterator[np.ndarray]:
        assert self._id_column is not None
        for row, array in self.table.pieces(self._id_column, group, _ID_ROWS):
            yield decode_ids(self.path, array, row, lenient=self._lenient)


@contextmanager
def arrow_errors(path: SourcePath) -> Iterator[None]:
    """Turn pyarrow's errors into typed errors; pyarrow raises ``OSError`` for corrupt bytes too."""
    try:
        yield
    except TeravecError:
        raise
    except OSError as error:
        if error.errno is not None:
            with source_errors(path):
                raise
        raise _unsound_error(path, error) from error
    except (pa.ArrowException, ValueError) as error:  # a name that is not UTF-8 is a ValueError
        raise _unsound_error(path, error) from error


def _unsound_error(path: SourcePath, error: Exception) -> InvalidSource:
    why = " ".join(str(error).split())
    return InvalidSource(f"{path}: not a sound file of its format: {why}")


def _find_vector_column(table: ColumnTable, named: str | None) -> ColumnPath:
    if named is not None:
        path = resolve_column(table, named)
        if not is_vectors(path.kind):
            raise InvalidSource(
                f"{table.path}: column {named!r} of type {path.kind} found, "
                f"expected {VECTOR_TYPES}{how_to_convert(path.kind)}"
            )
        return path
    vectors = [path for path in _list_columns(table) if is_vectors(path.kind)]
    best = min((_kind(path).rank for path in vectors), default=0)
    candidates = [path for path in vectors if _kind(path).rank == best]
    if len(candidates) > 1:
        raise InvalidSource(
            f"{table.path}: vector columns {_join_names(candidates)} found, expected one; "
            f"name the column to read: --vector-column {candidates[0].name}"
        )
    if not candidates:
        raise InvalidSource(_explain_no_vectors(table))
    return candidates[0]


def _explain_no_vectors(table: ColumnTable) -> str:
    """Describe the columns of a table without vectors, and advise what to do."""
    found = (
        ", ".join(f"{path.name} ({path.kind})" for path in _list_columns(table)[:_NAMED]) or "none"
    )
    more = len(table.names) - _NAMED
    found += f" and {more:,} more" if more > 0 else ""
    message = f"{table.path}: columns {found} found, expected {VECTOR_TYPES}"
    inside = [path for path in _list_all_paths(table) if is_vectors(path.kind)]
    if inside:
        return f"{message}; name the field to read: --vector-column {inside[0].name}"
    if sum(pa.types.is_floating(path.kind) for path in _list_columns(table)) > 1:
        values = "df.select_dtypes('floating').to_numpy('float32')"
        return f"{message}; one column a dimension is saved as np.save('x.npy', {values})"
    hints = (how_to_convert(path.kind) for path in _list_columns(table))
    return message + next((hint for hint in hints if hint), "")


def _id_column(table: ColumnTable, name: str) -> ColumnPath:
    path = resolve_column(table, name)
    if not is_id(path.kind) and not is_text_id(path.kind):
        hint = (
            "other types of ids are not supported: leave out --id-column (id_column), and join by "
            "row number, which is then the id"
        )
        if pa.types.is_floating(path.kind):
            hint = f"cast it: {name}.astype('int64')"
        raise InvalidSource(
            f"{table.path}: id column {name!r} of type {path.kind} found, "
            f"expected integers, strings or UUIDs; {hint}"
        )
    return path


def resolve_column(table: ColumnTable, name: str) -> ColumnPath:
    """Find the column of this name, or else the field: a column's own name may have dots."""
    count = len(table.schema.get_all_field_indices(name))
    if count == 1:
        return ColumnPath(name, name, (), table.schema.field(name).type)
    paths = [] if count else [path for path in _list_all_paths(table) if path.name == name]
    if len(paths) != 1:
        fields = [path.name for path in _list_all_paths(table) if path.fields]
        names = ", ".join(table.names[:_MOST_NAMES]) or "none"
        more = len(table.names) - _MOST_NAMES
        names += f" and {more:,} more" if more > 0 else ""
        inside = f" (with fields {', '.join(fields[:_NAMED])})" if fields else ""
        raise InvalidSource(
            f"{table.path}: columns {names}{inside} found, expected exactly one called {name!r}"
        )
    return paths[0]


def _list_columns(table: ColumnTable) -> list[ColumnPath]:
    return [ColumnPath(field.name, field.name, (), field.type) for field in table.schema]


def _list_all_paths(table: ColumnTable) -> list[ColumnPath]:
    """List the columns, and the fields of structs at any depth."""
    found, left = [], _list_columns(table)
    while left:
        path = left.pop(0)
        found.append(path)
        kind = path.kind
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        if pa.types.is_struct(kind):
            left += [path.child(field) for field in kind]
    return found


def _kind(path: ColumnPath) -> VectorKind:
    kind = vector_kind(path.kind)
    assert kind is not None
    return kind


def _join_names(paths: list[ColumnPath]) -> str:
    return ", ".join(path.name for path in paths)


def _first_dimension(table: ColumnTable, column: ColumnPath, lenient: bool) -> int:
    """Read the length of row 0; if ``lenient``, the commonest length in the first piece."""
    for row, array in table.pieces(column, 0, _FIRST_ROWS if lenient else 1):
        length = first_length(array, table.path, row, lenient=lenient)
        if length is not None:
            return length
    raise InvalidSource(f"{table.path}: no row with a vector found, {table.starts[-1]:,} rows read")
