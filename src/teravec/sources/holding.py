"""Recognising the kinds of data in memory, and holding each as a file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources.arrays import is_vectors
from teravec.sources.columnar import Columns, ColumnTable
from teravec.sources.held import HeldFile, SlicedFile, TableFile, TensorFile, hold_array
from teravec.sources.tables import ArrowTable, FrameTable

__all__ = [
    "check_ids",
    "gives_slices",
    "hold",
    "hold_block",
    "is_frame",
    "is_held_table",
    "is_pair",
    "open_table",
]

_VECTORS = "vectors"  # column name for data without column names


def hold(path: Path, data: Any, columns: Columns) -> HeldFile:
    """Hold a matrix, table or data frame as a file, without a copy if possible.

    Parameters
    ----------
    path : Path
        Its name in messages.
    data : object
        A NumPy array, or an object that NumPy converts to one (``__array__``,
        ``__array_interface__``, ``__dlpack__``, lists of lists); a PyTorch tensor; a table of
        pyarrow, pandas or polars; a mapping of column names to any of these.
    columns : Columns

    Raises
    ------
    InvalidSource
        No readable vectors; the message says what was found and what to do.
    """
    if isinstance(data, Mapping):
        return _hold_mapping(path, data, columns)
    if (table := open_table(path, data, columns)) is not None:
        return _hold_table(table, columns)
    if columns.ids is not None or columns.vectors is not None:
        named = columns.ids if columns.vectors is None else columns.vectors
        raise InvalidSource(
            f"{path}: column {named!r} is named, but {type(data).__name__} has no columns; "
            "give its ids as ids="
        )
    if all(hasattr(data, name) for name in ("detach", "cpu", "numpy")):
        return TensorFile(path, data)
    if gives_slices(data):
        return SlicedFile(path, data)
    if isinstance(data, list | tuple):
        data = [_to_host(row) for row in data]
    array = _to_array(path, data)
    if array.dtype == object and array.ndim == 1 and len(array) and np.ndim(array[0]) == 1:
        return _hold_table(FrameTable(path, {_VECTORS: array}, len(array)), Columns())
    return hold_array(path, array)


def hold_block(path: Path, block: Any, columns: Columns) -> HeldFile:
    """Hold one item of a list or stream: as `hold`, or ``(ids, vectors)``, or a single vector."""
    if is_pair(block):
        ids, vectors = block
        file = hold_block(path, vectors, columns)
        file.hold_ids(check_ids([ids] if isinstance(ids, Integral) else ids, file.n, path))
        return file
    if isinstance(block, list | tuple) and len(block) == 1:
        return hold_block(path, block[0], columns)  # batches of a PyTorch loader are such lists
    if _count_dimensions(block) == 1 and not _is_columnar(block):
        block = _to_array(path, _to_host(block))[None]
    return hold(path, block, columns)


def is_pair(block: Any) -> bool:
    """Whether this is (ids, vectors), or one id with its vector."""
    if not isinstance(block, list | tuple) or len(block) != 2:
        return False
    ids, vectors = block
    return (_count_dimensions(ids), _count_dimensions(vectors)) == (1, 2) or (
        isinstance(ids, Integral) and _count_dimensions(vectors) == 1
    )


def is_frame(data: Any) -> bool:
    """Whether this is a pandas data frame or series, or behaves like one."""
    return hasattr(data, "iloc") and (hasattr(data, "columns") or hasattr(data, "name"))


def is_held_table(data: Any) -> bool:
    """Whether this is a table in memory, not a stream that can be read only once."""
    known = (pa.Table, pa.RecordBatch, pa.Array, pa.ChunkedArray)
    return (
        is_frame(data)
        or isinstance(data, known)
        or hasattr(data, "__arrow_c_array__")
        or (type(data).__module__.startswith("polars.") and hasattr(data, "__arrow_c_stream__"))
    )


def check_ids(ids: Any, n: int, path: Path) -> np.ndarray:
    """Return ids as int64 of shape (n,); raise InvalidArgument if one is negative or repeated."""
    found = _to_array(path, ids)
    if found.dtype.kind not in "iu" or found.shape != (n,):
        raise InvalidArgument(
            f"{path}: ids of type {found.dtype} and shape {found.shape} found, whole numbers of "
            f"shape ({n},) expected, one for each vector"
        )
    wrong = np.flatnonzero((found < 0) | (found > np.iinfo(np.int64).max))
    if len(wrong):
        raise InvalidArgument(
            f"{path}: row {wrong[0]} has id {found[wrong[0]]}, 0 to 2^63 - 1 expected"
        )
    found = found.astype(np.int64, copy=False)
    order = np.argsort(found, kind="stable")
    twice = np.flatnonzero(found[order[1:]] == found[order[:-1]])
    if len(twice):
        first, second = order[twice[0] : twice[0] + 2]
        raise InvalidArgument(
            f"{path}: id {found[first]} found at rows {first} and {second}, each once expected"
        )
    return found


def _to_array(path: Path, data: Any) -> np.ndarray:
    """Convert an object to a NumPy array; return an array unchanged."""
    if isinstance(data, np.ndarray):
        return data
    if hasattr(data, "toarray"):
        raise InvalidSource(f"{path}: sparse {type(data).__name__} found; X.toarray() is dense")
    if hasattr(data, "__cuda_array_interface__"):
        raise _device_error(path, data)
    try:
        with warnings.catch_warnings():
            # Classes with an __array__ from before NumPy 2 warn; the caller cannot change that.
            warnings.simplefilter("ignore", DeprecationWarning)
            array = np.asarray(data) if _numpy_knows(data) else np.from_dlpack(data)
    except (ValueError, TypeError, RuntimeError, BufferError, AttributeError) as error:
        if hasattr(data, "__dlpack__"):
            raise _device_error(path, data) from error
        raise InvalidSource(f"{path}: {_explain_no_matrix(data, error)}") from error
    if array.ndim == 0:
        late = next((name for name in ("collect", "compute") if hasattr(data, name)), None)
        if late is not None:  # a lazy frame of polars, dask and others
            raise InvalidSource(
                f"{path}: {type(data).__name__} found, whose rows are not computed yet; give what "
                f".{late}() returns"
            )
        raise InvalidSource(
            f"{path}: {type(data).__name__} found; a path, an array, a data frame, an Arrow table "
            "or stream, or an iterator of arrays expected"
        )
    return array


def _numpy_knows(data: Any) -> bool:
    return (
        isinstance(data, list | tuple | range)
        or not hasattr(data, "__dlpack__")
        or any(hasattr(data, name) for name in ("__array__", "__array_interface__", "__buffer__"))
    )


def gives_slices(data: Any) -> bool:
    """Whether this is another library's matrix, whose slices NumPy can convert."""
    named = ("shape", "dtype", "__getitem__", "__array__")
    if isinstance(data, np.ndarray) or not all(hasattr(data, name) for name in named):
        return False
    return isinstance(data.dtype, np.dtype) and len(data.shape) == 2


