"""Arrow columns as NumPy arrays: the types of vectors and ids, and the checks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from teravec.errors import InvalidSource
from teravec.sources.remote import SourcePath
from teravec.sources.vectorfile import SKIP_HINT
from teravec.storage.text_ids import digest_texts, is_text_id

__all__ = [
    "VECTOR_TYPES",
    "VectorKind",
    "decode_ids",
    "decode_vectors",
    "first_length",
    "how_to_convert",
    "is_id",
    "is_vectors",
    "vector_kind",
]

_DTYPES: dict[Any, np.dtype] = {
    pa.float32(): np.dtype("f4"),
    pa.float64(): np.dtype("f8"),
    pa.float16(): np.dtype("f2"),
    pa.int8(): np.dtype("i1"),
    pa.uint8(): np.dtype("u1"),
    pa.int16(): np.dtype("i2"),
    pa.uint16(): np.dtype("u2"),
    pa.int32(): np.dtype("i4"),
    pa.uint32(): np.dtype("u4"),
    pa.int64(): np.dtype("i8"),
    pa.uint64(): np.dtype("u8"),
}

VECTOR_TYPES = "a list or fixed-size list of " + ", ".join(dtype.name for dtype in _DTYPES.values())
"""The column types that hold vectors, for messages."""

_MOST_ID = np.iinfo(np.int64).max


@dataclass(frozen=True)
class VectorKind:
    """The vectors in a column, as far as the column's type states them.

    Parameters
    ----------
    dtype : numpy.dtype
        Type of the elements.
    d : int or None
        Dimension that the type states; None for lists of free length.
    is_nested : bool
        Whether each row is a list with the vector as its only item.
    """

    dtype: np.dtype
    d: int | None
    is_nested: bool = False

    @property
    def rank(self) -> int:
        """Preference among columns if none is named: lower ranks are likelier to be the vectors.

        Lists of larger integers are often token numbers, and nested lists boxes or parts.
        """
        return 2 * self.is_nested + (self.dtype.kind in "iu" and self.dtype.itemsize > 1)


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_fixed_size_list(kind)
        or types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def vector_kind(kind: Any) -> VectorKind | None:
    """Return the kind of vectors that an Arrow type holds, or None if it holds none."""
    if isinstance(kind, pa.FixedShapeTensorType):
        if sum(size != 1 for size in kind.shape) > 1:
            return None
        of = vector_kind(kind.storage_type)
        return None if of is None else VectorKind(of.dtype, prod(kind.shape))
    if isinstance(kind, pa.BaseExtensionType):
        return vector_kind(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return vector_kind(kind.value_type)
    if not _is_list(kind):
        return None
    d = int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None
    if kind.value_type in _DTYPES:
        return VectorKind(_DTYPES[kind.value_type], d)
    inner = vector_kind(kind.value_type)
    if inner is None or (d is not None and d != 1):
        return None
    return VectorKind(inner.dtype, inner.d, is_nested=True)


def is_vectors(kind: Any) -> bool:
    """Whether a column of this Arrow type can be read as vectors."""
    return vector_kind(kind) is not None


def is_id(kind: Any) -> bool:
    """Whether a column of this Arrow type can be read as ids that are numbers."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return is_id(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return is_id(kind.value_type)
    return bool(types.is_integer(kind) or (types.is_decimal(kind) and kind.scale == 0))


def how_to_convert(kind: Any) -> str:
    """Return advice on converting a column of this type to vectors, or ""."""
    types = pa.types
    if isinstance(kind, pa.FixedShapeTensorType):
        shape = f"{tuple(kind.shape)} is no vector: reshape it to ({prod(kind.shape)},)"
        return f"; a tensor of shape {shape}"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "; text is made numbers by duckdb's CAST(column AS FLOAT[])"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return (
            "; bytes are made numbers by np.frombuffer(b''.join(column), 'float32').reshape(n, -1)"
        )
    if types.is_run_end_encoded(kind):
        return "; decode it first: pc.run_end_decode(column)"
    if types.is_struct(kind):
        return "; name one of its fields, as COLUMN.FIELD"
    if _is_list(kind) and _is_list(kind.value_type):
        return "; a row holds several vectors: give each a row of its own (list_flatten, explode)"
    if _is_list(kind):
        return "; cast its elements to float32"
    return ""


def decode_vectors(
    path: SourcePath, array: Any, first: int, d: int, *, lenient: bool = False
) -> np.ndarray:
    """View one piece of a vector column as a matrix.

    Parameters
    ----------
    path : Path
        For messages, like ``first``, the number of the piece's first row in the file.
    array : pyarrow.Array
        Array of a type that has a `vector_kind`.
    d : int
        Length that every list must have.
    lenient : bool
        Turn bad rows into NaN, in a floating type, instead of raising.

    Returns
    -------
    ndarray of shape (len(array), d)
        A view of Arrow's memory if possible.

    Raises
    ------
    InvalidSource
        A null row, a null inside a row, or a list of another length; the message names the row.
    """
    lists = _unwrap(array)
    sound = _find_sound(lists, d)
    if lenient and not sound.all():
        return _fill_gaps(lists, sound, d)
    if not sound.all():
        _refuse(path, lists, first, int(sound.argmin()), d)
    while _is_list(lists.type):
        lists = _unwrap(lists.flatten())
    matrix: np.ndarray = lists.to_numpy().reshape(len(array), d)
    return matrix


