"""The inverted file: which rows of a segment have a value, for some of its columns, sealed.

The values of a column are divided into *bins*, ascending: a bin is one value, or some neighbouring
values, and has the rows that have one of them. ``docs/format.md`` writes the file field by field::

    header     128 bytes, as a column file's
    bins       of all columns: rows, a roaring bitmap; then values, if they are several
    directory  names and types as JSON; bounds and entries of each column's bins
    footer     40 bytes, as a column file's

Nulls are rows of their own entry; not-a-numbers are in no bin. Values of a bin are a chunk
(column_chunk.py) with one value for each row of the bitmap; of lists, the row's elements that are
in the bin. So whether a row of such a bin passes is known without its column.

A bitmap is in the portable format of the roaring bitmaps (https://github.com/RoaringBitmap/
RoaringFormatSpec). Its checksum is compared before it is parsed.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from pyroaring import BitMap

from teravec.errors import CorruptFile
from teravec.storage.column_chunk import decode_chunk, encode_chunk
from teravec.storage.column_types import parse_schema, schema_content
from teravec.storage.local_store import AnyPath
from teravec.storage.sealed_file import DirectoryFile, RowsHeader
from teravec.storage.store import OpenFile, Writer

__all__ = [
    "MOST_ROWS",
    "InvertedColumn",
    "InvertedFile",
    "InvertedFileWriter",
    "element_type",
    "make_bitmap",
    "rows_of_bitmap",
    "verify_inverted",
]

UInt32 = npt.NDArray[np.uint32]

MOST_ROWS = 1 << 32
"""A segment of so many rows has no inverted file: bitmaps are of 32-bit numbers."""

_COUNTS = struct.Struct("<QQ")
_ENTRY = np.dtype(
    [
        ("count", "<u8"),  # rows
        ("offset", "<u8"),
        ("length", "<u8"),
        ("checksum", "<u8"),
        ("values_length", "<u8"),  # behind the rows; 0: the bin is one value
        ("values_checksum", "<u8"),
    ]
)
_SPAN_BYTES = 4 << 20  # of consecutive bins, read together


def element_type(kind: Any) -> Any:
    """Return the type of a column's values, of lists their elements'."""
    return kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind


def _values_type(kind: Any) -> Any:
    element = element_type(kind)
    return kind if element is kind else pa.list_(element)


def make_bitmap(rows: UInt32) -> BitMap:
    """Make the bitmap of rows (n,), ascending and distinct."""
    bitmap = BitMap(array("I", np.ascontiguousarray(rows, np.uint32).tobytes()))
    bitmap.run_optimize()
    return bitmap


def rows_of_bitmap(bitmap: BitMap) -> UInt32:
    """Return the rows of a bitmap, (n,), ascending."""
    return np.frombuffer(bitmap.to_array(), np.uint32)


@dataclass
class _Written:
    """What the directory says of a column: bounds of bins, and entries; first that of nulls."""

    bounds: list[Any] = field(default_factory=list)
    entries: list[tuple[int, ...]] = field(default_factory=list)


class InvertedFileWriter:
    """Writes one inverted file, column after column, bins ascending.

    Parameters
    ----------
    file : Writer
        From ``Store.publish``; leaving that context after ``finish`` seals the file.
    header : RowsHeader
    schema : pyarrow.Schema
        Of the columns, of stored types.
    """

    def __init__(self, file: Writer, header: RowsHeader, schema: Any) -> None:
        self._file, self._header, self._schema = file, header, schema
        self._offset = InvertedFile.HEADER_BYTES
        self._columns: list[_Written] = []

    def begin_column(self, nulls: UInt32) -> None:
        """Begin the next column of the schema, with the rows that have no value."""
        self._columns.append(_Written())
        self._append(nulls, b"")

    def write_bin(self, rows: UInt32, low: Any, high: Any, values: Any) -> None:
        """Append a bin.

        Parameters
        ----------
        rows : ndarray of shape (n,), uint32
            Ascending and distinct.
        low, high : pyarrow.Scalar
            The least and the greatest value.
        values : pyarrow.Array of n values or lists; None if both are equal
        """
        self._columns[-1].bounds += [low, high]
        self._append(rows, b"" if values is None else encode_chunk(values))

    def _append(self, rows: UInt32, values: Any) -> None:
        data = make_bitmap(rows).serialize()
        self._file.write(data, self._offset)
        self._file.write(values, self._offset + len(data))
        checksums = xxhash.xxh3_64_intdigest(data), xxhash.xxh3_64_intdigest(values)
        entry = (len(rows), self._offset, len(data), checksums[0], len(values), checksums[1])
        self._columns[-1].entries.append(entry)
        self._offset += len(data) + len(values)

    def finish(self) -> str:
        """Write directory, footer and header; return the seal."""
        text = json.dumps(schema_content(self._schema), ensure_ascii=False).encode()
        parts = [_COUNTS.pack(len(text), len(self._columns)), text]
        for column, kept in zip(self._schema, self._columns, strict=True):
            bounds = _join(kept.bounds, element_type(column.type))
            encoded = bytes(encode_chunk(bounds))
            entries = np.array(kept.entries, _ENTRY).tobytes()
            parts += [_COUNTS.pack(len(encoded), len(kept.entries)), encoded, entries]
        ncolumns = len(self._schema)
        end = b"".join(parts), self._offset
        return InvertedFile.write_end(self._file, self._header, ncolumns, *end)


def _join(scalars: list[Any], kind: Any) -> Any:
    """Make an array of scalars."""
    if not scalars:
        return pa.array([], kind)
    return pa.concat_arrays([pa.array([each.as_py()], kind) for each in scalars])


class InvertedFile(DirectoryFile):
    """A sealed inverted file, open for reading the rows of any bins.

    The directory is read and checked when a column is first asked for, each bitmap and chunk before
    it is parsed. Threads may share the object.
    """

    MAGIC, VERSION, KIND = b"TVINVT\x00\x00", 1, "inverted file"

    @cached_property
    def _directory(self) -> tuple[Any, list[tuple[Any, npt.NDArray[Any]]]]:
        """The schema, and bounds and entries of each column."""
        data = self._read_directory()
        try:
            length, count = _COUNTS.unpack_from(data)
            at = _COUNTS.size + length
            schema = parse_schema(json.loads(data[_COUNTS.size : at]), self.path)
            columns = []
            for column in schema:
                length, entries = _COUNTS.unpack_from(data, at)
                at += _COUNTS.size
                bounds = decode_chunk(data[at : at + length], element_type(column.type), self.path)
                columns.append((bounds, np.frombuffer(data, _ENTRY, entries, at + length)))
                at += length + columns[-1][1].nbytes
        except (ValueError, struct.error) as error:
            raise CorruptFile(f"{self.path}: the directory cannot be read: {error}") from error
        whole = at == len(data) and count == len(schema) == self._ncolumns
        if not whole or any(len(b) != 2 * (len(e) - 1) for b, e in columns):
            raise CorruptFile(f"{self.path}: the directory's entries disagree")
        return schema, columns

    @property
    def schema(self) -> Any:
        """The columns' names and types, a pyarrow.Schema."""
        return self._directory[0]

    @cached_property
    def columns(self) -> dict[str, InvertedColumn]:
        """The columns by name."""
        schema, columns = self._directory
        return {
            each.name: InvertedColumn(self, each, *column)
            for each, column in zip(schema, columns, strict=True)
        }

    def verify(self) -> None:
        """Read every bitmap and chunk, and compare it with its checksum."""
        for column in self.columns.values():
            column.verify()