def _device_error(path: Path, data: Any) -> InvalidSource:
    return InvalidSource(
        f"{path}: {type(data).__name__} found whose memory NumPy cannot read (of a device?); "
        "copy it to the host first, as X.cpu() or X.get()"
    )


def _to_host(row: Any) -> Any:
    """Return one vector; a PyTorch tensor becomes float32 on the host."""
    return row.detach().cpu().float().numpy() if hasattr(row, "detach") else row


def _explain_no_matrix(data: Any, error: Exception) -> str:
    rows = list(data) if isinstance(data, list | tuple) else []
    lengths = [len(row) if hasattr(row, "__len__") else None for row in rows]
    for row, length in enumerate(lengths):
        if length != lengths[0]:
            what = "a number" if length is None else f"{length} values"
            return f"row {row} holds {what}, expected {lengths[0]} as in row 0"
    return f"{type(data).__name__} that NumPy makes no array of: {' '.join(str(error).split())}"


def _count_dimensions(data: Any) -> int:
    """Count the dimensions of an array or of nested lists, without a conversion."""
    if hasattr(data, "ndim"):
        return int(data.ndim)
    if hasattr(data, "shape"):
        return len(data.shape)
    if isinstance(data, list | tuple | range):
        return 1 + (_count_dimensions(data[0]) if len(data) else 0)
    if isinstance(data, pa.Array | pa.ChunkedArray):
        return 1
    known = hasattr(data, "__array__") or hasattr(data, "__array_interface__")
    return np.ndim(data) if known else 0


def _is_columnar(data: Any) -> bool:
    return isinstance(data, Mapping) or is_held_table(data)


