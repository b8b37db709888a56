"""Batches of a database as ids and vectors: pgvector's types, arrays, bytes and text of arrays.

pgvector sends ``int16 dim | int16 0 | dim values``, big-endian: float32 of a ``vector``, IEEE
float16 of a ``halfvec`` (its ``vector_send`` and ``halfvec_send``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from teravec.errors import InvalidSource
from teravec.sources.arrays import is_id, is_vectors, vector_kind
from teravec.sources.vectorfile import SKIP_HINT

__all__ = ["RowDecoder", "Rows", "VectorColumn", "choose_vector_column"]

_HEAD = 4  # bytes before a pgvector's values
_PGVECTOR: dict[str, np.dtype] = {"vector": np.dtype("f4"), "halfvec": np.dtype("f2")}
_NAMED = 3


@dataclass(frozen=True)
class VectorColumn:
    """The column with the vectors, and how they lie in it.

    Parameters
    ----------
    name : str
    kind : {"list", "vector", "halfvec", "bytes", "text"}
    dtype : numpy.dtype
        Type of the values, as they are kept.
    """

    name: str
    kind: str
    dtype: np.dtype


@dataclass(frozen=True)
class Rows:
    """Rows of one batch.

    Parameters
    ----------
    vectors : ndarray of shape (n, d)
        NaN in rows that have no vector, if those are left out later.
    ids : ndarray of shape (n,), int64, or None
    bad : int
        Rows without a vector.
    keys : tuple of str
        The first of them, by their keys.
    """

    vectors: npt.NDArray[Any]
    ids: npt.NDArray[np.int64] | None
    bad: int = 0
    keys: tuple[str, ...] = ()


def choose_vector_column(
    schema: Any, type_names: dict[str, str], named: str | None, bytes_type: str, where: str
) -> VectorColumn:
    """Find the column of vectors: the named one, or the only one of the likeliest type.

    Raises
    ------
    InvalidSource
    """
    columns = {f.name: _column_kind(f, type_names.get(f.name), bytes_type) for f in schema}
    found = {f.name: type_names.get(f.name, str(f.type)) for f in schema}
    shown = ", ".join(f"{name} ({kind})" for name, kind in found.items())
    if named is not None:
        column = columns.get(named)
        if column is None:
            raise InvalidSource(
                f"{where}: columns {shown} found; {named!r} expected among them, as vector, "
                "halfvec, an array of numbers, bytes, or text as [1,2,3]"
            )
        return column
    for kinds in (("vector", "halfvec", "list"), ("bytes",), ("text",)):
        fitting = [column for column in columns.values() if column and column.kind in kinds]
        if len(fitting) > 1:
            names = ", ".join(column.name for column in fitting)
            raise InvalidSource(
                f"{where}: columns {names} may all hold vectors; name one: --vector-column "
                f"{fitting[0].name}"
            )
        if fitting:
            return fitting[0]
    raise InvalidSource(
        f"{where}: columns {shown} found; one with vectors expected, as vector, halfvec, an array "
        "of numbers, bytes, or text as [1,2,3]"
    )


def _column_kind(field: Any, type_name: str | None, bytes_type: str) -> VectorColumn | None:
    kind, types = field.type, pa.types
    if type_name in _PGVECTOR:
        return VectorColumn(field.name, type_name, _PGVECTOR[type_name])
    if type_name is not None:
        return None
    if is_vectors(kind):
        of = vector_kind(kind)
        assert of is not None
        # Whole numbers too become floats: a row without a vector is one of NaN.
        exact = of.dtype.kind == "f" or np.can_cast(of.dtype, np.float32)
        dtype = of.dtype if of.dtype.kind == "f" else np.dtype("f4" if exact else "f8")
        return VectorColumn(field.name, "list", dtype)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return VectorColumn(field.name, "bytes", np.dtype(bytes_type))
    if isinstance(kind, pa.BaseExtensionType) and types.is_string(kind.storage_type):
        return VectorColumn(field.name, "text", np.dtype("f4"))  # json and jsonb
    if types.is_string(kind) or types.is_large_string(kind):
        return VectorColumn(field.name, "text", np.dtype("f4"))
    return None


class RowDecoder:
    """Decodes the batches of one query, in any thread.

    Parameters
    ----------
    column : VectorColumn
    id_column : str, optional
    key_column : str, optional
        Whose values name rows in messages.
    where : str
        The database, for messages.
    lenient : bool
        Rows without a vector become NaN instead of an error.

    Attributes
    ----------
    d : int
        Dimension of every vector; 0 before `find_dimension`.
    """

    def __init__(
        self,
        column: VectorColumn,
        id_column: str | None,
        key_column: str | None,
        where: str,
        *,
        lenient: bool,
    ) -> None:
        self.column, self.d = column, 0
        self.id_column, self._key_column = id_column, key_column or id_column
        self._where, self._lenient = where, lenient

    def find_dimension(self, batch: Any) -> None:
        """Take the commonest length of a batch's vectors as the dimension of all."""
        lengths = self._lengths(self._vectors(batch))
        found, counts = np.unique(lengths[lengths > 0], return_counts=True)
        if len(found):
            self.d = int(found[counts.argmax()])

    def decode(self, batch: Any) -> Rows:
        """Decode a batch.

        Raises
        ------
        InvalidSource
            A row without a vector or an id; the message names its key.
        """
        array = self._vectors(batch)
        lengths = self._lengths(array)
        sound = lengths == self.d
        vectors = self._values(array, sound)
        sound[sound] = _are_finite(vectors)
        ids = self._ids(batch, sound)
        bad = np.flatnonzero(~sound)
        if not len(bad):
            return Rows(vectors, ids)
        if not self._lenient:
            raise self._error(batch, int(bad[0]), lengths)
        whole = np.full((batch.num_rows, self.d), np.nan, vectors.dtype)
        has_length = lengths == self.d
        whole[has_length] = vectors
        whole[bad] = np.nan
        keys = tuple(self._key(batch, int(row)) for row in bad[:_NAMED])
        return Rows(whole, ids, len(bad), keys)

    @property
    def _is_list(self) -> bool:
        return self.column.kind in ("list", "text")

    def _vectors(self, batch: Any) -> Any:
        array = batch.column(batch.schema.get_field_index(self.column.name))
        while isinstance(array, pa.ExtensionArray):
            array = array.storage
        if pa.types.is_null(array.type) or array.null_count == len(array):
            return pa.nulls(len(array))
        if self.column.kind == "text":
            return self._parse(batch, array)
        return array

    def _parse(self, batch: Any, texts: Any) -> Any:
        """Parse the text of arrays by Arrow's JSON reader, all rows at once."""
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            raise InvalidSource(
                f"{self._where}: column {self.column.name!r} holds {texts.type}; text as [1,2,3] "
                "expected"
            )
        lines = pc.binary_join_element_wise('{"v":', texts.fill_null("null"), "}", "")
        data = "\n".join(lines.to_pylist()).encode()
        options = pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1)
        kinds = pa.schema([("v", pa.list_(pa.float64()))])
        parse = pa_json.ParseOptions(explicit_schema=kinds, newlines_in_values=True)
        try:
            table = pa_json.read_json(pa.BufferReader(data), options, parse)
            if table.num_rows == len(texts) and table.column_names == ["v"]:
                return table.column("v").combine_chunks()
        except pa.ArrowInvalid:
            pass
        return self._parse_each(batch, texts)

    def _parse_each(self, batch: Any, texts: Any) -> Any:
        """Parse row by row, to find the row that is no array."""
        rows: list[Any] = []
        for row, text in enumerate(texts.to_pylist()):
            try:
                values = None if text is None else json.loads(text)
                rows.append(pa.scalar(values, pa.list_(pa.float64())).as_py())
            except (ValueError, TypeError, RecursionError, pa.ArrowException):
                if not self._lenient:
                    raise InvalidSource(
                        f"{self._where}: {self._key(batch, row)}: column {self.column.name!r} "
                        f"holds {str(text)[:40]!r}; text as [1,2,3] expected; {SKIP_HINT}"
                    ) from None
                rows.append(None)
        return pa.array(rows, pa.list_(pa.float64()))

    def _lengths(self, array: Any) -> npt.NDArray[np.int64]:
        """Return the length of each row's vector; -1 where there is none."""
        n, types = len(array), pa.types
        if types.is_null(array.type):
            return np.full(n, -1)
        if types.is_fixed_size_binary(array.type) or types.is_fixed_size_list(array.type):
            kind = array.type
            width = kind.list_size if types.is_fixed_size_list(kind) else kind.byte_width
            lengths = np.full(n, width, np.int64)
        else:
            counted = (pc.list_value_length if self._is_list else pc.binary_length)(array)
            lengths = counted.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        if not self._is_list:
            head = 0 if self.column.kind == "bytes" else _HEAD
            whole = (lengths - head) % self.column.dtype.itemsize == 0
            lengths = np.where(whole, (lengths - head) // self.column.dtype.itemsize, -1)
        elif array.null_count < n:
            lengths[self._holds_null(array)] = -1
        if array.null_count:
            lengths[array.is_null().to_numpy(zero_copy_only=False)] = -1
        return lengths

    @staticmethod
    def _holds_null(array: Any) -> npt.NDArray[np.bool_]:
        """Find the lists with a null among their items."""
        holds = np.zeros(len(array), bool)
        values = array.flatten()
        if values.null_count:
            parents = pc.list_parent_indices(array).to_numpy()
            holds[parents[values.is_null().to_numpy(zero_copy_only=False)]] = True
        return holds

    def _values(self, array: Any, sound: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Return the vectors of the sound rows, (n, d)."""
        count, dtype = int(sound.sum()), self.column.dtype
        if not count:
            return np.empty((0, self.d), dtype)
        if count < len(array):
            array = array.filter(pa.array(sound))
        if self._is_list:
            values = array.flatten().to_numpy(zero_copy_only=False).reshape(count, self.d)
            with np.errstate(over="ignore"):
                return np.asarray(values.astype(dtype, copy=False))
        head = 0 if self.column.kind == "bytes" else _HEAD
        stored = dtype.newbyteorder("<" if self.column.kind == "bytes" else ">")
        rows = _as_bytes(array).reshape(count, head + self.d * dtype.itemsize)
        if head and (np.ascontiguousarray(rows[:, :2]).view(">i2") != self.d).any():
            raise InvalidSource(f"{self._where}: a {self.column.kind} in a form not known here")
        return rows[:, head:].view(stored).astype(dtype)  # one pass: without heads, swapped

    def _ids(self, batch: Any, sound: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64] | None:
        if self.id_column is None:
            return None
        array = batch.column(batch.schema.get_field_index(self.id_column))
        if not (is_id(array.type) or array.null_count == len(array)):
            raise InvalidSource(
                f"{self._where}: id column {self.id_column!r} of type {array.type} found; whole "
                "numbers expected; name another one: --id-column"
            )
        ids = array.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero((ids < 0) & (sound | (not self._lenient)))
        if len(wrong):
            row = int(wrong[0])
            value = array[row].as_py()
            raise InvalidSource(
                f"{self._where}: {self.id_column} = {'null' if value is None else value} found, "
                "an id of 0 or more expected in every row"
            )
        return np.where(ids < 0, 0, ids)

    def _key(self, batch: Any, row: int) -> str:
        """Name a row by its key."""
        if self._key_column is None:
            return f"row {row} of a batch"
        value = batch.column(batch.schema.get_field_index(self._key_column))[row].as_py()
        return f"{self._key_column} = {value}"

    def _error(self, batch: Any, row: int, lengths: npt.NDArray[np.int64]) -> InvalidSource:
        column = batch.column(batch.schema.get_field_index(self.column.name))
        length = int(lengths[row])
        if not column[row].is_valid:
            what = "a null vector"
        elif length == self.d:
            what = "a vector with NaN or infinity"
        elif length < 0:
            what = "no vector"
        else:
            what = f"a vector of {length} dimensions"
        return InvalidSource(
            f"{self._where}: {self._key(batch, row)} holds {what}; {self.d} finite numbers "
            f"expected; {SKIP_HINT}"
        )


def _are_finite(vectors: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Find the rows whose values are all finite in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = vectors if vectors.dtype.itemsize <= 4 else vectors.astype(np.float32)
    finite = np.isfinite(single)
    if finite.all():  # as a rule, and much faster than by rows
        return np.ones(len(vectors), bool)
    return np.asarray(finite.all(axis=1))


def _as_bytes(array: Any) -> npt.NDArray[np.uint8]:
    """View the bytes of a binary array without nulls, one row after another."""
    if pa.types.is_fixed_size_binary(array.type):
        width = array.type.byte_width
        data = np.frombuffer(array.buffers()[1], np.uint8)
        return data[array.offset * width : (array.offset + len(array)) * width]
    wide = pa.types.is_large_binary(array.type)
    offsets = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)
    first, last = offsets[array.offset], offsets[array.offset + len(array)]
    return np.frombuffer(array.buffers()[2], np.uint8)[first:last]
