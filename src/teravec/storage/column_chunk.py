"""Chunks: consecutive rows of one column, as bytes.

A chunk is one compressed batch of an Arrow stream, with one row. Its columns are lists, the parts
of the chunk, whose lengths may differ:

    list      lengths; then the parts of the values of all lists
    text      lengths; bytes of all texts
    repeated  a dictionary and indices, if there are few distinct values
    other     the values

So it is about as small as Parquet. What lies under a null is written as zeros: equal values give
equal bytes, whatever array they were cut from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from teravec.errors import CorruptFile

__all__ = ["count_row_bytes", "decode_chunk", "encode_chunk"]

Int64 = npt.NDArray[np.int64]

_OFFSET_BYTES = 4  # counted for each value of variable length, and for each list
_LOOKED = 1024  # leading values that tell whether a dictionary is worth a try
_LEAST_BITS = 32  # width of fixed values from which on a dictionary is worth a try
_REPEATS = 4  # values for each distinct one from which on a dictionary is smaller
_INDEX_TYPES = ((1 << 8, pa.uint8()), (1 << 16, pa.uint16()))
_LENGTH_TYPES = ((1 << 8, np.uint8), (1 << 16, np.uint16), (1 << 32, np.uint32))


def count_row_bytes(array: Any) -> Int64:
    """Return about how many bytes each value takes in memory, (n,)."""
    kind = array.type
    if _is_list(kind):
        lengths = _fill(pc.list_value_length(array))
        ends = np.cumsum(lengths)
        before = np.concatenate(([0], np.cumsum(count_row_bytes(array.flatten()))))
        counted: Int64 = before[ends] - before[ends - lengths] + _OFFSET_BYTES
        return counted
    if _is_variable(kind):
        return _fill(pc.binary_length(array)) + _OFFSET_BYTES
    return np.full(len(array), max(1, kind.bit_width // 8), np.int64)


def _fill(lengths: Any) -> Int64:
    return np.asarray(lengths.fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _is_variable(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def encode_chunk(array: Any) -> memoryview:
    """Return the bytes of an array of a stored type."""
    if _is_list(array.type):
        lengths = _fill(pc.list_value_length(array))
        parts = [_mask(_narrow(lengths), array), *_flat_parts(array.flatten())]
    else:
        parts = _flat_parts(array)
    columns = [pa.LargeListArray.from_arrays([0, len(part)], part) for part in parts]
    batch = pa.record_batch(columns, names=[str(i) for i in range(len(columns))])
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as stream:
        stream.write_batch(batch)
    return memoryview(sink.getvalue())


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _flat_parts(array: Any) -> list[Any]:
    shared = _share_values(array)
    if shared is not None:
        indices = _zero_nulls(shared.indices)
        return [pa.DictionaryArray.from_arrays(indices, shared.dictionary)]
    if not _is_variable(array.type):
        return [_zero_nulls(array)]
    lengths = _narrow(_fill(pc.binary_length(array)))
    whole = array.fill_null(b"" if pa.types.is_binary(array.type) else "")
    offsets = _offsets(whole)
    data = whole.buffers()[2]
    bytes_ = b"" if data is None else data.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    return [_mask(lengths, array), pa.array(np.frombuffer(bytes_, np.uint8))]


def _offsets(array: Any) -> Int64:
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.zeros(1, np.int64)
    offsets = np.frombuffer(data, np.int64 if wide else np.int32)
    return offsets[array.offset : array.offset + len(array) + 1].astype(np.int64)


def _narrow(lengths: Int64) -> npt.NDArray[Any]:
    most = int(lengths.max(initial=0))
    return lengths.astype(next(kind for limit, kind in _LENGTH_TYPES if most < limit))


def _mask(values: npt.NDArray[Any], like: Any) -> Any:
    """Return values as an array with the nulls of another one."""
    mask = _nulls(like) if like.null_count else None
    return pa.array(values, mask=mask)


def _nulls(array: Any) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return found


def _zero_nulls(array: Any) -> Any:
    """Copy an array of fixed width; values under nulls become 0, and spare bits too."""
    if pa.types.is_boolean(array.type):
        return _mask(pc.fill_null(array, False).to_numpy(zero_copy_only=False), array)
    if not array.null_count:
        return array
    nulls, width, count = _nulls(array), array.type.bit_width // 8, len(array)
    data = np.frombuffer(array.buffers()[1], np.uint8)
    values = data[array.offset * width :][: count * width].reshape(count, width).copy()
    values[nulls] = 0
    validity = np.packbits(~nulls, bitorder="little")
    buffers = [pa.py_buffer(validity), pa.py_buffer(values)]
    return pa.Array.from_buffers(array.type, count, buffers, int(nulls.sum()))


def _share_values(array: Any) -> Any:
    """Return the values as a DictionaryArray if that is smaller, else None."""
    if not _is_variable(array.type) and array.type.bit_width < _LEAST_BITS:
        return None
    head = array.slice(0, _LOOKED)
    if len(head.unique()) * _REPEATS > len(head):
        return None
    found = array.dictionary_encode()
    distinct = len(found.dictionary)
    for limit, index in _INDEX_TYPES:
        if distinct < limit and distinct * _REPEATS <= len(array):
            return pa.DictionaryArray.from_arrays(found.indices.cast(index), found.dictionary)
    return None


def decode_chunk(data: Any, kind: Any, path: str) -> Any:
    """Return the array of a chunk whose checksum is right.

    Parameters
    ----------
    data : bytes-like
    kind : pyarrow.DataType
        The stored type.
    path : str
        Names the file in messages.
    """
    try:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.ipc.open_stream(pa.py_buffer(data), options=options) as stream:
            batch = stream.read_next_batch()
        parts = [column.values for column in batch.columns]
        if _is_list(kind):
            array = _join_lists(parts[0], _decode(parts[1:], kind.value_type), kind)
        else:
            array = _decode(parts, kind)
    except (pa.ArrowException, OSError, ValueError, IndexError, AttributeError) as error:
        raise CorruptFile(f"{path}: a chunk that is no Arrow batch of {kind}: {error}") from error
    if array.type != kind:
        raise CorruptFile(f"{path}: a chunk of {array.type} found, {kind} expected")
    return array


def _decode(parts: list[Any], kind: Any) -> Any:
    if len(parts) == 1:
        only = parts[0]
        return only.dictionary_decode() if pa.types.is_dictionary(only.type) else only
    lengths, data = parts
    large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    offsets = _sum_lengths(lengths, large=large)
    if offsets[-1] != len(data):
        raise ValueError(f"{len(data)} bytes found, {offsets[-1]} expected")
    values = data.buffers()[1] or pa.py_buffer(b"")  # of empty texts there is no buffer
    buffers = [lengths.buffers()[0], pa.py_buffer(offsets), values]
    return pa.Array.from_buffers(kind, len(lengths), buffers, lengths.null_count)


def _sum_lengths(lengths: Any, *, large: bool) -> npt.NDArray[Any]:
    offsets = np.zeros(len(lengths) + 1, np.int64 if large else np.int32)
    np.cumsum(_fill(lengths), out=offsets[1:])
    return offsets


def _join_lists(lengths: Any, values: Any, kind: Any) -> Any:
    large = pa.types.is_large_list(kind)
    offsets = pa.array(_sum_lengths(lengths, large=large))
    make = pa.LargeListArray if large else pa.ListArray
    mask = lengths.is_null() if lengths.null_count else None
    return make.from_arrays(offsets, values, type=kind, mask=mask)