def _hold_mapping(path: Path, data: Mapping[Any, Any], columns: Columns) -> HeldFile:
    others = [key for key in data if key not in (columns.ids, *columns.kept)]
    name = columns.vectors if columns.vectors is not None or len(others) != 1 else others[0]
    for needed in (name, *([] if columns.ids is None else [columns.ids])):
        if needed not in data:
            keys = ", ".join(map(str, data)) or "none"
            missing = "name one as vector_column=" if needed is None else f"{needed!r} expected"
            raise InvalidSource(f"{path}: columns {keys} found; {missing}")
    vectors = data[name]
    if hasattr(vectors, "with_format"):  # a DatasetDict of Hugging Face
        raise InvalidSource(f"{path}: data sets {', '.join(data)} found; give one, as X[{name!r}]")
    if columns.ids is not None:
        ids = data[columns.ids]
        single = isinstance(ids, Integral)
        file = hold_block(path, (ids if single else _to_array(path, ids), vectors), Columns())
    else:
        file = hold_block(path, vectors, Columns())
    if columns.kept:
        kept = {key: data[key] for key in data if key not in (name, columns.ids)}
        file.others = ArrowTable(path, _to_table(path, kept))
    return file


def _to_table(path: Path, data: Mapping[Any, Any]) -> Any:
    """Make a table of a mapping's columns; one value for each is one row."""
    single = {
        key: [value] if isinstance(value, str | bytes) or np.ndim(value) == 0 else value
        for key, value in data.items()
    }
    try:
        return pa.table(single)
    except (pa.ArrowException, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InvalidSource(f"{path}: columns that Arrow cannot read: {why}") from error


def open_table(path: Path, data: Any, columns: Columns) -> ColumnTable | None:
    """Open the columns of a table or data frame in memory; return None for other data."""
    if not is_held_table(data):
        return None
    if is_frame(data):
        return _open_frame(path, data)
    if type(data).__module__.startswith("polars.") and hasattr(data, "columns"):
        data = _select_columns(path, data, columns)
    return ArrowTable(path, _to_arrow(path, data))


def _select_columns(path: Path, frame: Any, columns: Columns) -> Any:
    """Keep only the needed columns of a polars frame: Arrow would copy its columns of text."""
    head = pa.table(frame.head(0)).schema
    if columns.kept == ("all",):
        return frame
    kept = {columns.ids, columns.vectors, *columns.kept} & set(head.names)
    if columns.vectors is None:
        kept |= {field.name for field in head if is_vectors(field.type)}
    complete = columns.ids in kept | {None} and columns.vectors in kept | {None}
    return (
        frame.select([name for name in head.names if name in kept]) if kept and complete else frame
    )


def _to_arrow(path: Path, data: Any) -> Any:
    """Convert data that Arrow knows to a pyarrow.Table, sharing its buffers."""
    try:
        if isinstance(data, pa.Table):
            return data
        if not isinstance(data, pa.RecordBatch | pa.Array | pa.ChunkedArray):
            has_stream = hasattr(data, "__arrow_c_stream__")
            data = pa.chunked_array(data) if has_stream else pa.array(data)
        if isinstance(data, pa.RecordBatch):
            return pa.Table.from_batches([data])
        if pa.types.is_struct(data.type):
            chunks = data.chunks if isinstance(data, pa.ChunkedArray) else [data]
            schema = pa.schema(list(data.type))
            return pa.Table.from_batches(map(pa.RecordBatch.from_struct_array, chunks), schema)
        return pa.table({_VECTORS: data})
    except (pa.ArrowException, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InvalidSource(
            f"{path}: {type(data).__name__} that Arrow cannot read: {why}"
        ) from error


def _open_frame(path: Path, frame: Any) -> FrameTable:
    if not hasattr(frame, "columns"):  # a series
        return FrameTable(path, {_VECTORS: frame.iloc}, len(frame))
    names = list(map(str, frame.columns))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidSource(f"{path}: two columns called {twice!r} found, each once expected")
    columns = {name: frame.iloc[:, place].iloc for place, name in enumerate(names)}
    return FrameTable(path, columns, len(frame))


def _hold_table(table: ColumnTable, columns: Columns) -> TableFile:
    if columns.vectors is None and not any(is_vectors(field.type) for field in table.schema):
        found = ", ".join(f"{field.name} ({field.type})" for field in table.schema) or "none"
        raise InvalidSource(
            f"{table.path}: columns {found} found, expected one of lists of numbers; where each "
            "column is a dimension, give the matrix, as df.to_numpy()"
        )
    return TableFile(table, columns)