class InvertedColumn:
    """The bins of a column.

    Attributes
    ----------
    name : str
    bounds : pyarrow.Array of shape (2 * nbins,)
        The least and the greatest value of each bin. Bins ascend, and none overlaps another.
    ticks : tuple of list, optional
        The same as who looks them up wants them, if they were looked up before.
    """

    ticks: Any = None

    def __init__(
        self, file: InvertedFile, column: Any, bounds: Any, entries: npt.NDArray[Any]
    ) -> None:
        self._file, self._kind = file, column.type
        self.name, self.bounds = column.name, bounds
        self._nulls, self._entries = entries[0], entries[1:]

    @property
    def ntotal(self) -> int:
        """Rows of the segment."""
        return self._file.header.ntotal

    @property
    def file_bytes(self) -> int:
        """Bytes in the file."""
        lengths = self._entries["length"] + self._entries["values_length"]
        return int(lengths.sum()) + int(self._nulls["length"])

    def is_single(self, number: int) -> bool:
        """Whether a bin is one value."""
        return not self._entries[number]["values_length"]

    def nulls(self) -> BitMap:
        """Return the rows without a value."""
        return next(self._bitmaps([self._nulls]))

    def rows(self, start: int, stop: int) -> BitMap:
        """Return the rows of bins [start, stop)."""
        return BitMap.union(BitMap(), *self._bitmaps(self._entries[start:stop]))

    def values(self, number: int) -> tuple[BitMap, Any]:
        """Return a bin's rows, and the values of each; of lists, those that are in the bin."""
        entry = self._entries[number]
        offset, length = int(entry["offset"] + entry["length"]), int(entry["values_length"])
        data = bytes(self._file.file.read(length, offset))
        self._check(data, int(entry["values_checksum"]), number)
        values = decode_chunk(data, _values_type(self._kind), self._file.path)
        if len(values) != int(entry["count"]):
            raise CorruptFile(f"{self._where(number)}: {len(values):,} values found")
        return self.rows(number, number + 1), values

    def _bitmaps(self, entries: Any) -> Iterator[BitMap]:
        start = 0
        while start < len(entries):
            first, stop = int(entries[start]["offset"]), start + 1
            while stop < len(entries) and _end(entries[stop]) - first <= _SPAN_BYTES:
                stop += 1
            data = bytes(self._file.file.read(_end(entries[stop - 1]) - first, first))
            for number in range(start, stop):
                entry = entries[number]
                at = int(entry["offset"]) - first
                yield self._parse(data[at : at + int(entry["length"])], entry)
            start = stop

    def _parse(self, data: bytes, entry: Any) -> BitMap:
        where = int(entry["offset"])
        self._check(data, int(entry["checksum"]), where)
        try:
            bitmap = BitMap.deserialize(data)
        except (ValueError, IndexError) as error:
            raise CorruptFile(f"{self._where(where)}: no roaring bitmap: {error}") from error
        if len(bitmap) != int(entry["count"]) or (bitmap and bitmap.max() >= self.ntotal):
            raise CorruptFile(f"{self._where(where)}: a bitmap of other rows than expected")
        return bitmap

    def _check(self, data: bytes, expected: int, where: int) -> None:
        found = xxhash.xxh3_64_intdigest(data)
        if found != expected:
            self._file.file.distrust()
            raise CorruptFile(
                f"{self._where(where)}: checksum {found:016x} found, {expected:016x} expected"
            )

    def _where(self, where: int) -> str:
        return f"{self._file.path}: column {self.name!r}, bin at {where:,}"

    def verify(self) -> None:
        """Read every bitmap and chunk, and compare it with its checksum."""
        self.nulls()
        for number in range(len(self._entries)):
            if self.is_single(number):
                self.rows(number, number + 1)
            else:
                self.values(number)


def _end(entry: Any) -> int:
    return int(entry["offset"] + entry["length"])


def verify_inverted(source: OpenFile | AnyPath) -> None:
    """Read an inverted file whole, and check every part.

    Raises
    ------
    CorruptFile
        Names the file, the column and the place.
    """
    with InvertedFile(source) as file:
        file.verify()
