"""What sealed binary files share: a header with a checksum, a footer, and an open file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import xxhash

from teravec.errors import CorruptFile, ForeignFile, IncompatibleVersion
from teravec.storage.local_store import AnyPath, open_file
from teravec.storage.store import OpenFile, Writer, check_size

__all__ = ["DirectoryFile", "RowsHeader", "SealedFile", "pack_header", "unpack_header"]

_CHECKSUM_BYTES = 8
_HEADER = struct.Struct("<8sIIQQQQ72xQ")
_FOOTER = struct.Struct("<QQQQ8s")
_MOST_COLUMNS = 4096


def pack_header(layout: struct.Struct, magic: bytes, version: int, *fields: int) -> bytes:
    """Pack magic, version and fields; the last 8 bytes are the checksum of the others."""
    data = layout.pack(magic, version, *fields, 0)[:-_CHECKSUM_BYTES]
    return data + xxhash.xxh3_64_intdigest(data).to_bytes(_CHECKSUM_BYTES, "little")


def unpack_header(
    layout: struct.Struct, data: bytes, path: str | Path, *, magic: bytes, version: int, kind: str
) -> list[Any]:
    """Check a header and return its fields.

    Parameters
    ----------
    layout : Struct
        Begins with magic and version, and ends with the checksum.
    data : bytes of length layout.size
    path : str or Path
        Names the file in messages.
    magic, version
        The expected values.
    kind : str
        Names the kind of file in messages, such as ``list file``.

    Raises
    ------
    CorruptFile, IncompatibleVersion
    """
    found_magic, found_version, *fields, checksum = layout.unpack(data)
    if found_magic != magic:
        raise CorruptFile(f"{path}: begins with {found_magic!r}, a {kind} with {magic!r}")
    found = xxhash.xxh3_64_intdigest(data[:-_CHECKSUM_BYTES])
    if found != checksum:
        raise CorruptFile(f"{path}: header has checksum {found:016x}, {checksum:016x} expected")
    if found_version != version:
        raise IncompatibleVersion(
            f"{path}: format version {found_version}, version {version} expected"
        )
    return fields


class SealedFile:
    """A sealed file, open for reading at any position.

    Parameters
    ----------
    source : OpenFile or StorePath or Path
        A file that is open already is closed with this object.

    Attributes
    ----------
    file : OpenFile
    path : str
        Names the file in messages.
    """

    def __init__(self, source: OpenFile | AnyPath) -> None:
        self.file = open_file(source)
        self.path = self.file.path

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Close the file if reading its header or footer fails."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, CorruptFile):
                self.file.distrust()
            self.close()
            raise

    def _read_header(self, header_bytes: int, least_bytes: int, kind: str) -> bytes:
        """Read the header of a file that is long enough to have one."""
        if self.file.size < least_bytes:
            raise CorruptFile(f"{self.path}: {self.file.size:,} bytes found, too few for a {kind}")
        return bytes(self.file.read(header_bytes, 0))

    def _read_footer(self, footer_bytes: int, expected_size: int) -> bytes:
        """Read the footer of a file that is as long as its header says."""
        check_size(self.file, expected_size)
        return bytes(self.file.read(footer_bytes, expected_size - footer_bytes))

    def _check_encoded_by(
        self, found: tuple[int, int], expected: tuple[int, int], unit: str
    ) -> None:
        """Raise ForeignFile unless model, and bytes of a code or row, are those expected."""
        if found != expected:
            raise ForeignFile(
                f"{self.path}: encoded by model {found[0]:016x} ({found[1]} bytes a {unit}), "
                f"model {expected[0]:016x} ({expected[1]} bytes a {unit}) expected"
            )

    def close(self) -> None:
        """Close the file; the object is of no use afterwards."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class RowsHeader:
    """What a file of a segment's columns holds.

    Parameters
    ----------
    list_start, list_stop : int
        Inverted lists [list_start, list_stop), whose rows these are, list after list.
    ntotal : int
        Rows.
    model : int
        Checksum of the model that assigned the rows to lists, as an unsigned 64-bit number.
    """

    list_start: int
    list_stop: int
    ntotal: int
    model: int


