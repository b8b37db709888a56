"""Messages of Arrow files and streams: their offsets, and the number of rows of each batch.

pyarrow must load a batch to count its rows. This module counts them from the metadata instead,
which are flatbuffers::

    file:    "ARROW1" | 2 bytes | stream | footer | int32 footer size | "ARROW1"
    footer:  table { ..., field 1: Schema, ..., field 3: vector of Block }
    Block:   int64 offset | int32 metadata size | 4 bytes | int64 body size
    stream:  message ... | size 0, or nothing
    message: [0xFFFFFFFF] | int32 size | table Message | body
    Message: { ..., field 1: uint8 type of header, field 2: header, field 3: int64 body size }
    Schema:  { field 0: int16 byte order, ... }
    RecordBatch: { field 0: int64 rows, 1: vector of (int64 length, int64 nulls),
                   2: vector of (int64 offset, int64 size),
                   3: BodyCompression { field 0: int8 codec },
                   4: vector of int64, buffers of views }

A file is a stream with a magic at both ends, and a footer that lists its batches.

References
----------
Apache Arrow columnar format, "Serialization and Interprocess Communication (IPC)";
``format/File.fbs``, ``Message.fbs`` and ``Schema.fbs``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidSource
from teravec.sources.packed import OpenSource, open_file
from teravec.sources.remote import SourcePath

__all__ = ["BatchMessage", "Layout", "metadata_errors", "read_batch", "read_layout"]

_MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"
_TAIL = struct.Struct("<i6s")
_BLOCK = struct.Struct("<qi4xq")
_CONTINUATION = b"\xff\xff\xff\xff"
_PREFIX = len(_CONTINUATION) + 4
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3

_CODECS = ("lz4", "zstd")
_MOST_METADATA = 1 << 27  # bytes of one message; a larger size means damage

# A row has at least one byte. zstd, the denser codec, packs 128 KiB into at least 4 bytes.
_MOST_ROWS_PER_BYTE = 1
_MOST_ROWS_PER_COMPRESSED_BYTE = 1 << 16


@dataclass(frozen=True)
class Layout:
    """The positions of the record batches of a file or stream.

    Parameters
    ----------
    size : int
        Bytes of the file.
    is_stream : bool
    is_little : bool
        Whether numbers are little-endian, as on this machine.
    offsets : ndarray of shape (batches,), int64
        Offset of each batch's message.
    rows : list of int
        Rows of each batch.
    preamble : tuple of (int, int)
        Bytes [start, stop) of the schema and of every dictionary of a stream.
    """

    size: int
    is_stream: bool
    is_little: bool
    offsets: npt.NDArray[np.int64]
    rows: list[int]
    preamble: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class BatchMessage:
    """One record batch's metadata.

    Parameters
    ----------
    rows : int
    codec : str or None
        Compression of the buffers: "lz4" (frames) or "zstd".
    nodes : ndarray of shape (nodes, 2), int64
        Length and number of nulls of each array of the batch, parents before children.
    buffers : ndarray of shape (buffers, 2), int64
        Offset in the file and length of each buffer.
    views : tuple of int
        For each array of views, its number of buffers beyond two.
    """

    rows: int
    codec: str | None
    nodes: npt.NDArray[np.int64]
    buffers: npt.NDArray[np.int64]
    views: tuple[int, ...]


@contextmanager
def metadata_errors(path: SourcePath) -> Iterator[None]:
    """Turn the errors of parsing damaged metadata into InvalidSource."""
    try:
        yield
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, InvalidSource):
            raise
        why = "its metadata contradict themselves"
        raise InvalidSource(f"{path}: not a sound Arrow file: {why} ({error})") from error


def read_layout(path: SourcePath) -> Layout:
    """Find the record batches, by the footer or by walking from message to message."""
    with open_file(path) as file, metadata_errors(path):
        head = file.read(_PREFIX, 0)
        if head.startswith(_FEATHER_1):
            raise InvalidSource(
                f"{path}: Feather version 1 found, expected version 2 or an Arrow stream; convert "
                f"it: feather.write_feather(feather.read_table({path.name!r}), 'new.feather')"
            )
        if not head.startswith(_MAGIC):
            return _walk_stream(file)
        size = file.size
        tail = file.read(_TAIL.size, max(0, size - _TAIL.size))
        if len(tail) < _TAIL.size or not tail.endswith(_MAGIC):
            raise InvalidSource(
                f"{path}: no Arrow IPC footer found, expected an Arrow file that is whole; "
                "was its writer closed?"
            )
        footer_size = _TAIL.unpack(tail)[0]
        footer = _read_bytes(file, size - _TAIL.size - footer_size, footer_size, size)
        return _parse_footer(file, size, footer)


def read_batch(file: OpenSource, offset: int, file_size: int) -> BatchMessage:
    """Read the metadata of the batch whose message begins at ``offset``."""
    message = _read_message(file, offset, file_size)
    raw, batch = message.raw, message.header
    nodes = _read_vector(raw, batch, 1, 16).view("<i8").reshape(-1, 2)
    buffers = _read_vector(raw, batch, 2, 16).view("<i8").reshape(-1, 2).copy()
    starts, sizes = buffers.T
    if len(buffers) and not (
        starts.min() >= 0
        and sizes.min() >= 0
        and (starts + sizes).max() <= message.body_size
        and starts.max() <= message.body_size
        and sizes.max() <= message.body_size
    ):
        raise ValueError(f"buffers outside of a body of {message.body_size} bytes")
    starts += message.body
    views = tuple(_read_vector(raw, batch, 4, 8).view("<i8").tolist())
    return BatchMessage(message.rows(file_size), message.codec, nodes, buffers, views)


@dataclass(frozen=True)
class _Message:
    """A message's metadata, and the positions of its parts."""

    raw: bytes
    kind: int
    header: int  # in raw
    body: int  # in the file
    body_size: int

    @property
    def is_compressed(self) -> bool:
        return _find_field(self.raw, self.header, 3) is not None

    @property
    def codec(self) -> str | None:
        """The compression of a batch's buffers."""
        at = _find_field(self.raw, self.header, 3)
        if at is None:
            return None
        codec = _find_field(self.raw, at + _read_u32(self.raw, at), 0)
        return _CODECS[self.raw[codec] if codec is not None else 0]

    def rows(self, file_size: int) -> int:
        """Return the rows of a batch; raise ValueError for an impossible number."""
        at = _find_field(self.raw, self.header, 0)
        rows = 0 if at is None else int(struct.unpack_from("<q", self.raw, at)[0])
        per_byte = _MOST_ROWS_PER_COMPRESSED_BYTE if self.is_compressed else _MOST_ROWS_PER_BYTE
        if not 0 <= rows <= per_byte * self.body_size <= per_byte * file_size:
            raise ValueError(f"{rows} rows in {self.body_size} bytes")
        return rows


