"""What sealed binary files share: a header with a checksum, a footer, and an open file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import xxhash

from teravec.errors import CorruptFile, ForeignFile, IncompatibleVersion
from teravec.storage.local_store import AnyPath, open_file
from teravec.storage.store import OpenFile, check_size

__all__ = ["SealedFile", "pack_header", "unpack_header"]

_CHECKSUM_BYTES = 8


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
        except BaseException:
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
