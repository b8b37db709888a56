"""Arrow columns as NumPy arrays: which types hold vectors and ids, and what rows must not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from teravec.errors import InvalidSource

__all__ = ["decode_ids", "decode_vectors", "is_vectors", "list_length", "value_dtype"]

_DTYPES: dict[Any, np.dtype] = {
    pa.float32(): np.dtype("f4"),
    pa.float64(): np.dtype("f8"),
    pa.float16(): np.dtype("f2"),
    pa.int8(): np.dtype("i1"),
    pa.uint8(): np.dtype("u1"),
}

VECTOR_TYPES = "a list or fixed-size list of " + ", ".join(dtype.name for dtype in _DTYPES.values())
"""Column types that are read as vectors, in words."""


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def is_vectors(kind: Any) -> bool:
    """Whether a column of this Arrow type can be read as vectors."""
    return _is_list(kind) and kind.value_type in _DTYPES


def value_dtype(kind: Any) -> np.dtype:
    """Element type of a vector column."""
    return _DTYPES[kind.value_type]


def list_length(kind: Any) -> int | None:
    """Dimension that the type itself states; None for lists of free length."""
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None


def decode_vectors(path: Path, array: Any, first: int, d: int) -> np.ndarray:
    """View one piece of a vector column as a matrix.

    Parameters
    ----------
    path : Path
        For messages, with ``first``, the row in the file of the piece's first row.
    array : pyarrow.Array
        List array of a type that `is_vectors` takes.
    d : int
        Length that every list must have.

    Returns
    -------
    ndarray of shape (len(array), d)
        A view of Arrow's memory where that is possible.

    Raises
    ------
    InvalidSource
        A null row, a null inside a row, or a list of another length; the message names the row.
    """
    _refuse_nulls(path, array, first, "vector")
    if not pa.types.is_fixed_size_list(array.type):
        lengths = np.diff(array.offsets.to_numpy())
        wrong = np.flatnonzero(lengths != d)
        if wrong.size:
            row = int(wrong[0])
            raise InvalidSource(
                f"{path}: row {first + row} holds {lengths[row]} values, expected {d} as in row 0"
            )
    values = array.flatten()
    if values.null_count:
        row = _first_null(values) // d
        raise InvalidSource(f"{path}: row {first + row} holds a null value, expected {d} numbers")
    matrix: np.ndarray = values.to_numpy().reshape(len(array), d)
    return matrix


def decode_ids(path: Path, array: Any, first: int) -> np.ndarray:
    """Convert one piece of an integer column to int64; nulls and ids of 2^63 or more are errors."""
    _refuse_nulls(path, array, first, "id")
    ids: np.ndarray = array.to_numpy()
    if ids.dtype == np.uint64:
        large = np.flatnonzero(ids > np.uint64(np.iinfo(np.int64).max))
        if large.size:
            row = int(large[0])
            raise InvalidSource(
                f"{path}: row {first + row} has id {ids[row]}, expected less than 2^63"
            )
    return ids.astype(np.int64)


def _refuse_nulls(path: Path, array: Any, first: int, what: str) -> None:
    if array.null_count:
        row = first + _first_null(array)
        raise InvalidSource(f"{path}: row {row} has a null {what}, expected one in every row")


def _first_null(array: Any) -> int:
    return int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