def _read_message(file: OpenSource, offset: int, file_size: int) -> _Message:
    prefix = _read_bytes(file, offset, _PREFIX, file_size)
    continued = prefix.startswith(_CONTINUATION)
    start = offset + (_PREFIX if continued else 4)  # releases before 0.15 wrote the size alone
    (size,) = struct.unpack_from("<i", prefix, 4 if continued else 0)
    if size > _MOST_METADATA:
        raise ValueError(f"metadata of {size} bytes")
    raw = _read_bytes(file, start, size, file_size)
    table = _read_u32(raw, 0)
    kind, header, body = (_find_field(raw, table, number) for number in (1, 2, 3))
    if kind is None or header is None:
        raise ValueError("a message without a header")
    body_size = 0 if body is None else int(struct.unpack_from("<q", raw, body)[0])
    if not 0 <= body_size <= file_size - start - size:
        raise ValueError(f"a body of {body_size} bytes at {start + size} of {file_size}")
    return _Message(raw, raw[kind], header + _read_u32(raw, header), start + size, body_size)


def _parse_footer(file: OpenSource, size: int, footer: bytes) -> Layout:
    table = _read_u32(footer, 0)
    blocks = _read_vector(footer, table, 3, _BLOCK.size)
    offsets = [int(offset) for offset, _, _ in _BLOCK.iter_unpack(blocks.tobytes())]
    rows = []
    for offset in offsets:
        message = _read_message(file, offset, size)
        if message.kind != _BATCH:
            raise ValueError(f"a message of kind {message.kind} where a batch is expected")
        rows.append(message.rows(size))
    schema = _find_field(footer, table, 1)
    little = schema is None or _is_little(footer, schema + _read_u32(footer, schema))
    return Layout(size, False, little, np.array(offsets, np.int64), rows)


