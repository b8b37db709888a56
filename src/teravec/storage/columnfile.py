"""The column file: columns of a segment's rows, in chunks, sealed.

Its rows are those of the list file beside it, in the same order. ``docs/format.md`` writes it field
by field::

    header     128 bytes: magic, version, number of columns, list range, rows, model
    chunks     of all columns, in the order of their last rows (column_chunk.py)
    directory  the schema as JSON; last row, place, length, bytes in memory, checksum of each chunk
    footer     40 bytes: seal, place and length of the directory, checksum, magic

A chunk has some 64 KiB of values, or one row if that is longer: so a few rows cost a few chunks, of
the columns asked for only. Where a chunk ends depends on its column's values alone, and the same
rows give the same bytes, however they were handed to the writer.

A chunk's checksum is compared before Arrow sees it. The seal is the XXH3-64 of header and
directory; a manifest that names the seal names the content.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from teravec.engines.threads import ordered_map
from teravec.errors import CorruptFile, ForeignFile, InvalidArgument
from teravec.storage.column_chunk import count_row_bytes, decode_chunk, encode_chunk
from teravec.storage.column_types import parse_schema, schema_content
from teravec.storage.local_store import AnyPath
from teravec.storage.sealed_file import DirectoryFile, RowsHeader
from teravec.storage.store import OpenFile, Writer

__all__ = ["ColumnFile", "ColumnFileHeader", "ColumnFileWriter", "verify_columns"]

CHUNK_BYTES = 64 << 10  # of values in memory, from which on a chunk ends
CHUNK_ROWS = 64 << 10  # most rows of a chunk
_COUNT = struct.Struct("<Q")
_ENTRY = np.dtype(
    [("stop", "<u8"), ("offset", "<u8"), ("length", "<u8"), ("raw", "<u8"), ("checksum", "<u8")]
)
ColumnFileHeader = RowsHeader

Int64 = npt.NDArray[np.int64]


class _Chunk(NamedTuple):
    """A finished chunk: its last row, plus one; its column; its values."""

    stop: int
    column: int
    values: Any


@dataclass
class _Column:
    """The rows of a column that no chunk has yet."""

    parts: list[Any] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    stop: int = 0


class ColumnFileWriter:
    """Writes one column file, rows in order, in as many pieces as memory asks for.

    Parameters
    ----------
    file : Writer
        From ``Store.publish``; leaving that context after ``finish`` seals the file.
    header : ColumnFileHeader
        Its ``ntotal`` is not used: rows are counted.
    schema : pyarrow.Schema
        Of stored types (``column_types``).
    threads : int
        Chunks encoded at a time.
    """

    def __init__(
        self, file: Writer, header: ColumnFileHeader, schema: Any, threads: int = 1
    ) -> None:
        self._file, self._header, self._threads = file, header, threads
        self.schema = schema
        self._columns = [_Column() for _ in schema]
        self._entries: list[list[tuple[int, ...]]] = [[] for _ in schema]
        self._offset = ColumnFile.HEADER_BYTES

    def write(self, batch: Any) -> None:
        """Append the rows of a RecordBatch or Table with the schema's columns, in its order."""
        done: list[_Chunk] = []
        for number, column in enumerate(batch.columns):
            for array in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                done += self._append(number, array)
        self._write_chunks(done)

    def _append(self, number: int, array: Any) -> Iterator[_Chunk]:
        """Add values to a column; yield the chunks that are complete."""
        start = 0
        if not self.schema.field(number).nullable and array.null_count:
            name = self.schema.field(number).name
            raise InvalidArgument(f"column {name!r}: a null found where the schema allows none")
        sums = np.cumsum(count_row_bytes(array))
        while start < len(array):
            column = self._columns[number]
            before = int(sums[start - 1]) if start else 0
            full = int(np.searchsorted(sums, before + CHUNK_BYTES - column.bytes)) + 1
            stop = min(full, start + CHUNK_ROWS - column.rows, len(array))
            column.parts.append(array.slice(start, stop - start))
            column.rows += stop - start
            column.bytes += int(sums[stop - 1]) - before
            column.stop += stop - start
            start = stop
            if column.bytes >= CHUNK_BYTES or column.rows == CHUNK_ROWS:
                yield self._end_chunk(number)

    def _end_chunk(self, number: int) -> _Chunk:
        column = self._columns[number]
        values = column.parts[0] if len(column.parts) == 1 else pa.concat_arrays(column.parts)
        self._columns[number] = _Column(stop=column.stop)
        return _Chunk(column.stop, number, (values, column.bytes))

    def _write_chunks(self, chunks: list[_Chunk]) -> None:
        # By last row, so that the order does not depend on the pieces that were written.
        chunks.sort(key=lambda chunk: (chunk.stop, chunk.column))
        for chunk, data in zip(chunks, self._encode(chunks), strict=True):
            self._file.write(data, self._offset)
            entry = (chunk.stop, self._offset, len(data), chunk.values[1])
            self._entries[chunk.column].append((*entry, xxhash.xxh3_64_intdigest(data)))
            self._offset += len(data)

    def _encode(self, chunks: list[_Chunk]) -> Iterator[memoryview]:
        values = [chunk.values[0] for chunk in chunks]
        if self._threads == 1 or len(chunks) == 1:
            return map(encode_chunk, values)
        return ordered_map(encode_chunk, values, threads=self._threads)

    def finish(self) -> str:
        """Write the last chunks, directory, footer and header; return the seal."""
        self._write_chunks([self._end_chunk(i) for i, c in enumerate(self._columns) if c.rows])
        (ntotal,) = {column.stop for column in self._columns}
        header = replace(self._header, ntotal=ntotal)
        directory = _pack_directory(self.schema, self._entries)
        return ColumnFile.write_end(self._file, header, len(self.schema), directory, self._offset)


