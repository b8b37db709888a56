"""Arrow IPC files (.arrow, .feather), one record batch at a time.

pyarrow tells the number of a batch's rows only by loading the batch, so the rows are counted
here from the metadata, which are flatbuffers::

    "ARROW1" | ... | footer | int32 footer size | "ARROW1"
    footer:  table { ..., field 3: vector of Block }
    Block:   int64 offset | int32 metadata size | 4 bytes | int64 body size
    at offset: [0xFFFFFFFF] | int32 size | table Message { ..., field 2: RecordBatch }
    RecordBatch: table { field 0: int64 rows, ..., field 3: compression }

References
----------
Apache Arrow columnar format, "IPC File Format"; ``format/File.fbs`` and ``Message.fbs``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from teravec.errors import InvalidSource
from teravec.sources.columnar import ColumnarFile, Columns, ColumnTable, arrow_errors
from teravec.sources.packed import opened
from teravec.sources.vectorfile import source_errors

__all__ = ["open_ipc"]

_MAGIC = b"ARROW1"
_TAIL = struct.Struct("<i6s")
_BLOCK = struct.Struct("<qi4xq")
_CONTINUATION = b"\xff\xff\xff\xff"

# A row has a byte or more. zstd, the denser codec, makes no fewer than 4 bytes of 128 KiB.
_MOST_ROWS_PER_BYTE = 1
_MOST_ROWS_PER_COMPRESSED_BYTE = 1 << 16


def open_ipc(path: Path, columns: Columns) -> ColumnarFile:
    """Open an Arrow IPC file; its metadata, and batch 0 of free-length lists, are read."""
    return ColumnarFile(_IpcTable(path), columns)


class _IpcTable(ColumnTable):
    """The schema and batch sizes of an IPC file; it is open only while a column is decoded."""

    def __init__(self, path: Path) -> None:
        size, rows = _batch_rows(path)
        with arrow_errors(path), pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            super().__init__(path, size, reader.schema, rows)

    def arrays(self, column: str, group: int, rows: int) -> Iterator[Any]:
        only = pa.ipc.IpcReadOptions(
            included_fields=[self.schema.get_field_index(column)], use_threads=False
        )
        with (
            pa.OSFile(str(self.path)) as file,
            pa.ipc.open_file(file, options=only) as reader,
        ):
            for number in range(group, reader.num_record_batches):
                yield reader.get_batch(number).column(0)


def _batch_rows(path: Path) -> tuple[int, list[int]]:
    """Size of the file, and rows of each of its record batches."""
    with opened(path) as fd, source_errors(path):
        size = os.fstat(fd).st_size
        tail = os.pread(fd, _TAIL.size, max(0, size - _TAIL.size))
        if len(tail) < _TAIL.size or not tail.endswith(_MAGIC):
            raise InvalidSource(
                f"{path}: no Arrow IPC footer found, expected an Arrow file "
                "(not an Arrow stream, nor Feather version 1)"
            )
        footer_size = _TAIL.unpack(tail)[0]
        try:
            footer = _bytes(fd, size - _TAIL.size - footer_size, footer_size, size)
            return size, [_batch_size(fd, size, *block) for block in _blocks(footer)]
        except (struct.error, ValueError) as error:
            why = "its metadata contradict themselves"
            raise InvalidSource(f"{path}: not a sound Arrow file: {why} ({error})") from error


def _blocks(footer: bytes) -> list[tuple[int, int, int]]:
    """Offset, metadata size and body size of each record batch."""
    at = _field(footer, _root(footer), 3)
    if at is None:
        return []
    start = at + _u32(footer, at)
    count = _u32(footer, start)
    if count * _BLOCK.size > len(footer):
        raise ValueError(f"{count} blocks in a footer of {len(footer)} bytes")
    return list(_BLOCK.iter_unpack(footer[start + 4 : start + 4 + count * _BLOCK.size]))


def _batch_size(fd: int, file_size: int, offset: int, size: int, body_size: int) -> int:
    """Rows of the batch whose message lies at ``offset``."""
    raw = _bytes(fd, offset, size, file_size)
    message = raw[8:] if raw.startswith(_CONTINUATION) else raw[4:]
    at = _field(message, _root(message), 2)
    if at is None:
        raise ValueError("a message without a header")
    batch = at + _u32(message, at)
    length = _field(message, batch, 0)
    rows = 0 if length is None else int(struct.unpack_from("<q", message, length)[0])
    plain = _field(message, batch, 3) is None
    most = _MOST_ROWS_PER_BYTE if plain else _MOST_ROWS_PER_COMPRESSED_BYTE
    if not 0 <= rows <= most * body_size <= most * file_size:
        raise ValueError(f"{rows} rows in {body_size} bytes")
    return rows


def _bytes(fd: int, offset: int, size: int, file_size: int) -> bytes:
    if not 0 <= offset <= offset + size <= file_size:
        raise ValueError(f"{size} bytes at {offset} in a file of {file_size}")
    return os.pread(fd, size, offset)


def _root(table: bytes) -> int:
    return _u32(table, 0)


def _field(buffer: bytes, table: int, number: int) -> int | None:
    """Find where a flatbuffer table's field lies; None where it has its default value."""
    vtable = table - int(struct.unpack_from("<i", buffer, table)[0])
    slot = 4 + 2 * number
    if slot >= struct.unpack_from("<H", buffer, vtable)[0]:
        return None
    offset = int(struct.unpack_from("<H", buffer, vtable + slot)[0])
    return table + offset if offset else None


def _u32(buffer: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", buffer, at)[0])
