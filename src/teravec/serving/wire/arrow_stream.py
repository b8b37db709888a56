"""Tables as Arrow IPC streams, checked before Arrow reads them.

Arrow would expand compressed buffers to whatever size they claim, so only plain ones are taken.

References
----------
Apache Arrow, Columnar format, "Encapsulated message format"; FlatBuffers, "Binary format".
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.errors import InvalidArgument, ProtocolError

__all__ = ["check_stream", "read_table", "write_table"]

Bytes = npt.NDArray[np.uint8]

_SCHEMA, _BATCH = 1, 3  # kinds of messages
_MOST_MESSAGES, _LONGEST_METADATA = 4096, 1 << 20
_END = b"\xff\xff\xff\xff"  # before each message's length


def write_table(table: Any) -> Bytes:
    """Return a table as an IPC stream without compression."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return np.frombuffer(sink.getvalue(), np.uint8)


def read_table(data: Bytes, rows: int) -> Any:
    """Read a table that came over a network.

    Raises
    ------
    ProtocolError
        It is none, or has another number of rows.
    """
    try:
        check_stream(data.data)
        with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
            table = stream.read_all()
        table.validate(full=True)
    except (InvalidArgument, pa.ArrowException, struct.error, ValueError, IndexError) as error:
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ProtocolError(f"columns that are no table found: {why}") from None
    if len(table) != rows:
        raise ProtocolError(f"columns of {len(table):,} rows found, {rows:,} expected")
    return table


def check_stream(data: memoryview) -> None:
    """Raise InvalidArgument unless all messages are a schema and uncompressed record batches."""
    at = 0
    for number in range(_MOST_MESSAGES):
        if at == len(data):
            return
        if bytes(data[at : at + 4]) != _END:
            raise InvalidArgument("this is no Arrow IPC stream (a message has no marker)")
        (size,) = struct.unpack_from("<i", data, at + 4)
        if size == 0:
            return
        if not 0 < size <= _LONGEST_METADATA:
            raise InvalidArgument(f"metadata of {size:,} bytes found in an Arrow message")
        kind, body_bytes, is_compressed = _described(data[at + 8 : at + 8 + size])
        if kind != (_BATCH if number else _SCHEMA):
            raise InvalidArgument("an Arrow stream of one schema and record batches expected")
        if is_compressed:
            raise InvalidArgument("compressed Arrow buffers found; only plain ones are taken")
        at += 8 + size + body_bytes
        if body_bytes < 0 or at > len(data):
            raise InvalidArgument("the Arrow stream is cut off")
    raise InvalidArgument(f"more than {_MOST_MESSAGES:,} messages found in the Arrow stream")


def _described(metadata: memoryview) -> tuple[int, int, bool]:
    """Return a message's kind, the bytes of its body, and whether its buffers are compressed."""
    (root,) = struct.unpack_from("<I", metadata, 0)
    kind_at, header_at = _field(metadata, root, 1), _field(metadata, root, 2)
    body_at = _field(metadata, root, 3)
    if kind_at is None or header_at is None:
        raise InvalidArgument("an Arrow message without a header found")
    kind = metadata[kind_at]
    (body_bytes,) = (0,) if body_at is None else struct.unpack_from("<q", metadata, body_at)
    if kind != _BATCH:
        return kind, body_bytes, False
    (offset,) = struct.unpack_from("<I", metadata, header_at)
    return kind, body_bytes, _field(metadata, header_at + offset, 3) is not None


def _field(table: memoryview, start: int, number: int) -> int | None:
    """Return the position of a FlatBuffers table's field; None if the table does not have it."""
    (back,) = struct.unpack_from("<i", table, start)
    names = start - back
    if names < 0:
        raise InvalidArgument("an Arrow message's metadata is damaged")
    (size,) = struct.unpack_from("<H", table, names)
    place = 4 + 2 * number
    if place + 2 > size:
        return None
    (offset,) = struct.unpack_from("<H", table, names + place)
    return start + offset if offset else None