def _pack_directory(schema: Any, entries: Sequence[Sequence[tuple[int, ...]]]) -> bytes:
    text = json.dumps(schema_content(schema), ensure_ascii=False, separators=(",", ":")).encode()
    parts = [_COUNT.pack(len(text)), text]
    for column in entries:
        parts += [_COUNT.pack(len(column)), np.array(column, _ENTRY).tobytes()]
    return b"".join(parts)


class ColumnFile(DirectoryFile):
    """A sealed column file, open for reading any rows of any columns.

    Opening reads header and footer, and checks them and the file's size. The directory is read and
    checked when columns are first asked for, and each chunk before it is decoded. Threads may share
    the object.
    """

    MAGIC, VERSION, KIND = b"TVCOLS\x00\x00", 1, "column file"

    @cached_property
    def _directory(self) -> tuple[Any, list[npt.NDArray[Any]]]:
        """The schema, and the entries of each column's chunks."""
        data = self._read_directory()
        try:
            (length,) = _COUNT.unpack_from(data)
            at = _COUNT.size + length
            schema = parse_schema(json.loads(data[_COUNT.size : at]), self.path)
            columns = []
            for _ in range(self._ncolumns):
                (count,) = _COUNT.unpack_from(data, at)
                columns.append(np.frombuffer(data, _ENTRY, count, at + _COUNT.size))
                at += _COUNT.size + columns[-1].nbytes
        except (ValueError, struct.error) as error:
            raise CorruptFile(f"{self.path}: the directory cannot be read: {error}") from error
        self._check_directory(schema, columns, at == len(data))
        return schema, columns

    def _check_directory(
        self, schema: Any, columns: list[npt.NDArray[Any]], is_whole: bool
    ) -> None:
        """Check that the chunks have all rows of all columns, and all bytes of the file."""
        every = np.sort(np.concatenate(columns), order="offset")
        ends = every["offset"] + every["length"]
        begins = np.append(every["offset"], self._offset)
        stops = [column["stop"].astype(np.int64) for column in columns]
        rows = all(
            (np.diff(stop, prepend=0) > 0).all() and (stop[-1] if len(stop) else 0) == n
            for stop, n in zip(stops, [self.header.ntotal] * len(stops), strict=True)
        )
        bytes_ = begins[0] == self.HEADER_BYTES and np.array_equal(begins[1:], ends)
        if not (is_whole and rows and bytes_ and len(schema) == len(columns)):
            raise CorruptFile(f"{self.path}: the directory's entries disagree")

    @property
    def schema(self) -> Any:
        """The columns' names and types, a pyarrow.Schema."""
        return self._directory[0]

    @cached_property
    def _stops(self) -> list[Int64]:
        return [column["stop"].astype(np.int64) for column in self._directory[1]]

    @cached_property
    def _sums(self) -> tuple[list[Int64], list[Int64]]:
        """For each column, first rows of chunks, and bytes in memory before them."""
        rows = [np.concatenate(([0], stops)) for stops in self._stops]
        raw = [np.concatenate(([0], np.cumsum(c["raw"]))) for c in self._directory[1]]
        return rows, [sums.astype(np.int64) for sums in raw]

    def column_bytes(self) -> list[int]:
        """Return each column's bytes in the file."""
        return [int(column["length"].sum()) for column in self._directory[1]]

    def estimate_bytes(self, rows: Int64) -> Int64:
        """Return about how many bytes in memory all columns have before each row, (n,)."""
        total = np.zeros(len(rows), np.float64)
        for starts, sums in zip(*self._sums, strict=True):
            total += np.interp(rows, starts, sums)
        return total.astype(np.int64)

    def plan_pieces(
        self, start: int, stop: int, most_bytes: int, most_rows: int
    ) -> Iterator[tuple[int, int]]:
        """Cut rows [start, stop) into ranges of at most so many rows, and about so many bytes."""
        while start < stop:
            end = min(stop, start + most_rows)
            sums = self.estimate_bytes(np.arange(start, end + 1))
            fit = int(np.searchsorted(sums, sums[0] + most_bytes, side="right")) - 1
            end = start + max(1, min(fit, end - start))
            yield start, end
            start = end

    def read(self, start: int, stop: int, names: Sequence[str] | None = None) -> Any:
        """Read rows [start, stop) of some columns, or of all, as a pyarrow.Table.

        Raises
        ------
        CorruptFile
            A chunk is damaged; the message names file, column and rows.
        InvalidArgument
            There is no such column.
        """
        numbers = self._find(names)
        columns = []
        for number in numbers:
            kind, stops = self.schema.field(number).type, self._stops[number]
            first, last = (
                np.searchsorted(stops, [start, stop - 1], side="right") if start < stop else (0, -1)
            )
            arrays = []
            for chunk in range(int(first), int(last) + 1):
                begin = int(stops[chunk - 1]) if chunk else 0
                low = max(0, start - begin)
                array = self._read_chunk(number, chunk)
                arrays.append(array.slice(low, min(stop - begin, len(array)) - low))
            columns.append(pa.chunked_array(arrays, kind))
        return pa.Table.from_arrays(columns, schema=self._select(numbers))

    def take(self, rows: Int64, names: Sequence[str] | None = None) -> Any:
        """Read single rows (n,), in any order, of some columns, or of all, as a pyarrow.Table.

        Raises as ``read``.
        """
        numbers = self._find(names)
        columns = []
        for number in numbers:
            kind, stops = self.schema.field(number).type, self._stops[number]
            chunks = np.searchsorted(stops, rows, side="right")
            needed, at = np.unique(chunks, return_inverse=True)
            begins = np.where(needed > 0, stops[needed - 1], 0)
            places = np.concatenate(([0], np.cumsum(stops[needed] - begins)))
            arrays = [self._read_chunk(number, chunk) for chunk in needed.tolist()]
            indices = pa.array(places[at] + rows - begins[at])
            columns.append(pa.chunked_array(arrays, kind).take(indices))
        return pa.Table.from_arrays(columns, schema=self._select(numbers))

    def _find(self, names: Sequence[str] | None) -> list[int]:
        """Return the numbers of columns."""
        if names is None:
            return list(range(self._ncolumns))
        known = self.schema.names
        for name in names:
            if name not in known:
                raise InvalidArgument(
                    f"{self.path}: column {name!r} asked for; it has {', '.join(known)}"
                )
        return [known.index(name) for name in names]

    def _select(self, numbers: Sequence[int]) -> Any:
        return pa.schema([self.schema.field(number) for number in numbers])

    def _read_chunk(self, column: int, number: int) -> Any:
        """Read, check and decode a chunk."""
        entry = self._directory[1][column][number]
        data = self.file.read(int(entry["length"]), int(entry["offset"]))
        found = xxhash.xxh3_64_intdigest(data)
        field = self.schema.field(column)
        start = int(self._stops[column][number - 1]) if number else 0
        if found != entry["checksum"]:
            self.file.distrust()
            raise CorruptFile(
                f"{self.path}: column {field.name!r}, rows {start:,} to {int(entry['stop']):,}: "
                f"checksum {found:016x} found, {int(entry['checksum']):016x} expected"
            )
        array = decode_chunk(data, field.type, self.path)
        if len(array) != int(entry["stop"]) - start:
            raise CorruptFile(
                f"{self.path}: column {field.name!r}, row {start:,}: {len(array):,} rows found, "
                f"{int(entry['stop']) - start:,} expected"
            )
        return array

    def verify(self) -> None:
        """Read every chunk, and compare it with its checksum."""
        for column, stops in enumerate(self._stops):
            for number in range(len(stops)):
                self._read_chunk(column, number)

    def check_belongs(self, header: ColumnFileHeader, schema: Any) -> None:
        """Raise ForeignFile unless the file has these lists, rows, model and columns."""
        if self.header != header or not self.schema.equals(schema):
            raise ForeignFile(
                f"{self.path}: {self.header} with columns {', '.join(self.schema.names)} found, "
                f"{header} with columns {', '.join(schema.names)} expected"
            )


def verify_columns(source: OpenFile | AnyPath) -> None:
    """Read a column file whole, chunk by chunk, and check every chunk.

    Raises
    ------
    CorruptFile
        A chunk is wrong; the message names the file, the column and the rows.
    """
    with ColumnFile(source) as file:
        file.verify()