def _unwrap(array: Any) -> Any:
    """Return the plain array inside extension types and dictionaries."""
    if isinstance(array, pa.ExtensionArray):
        return _unwrap(array.storage)
    if isinstance(array, pa.DictionaryArray):
        return _unwrap(array.dictionary_decode())
    return array


def _read_lengths(lists: Any) -> np.ndarray:
    """Return the number of elements in each row; undefined for null rows."""
    kind = lists.type
    if pa.types.is_fixed_size_list(kind):
        return np.full(len(lists), kind.list_size)
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        sizes: np.ndarray = lists.sizes.to_numpy()
        return sizes
    lengths: np.ndarray = np.diff(lists.offsets.to_numpy())
    return lengths


def _find_sound(lists: Any, d: int) -> np.ndarray:
    """Find the rows, (n,) bool, that hold exactly ``d`` numbers."""
    inside = lists.type.value_type
    nested = isinstance(inside, pa.BaseExtensionType) or _is_list(inside)
    sound = _read_lengths(lists) == (1 if nested else d)
    if lists.null_count:
        sound &= lists.is_valid().to_numpy(zero_copy_only=False)
    values = _unwrap((lists if sound.all() else lists.filter(pa.array(sound))).flatten())
    if nested:
        sound[sound] = _find_sound(values, d)
    elif values.null_count:
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        sound[sound] = valid.reshape(-1, d).all(axis=1)
    return np.asarray(sound)


def _fill_gaps(lists: Any, sound: np.ndarray, d: int) -> np.ndarray:
    """Return the sound rows, with NaN in place of the others."""
    values = lists.filter(pa.array(sound))
    while _is_list(values.type):
        values = _unwrap(values.flatten())
    rows: np.ndarray = values.to_numpy().reshape(-1, d)
    dtype = rows.dtype if rows.dtype.kind == "f" else np.dtype("f8")
    matrix = np.full((len(sound), d), np.nan, dtype)
    matrix[sound] = rows
    return matrix


def first_length(array: Any, path: SourcePath, first: int, *, lenient: bool) -> int | None:
    """Return the length of a piece's first vector; None if the piece has no rows.

    If ``lenient``, return the commonest length among the rows that have values.
    """
    lists = _unwrap(array)
    if lenient:
        filled = (_read_lengths(lists) > 0) & lists.is_valid().to_numpy(zero_copy_only=False)
        lists = lists.filter(pa.array(filled))
    if not len(lists):
        return None
    if lists[0:1].null_count:
        raise InvalidSource(
            f"{path}: row {first} has a null vector, expected a vector; {SKIP_HINT}"
        )
    inside = _unwrap((lists if lenient else lists[0:1]).flatten())
    if not _is_list(inside.type):
        lengths, counts = np.unique(_read_lengths(lists), return_counts=True)
        return int(lengths[counts.argmax()] if lenient else _read_lengths(lists)[0])
    if not len(inside) and not lenient:
        return 0
    return first_length(inside, path, first, lenient=lenient)


def _refuse(path: SourcePath, lists: Any, first: int, row: int, d: int) -> None:
    """Raise for a bad row; the message says what the row holds."""
    found, one = f"{path}: row {first + row}", lists[row : row + 1]
    if one.null_count:
        raise InvalidSource(f"{found} has a null vector, expected one in every row; {SKIP_HINT}")
    length = int(_read_lengths(one)[0])
    values = _unwrap(one.flatten())
    if _is_list(values.type):
        if length != 1:
            raise InvalidSource(
                f"{found} holds {length} vectors, expected 1"
                f"{how_to_convert(lists.type)}; {SKIP_HINT}"
            )
        _refuse(path, values, first + row, 0, d)
    if length != d:
        raise InvalidSource(f"{found} holds {length} values, expected {d} as in row 0; {SKIP_HINT}")
    raise InvalidSource(f"{found} holds a null value, expected {d} numbers; {SKIP_HINT}")


def decode_ids(path: SourcePath, array: Any, first: int, *, lenient: bool = False) -> np.ndarray:
    """Convert one piece of an id column to int64; nulls and ids of 2^63 or more are errors.

    Texts become the numbers that stand for them (``storage.text_ids``).

    If ``lenient``, a null becomes -1, which is an error later, if its row has a vector.
    """
    array = _decode_runs(array)
    if array.null_count and not lenient:
        row = first + int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise InvalidSource(f"{path}: row {row} has a null id, expected one in every row")
    if is_text_id(array.type):
        return digest_texts(array).ids
    try:
        return np.asarray(array.cast(pa.int64()).fill_null(-1).to_numpy())
    except pa.ArrowInvalid as error:
        for row, value in enumerate(array.to_pylist()):
            if value is not None and not -_MOST_ID <= value <= _MOST_ID:
                raise InvalidSource(
                    f"{path}: row {first + row} has id {value}, expected less than 2^63"
                ) from error
        raise InvalidSource(f"{path}: ids from row {first} on are not integers: {error}") from error


def _decode_runs(array: Any) -> Any:
    """Unwrap a column, and expand its runs to one number per row."""
    array = _unwrap(array)
    if pa.types.is_run_end_encoded(array.type):
        return _decode_runs(pc.run_end_decode(array))
    return array