class DirectoryFile(SealedFile):
    """A sealed file of a segment's columns, whose directory lies behind what it names.

    Opening reads header and footer, and checks them and the file's size::

        header     128 bytes: magic, version, number of columns, list range, rows, model
        ...
        directory
        footer     40 bytes: seal, place and length of the directory, checksum, magic

    The seal is the XXH3-64 of header and directory.

    Attributes
    ----------
    header : RowsHeader
    seal : str
        16 hexadecimal digits.
    directory_bytes : int
        Bytes of the directory: about the memory that it takes once it was read.
    """

    MAGIC: bytes
    VERSION: int
    KIND: str
    HEADER_BYTES = _HEADER.size

    def __init__(self, source: OpenFile | AnyPath) -> None:
        super().__init__(source)
        with self._closed_on_error():
            self._head = self._read_header(_HEADER.size, _HEADER.size + _FOOTER.size, self.KIND)
            self._ncolumns, *fields = unpack_header(
                _HEADER,
                self._head,
                self.path,
                magic=self.MAGIC,
                version=self.VERSION,
                kind=self.KIND,
            )
            self.header = RowsHeader(*fields)
            if self._pack(self.header, self._ncolumns) != self._head:
                raise CorruptFile(f"{self.path}: the header's fields disagree")
            footer = self._read_footer(_FOOTER.size, self.file.size)
            seal, self._offset, self.directory_bytes, _, _ = _FOOTER.unpack(footer)
            end = self._offset + self.directory_bytes + _FOOTER.size
            if (
                footer != self._footer(self._head, seal, self._offset, self.directory_bytes)
                or end != self.file.size
            ):
                raise CorruptFile(
                    f"{self.path}: the footer does not match the header and {self.file.size:,} "
                    "bytes; the file is damaged or cut"
                )
            self.seal = f"{seal:016x}"

    @staticmethod
    def first_reads(size: int) -> list[tuple[int, int]]:
        """Return what opening a file of so many bytes reads, as (start, stop)."""
        return [(0, _HEADER.size), (max(0, size - _FOOTER.size), size)]

    @classmethod
    def _pack(cls, header: RowsHeader, ncolumns: int) -> bytes:
        """The header's 128 bytes; the last 8 are the checksum of the others."""
        fields = (header.list_start, header.list_stop, header.ntotal, header.model)
        ncolumns = min(ncolumns, _MOST_COLUMNS)
        return pack_header(_HEADER, cls.MAGIC, cls.VERSION, ncolumns, *fields)

    @classmethod
    def _footer(cls, head: bytes, seal: int, offset: int, length: int) -> bytes:
        fields = struct.pack("<QQQ", seal, offset, length)
        checksum = xxhash.xxh3_64_intdigest(head + fields)
        return _FOOTER.pack(seal, offset, length, checksum, cls.MAGIC)

    @classmethod
    def write_end(
        cls, file: Writer, header: RowsHeader, ncolumns: int, directory: bytes, offset: int
    ) -> str:
        """Write directory, footer and header; return the seal."""
        head = cls._pack(header, ncolumns)
        seal = xxhash.xxh3_64_intdigest(head + directory)
        file.write(directory, offset)
        file.write(cls._footer(head, seal, offset, len(directory)), offset + len(directory))
        file.write(head, 0)
        return f"{seal:016x}"

    def _read_directory(self) -> bytes:
        """Read the directory, and check it against the seal."""
        data = bytes(self.file.read(self.directory_bytes, self._offset))
        found = xxhash.xxh3_64_intdigest(self._head + data)
        if f"{found:016x}" != self.seal:
            self.file.distrust()
            raise CorruptFile(
                f"{self.path}: header and directory have seal {found:016x}, {self.seal} expected"
            )
        return data
