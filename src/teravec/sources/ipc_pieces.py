"""Reading some rows of one column of an Arrow batch, without the rest of the batch.

Some writers put a whole table into one batch, however large. Buffers have the same layout in the
file as in memory: a read takes only the bytes of its rows. A compressed buffer is unpacked from
its beginning, some bytes at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.sources.ipc_messages import BatchMessage
from teravec.sources.packed import OpenSource, read_exactly
from teravec.sources.unpacked import UnpackedBuffer

__all__ = ["ALIGNED_ROWS", "BatchColumn", "is_readable"]

ALIGNED_ROWS = 8
"""Rows that share one byte of validity bits; pieces should be multiples of it."""


def is_readable(kind: Any) -> bool:
    """Whether pieces of a column of this Arrow type can be read."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return is_readable(kind.storage_type)
    if types.is_struct(kind):
        return all(is_readable(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return is_readable(kind.value_type)
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


class BatchColumn:
    """One column of a batch in an open file.

    Parameters
    ----------
    file : OpenSource
    batch : BatchMessage
    schema : pyarrow.Schema
    column : int
        Number of the column, whose type must satisfy `is_readable`.
    """

    def __init__(self, file: OpenSource, batch: BatchMessage, schema: Any, column: int) -> None:
        self._file, self._batch = file, batch
        self._kind = schema.field(column).type
        views = list(batch.views)
        self._node = self._buffer = 0
        for number in range(column):
            _skip(schema.field(number).type, self, views)
        self._first = self._node, self._buffer
        self._unpacked: dict[int, UnpackedBuffer] = {}

    def read(self, start: int, stop: int) -> Any:
        """Read rows [start, stop) as an Arrow array; raise ValueError if the batch is damaged.

        Read the ranges of a compressed batch in ascending order: going back unpacks it again.
        """
        self._node, self._buffer = self._first
        return self._read_array(self._kind, start, stop)

    def pass_over(self, buffers: int) -> None:
        """Skip this node and its buffers."""
        self._node, self._buffer = self._node + 1, self._buffer + buffers

    def _read_array(self, kind: Any, start: int, stop: int) -> Any:
        if isinstance(kind, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(
                kind, self._read_array(kind.storage_type, start, stop)
            )
        length, nulls = (int(value) for value in self._batch.nodes[self._node])
        if stop > length:
            raise ValueError(f"an array of {length} found, {stop} or more expected")
        first, validity, fixed = start - start % ALIGNED_ROWS, self._buffer, None
        self._node += 1
        self._buffer += 1
        valid = self._read_bits(validity, first, stop) if nulls else None
        rows, children = stop - first, []
        if pa.types.is_struct(kind):
            children = [
                self._read_array(kind.field(i).type, first, stop) for i in range(kind.num_fields)
            ]
        elif pa.types.is_fixed_size_list(kind):
            size = kind.list_size
            children = [self._read_array(kind.value_type, first * size, stop * size)]
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            dtype = np.dtype("<i4" if pa.types.is_list(kind) else "<i8")
            # An array without rows may lack the buffer of offsets.
            end = stop + 1 if rows else first
            offsets = self._read_values(first, end, dtype.itemsize).view(dtype)
            offsets = offsets if rows else np.zeros(1, dtype)
            if (np.diff(offsets) < 0).any() or offsets[0] < 0:
                raise ValueError("offsets of lists that do not ascend")
            children = [self._read_array(kind.value_type, int(offsets[0]), int(offsets[-1]))]
            fixed = np.ascontiguousarray(offsets - offsets[0])
        else:
            fixed = self._read_values(first, stop, kind.bit_width // 8)
        buffers = [valid] + ([] if fixed is None else [pa.py_buffer(fixed)])
        whole = pa.Array.from_buffers(kind, rows, buffers, children=children)
        return whole.slice(start - first)

    def _read_values(self, first: int, stop: int, width: int) -> npt.NDArray[np.uint8]:
        values = self._read_bytes(self._buffer, first * width, stop * width)
        self._buffer += 1
        return values

    def _read_bits(self, number: int, first: int, stop: int) -> Any:
        return pa.py_buffer(self._read_bytes(number, first // 8, -(-stop // 8)))

    def _read_bytes(self, number: int, start: int, stop: int) -> npt.NDArray[np.uint8]:
        at, size = (int(value) for value in self._batch.buffers[number])
        if self._batch.codec is not None and size:
            if number not in self._unpacked:
                self._unpacked[number] = UnpackedBuffer(self._file, at, size, self._batch.codec)
            return self._unpacked[number].read(start, stop)
        if stop > size:
            raise ValueError(f"a buffer of {size} bytes found, {stop} or more expected")
        out = np.empty(stop - start, np.uint8)
        read_exactly(self._file, out, at + start)
        return out


def _skip(kind: Any, column: BatchColumn, views: list[int]) -> None:
    """Skip the nodes and buffers of an array of this type, and of its children."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        _skip(kind.storage_type, column, views)
        return
    if types.is_dictionary(kind):
        kind = kind.index_type
    if types.is_string_view(kind) or types.is_binary_view(kind):
        column.pass_over(2 + views.pop(0))
        return
    column.pass_over(_count_buffers(kind))
    children = kind.num_fields if types.is_nested(kind) else 0
    for number in range(children):
        _skip(kind.field(number).type, column, views)


def _count_buffers(kind: Any) -> int:
    types = pa.types
    if types.is_null(kind) or types.is_run_end_encoded(kind):
        return 0
    if types.is_union(kind):
        return 2 if kind.mode == "dense" else 1
    if types.is_struct(kind) or types.is_fixed_size_list(kind):
        return 1
    three = (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )
    return 3 if three else 2