def _walk_stream(file: OpenSource) -> Layout:
    path, size = file.path, file.size
    offsets, rows, preamble, little, at = [], [], [], True, 0
    while at < size and not _is_end(file, at):
        try:
            message = _read_message(file, at, size)
        except (struct.error, ValueError, IndexError) as error:
            what = "the stream is cut off or damaged" if at else "neither an Arrow file nor stream"
            raise InvalidSource(f"{path}: {what} at byte {at:,} ({error})") from error
        stop = message.body + message.body_size
        if (message.kind == _SCHEMA) != (at == 0):
            raise InvalidSource(f"{path}: neither an Arrow file nor stream: no schema at its start")
        if message.kind == _BATCH:
            offsets.append(at)
            rows.append(message.rows(size))
        else:
            preamble.append((at, stop))
        if message.kind == _SCHEMA:
            little = _is_little(message.raw, message.header)
        at = stop
    if not preamble:
        raise InvalidSource(f"{path}: {size} bytes found, expected an Arrow file or stream")
    return Layout(size, True, little, np.array(offsets, np.int64), rows, tuple(preamble))


def _is_end(file: OpenSource, at: int) -> bool:
    """Whether a stream's end mark lies at this offset, in its new or old form."""
    mark = file.read(_PREFIX, at)
    return mark in (_CONTINUATION + bytes(4), bytes(4)) or (at > 0 and mark[:4] == bytes(4))


def _is_little(raw: bytes, schema: int) -> bool:
    at = _find_field(raw, schema, 0)
    return at is None or struct.unpack_from("<h", raw, at)[0] == 0


def _read_bytes(file: OpenSource, offset: int, size: int, file_size: int) -> bytes:
    if not 0 <= offset <= offset + size <= file_size:
        raise ValueError(f"{size} bytes at {offset} in a file of {file_size}")
    return bytes(file.read(size, offset))


def _read_vector(raw: bytes, table: int, number: int, itemsize: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of a table's vector of fixed-size items; empty if the field is missing."""
    at = _find_field(raw, table, number)
    if at is None:
        return np.empty(0, np.uint8)
    start = at + _read_u32(raw, at)
    count = _read_u32(raw, start)
    if count * itemsize > len(raw) - start - 4:
        raise ValueError(f"{count} items in metadata of {len(raw)} bytes")
    return np.frombuffer(raw, np.uint8, count * itemsize, start + 4)


def _find_field(buffer: bytes, table: int, number: int) -> int | None:
    """Find the offset of a flatbuffer table's field; None if it has its default value."""
    vtable = table - int(struct.unpack_from("<i", buffer, table)[0])
    slot = 4 + 2 * number
    if slot >= struct.unpack_from("<H", buffer, vtable)[0]:
        return None
    offset = int(struct.unpack_from("<H", buffer, vtable + slot)[0])
    return table + offset if offset else None


def _read_u32(buffer: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", buffer, at)[0])
