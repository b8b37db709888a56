"""What sealed binary files share: a header with a checksum, a footer, and an open descriptor."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import xxhash

from teravec.errors import CorruptFile, ForeignFile, IncompatibleVersion, storage_errors
from teravec.storage.files import open_to_read, read_exactly

__all__ = ["SealedFile", "pack_header", "unpack_header"]

_CHECKSUM_BYTES = 8


def pack_header(layout: struct.Struct, magic: bytes, version: int, *fields: int) -> bytes:
    """A header: magic, version, fields, and the checksum of all that in the last 8 bytes."""
    data = layout.pack(magic, version, *fields, 0)[:-_CHECKSUM_BYTES]
    return data + xxhash.xxh3_64_intdigest(data).to_bytes(_CHECKSUM_BYTES, "little")


def unpack_header(
    layout: struct.Struct, data: bytes, path: Path, *, magic: bytes, version: int, kind: str
) -> list[Any]:
    """The fields of a header, or an error that names the file.

    Parameters
    ----------
    layout : Struct
        Begins with magic and version, and ends with the checksum.
    data : bytes of length layout.size
    path : Path
    magic, version
        Expected.
    kind : str
        What the file should be, as ``list file``.

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
    """A sealed file, open for reading at random places.

    Attributes
    ----------
    path : Path
    fd : int
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = open_to_read(path)

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Close the file where reading its header or footer fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _read_header(self, header_bytes: int, least_bytes: int, kind: str) -> bytes:
        """The header's bytes, of a file that is long enough to have one."""
        if self._size() < least_bytes:
            raise CorruptFile(f"{self.path}: {self._size():,} bytes found, too few for a {kind}")
        return bytes(read_exactly(self.fd, header_bytes, 0, self.path))

    def _read_footer(self, footer_bytes: int, expected_size: int) -> bytes:
        """The footer's bytes, of a file as long as its header says."""
        if self._size() != expected_size:
            raise CorruptFile(
                f"{self.path}: {self._size():,} bytes found, {expected_size:,} expected"
            )
        return bytes(read_exactly(self.fd, footer_bytes, expected_size - footer_bytes, self.path))

    def _check_encoded_by(
        self, found: tuple[int, int], expected: tuple[int, int], unit: str
    ) -> None:
        """Raise ForeignFile unless model, and bytes of a code or row, are those expected."""
        if found != expected:
            raise ForeignFile(
                f"{self.path}: encoded by model {found[0]:016x} ({found[1]} bytes a {unit}), "
                f"model {expected[0]:016x} ({expected[1]} bytes a {unit}) expected"
            )

    def _size(self) -> int:
        with storage_errors(self.path, "read"):
            return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Close the descriptor; the object is of no use afterwards."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
