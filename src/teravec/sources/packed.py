"""Files of consecutive rows of one size: the base of four formats.

Reads reuse one buffer: a run of reads touches no new memory. Memory maps are avoided, because
their pages would count as memory of this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from teravec.errors import CorruptFile, InvalidSource, MissingFile
from teravec.sources.remote import RemotePath, SourcePath
from teravec.sources.vectorfile import RowReader, VectorFile, source_errors
from teravec.storage.positioned import PositionedFile
from teravec.storage.store import OpenFile

__all__ = [
    "ColumnMajorFile",
    "OpenSource",
    "PackedFile",
    "check_size",
    "open_file",
    "read_exactly",
    "read_head",
]


OpenSource = PositionedFile | OpenFile
"""A file open for reading at any byte, here or elsewhere."""


class PackedFile(VectorFile):
    """Rows of ``row_bytes`` bytes from byte ``offset`` to the end of the file.

    Parameters
    ----------
    path, n, d, dtype, size_bytes
        As in `VectorFile`; the caller has checked that they fit together.
    offset : int
        Byte at which row 0 begins.
    prefix_bytes : int
        Bytes before the vector in each row.
    """

    def __init__(
        self,
        path: SourcePath,
        shape: tuple[int, int],
        dtype: np.dtype,
        size_bytes: int,
        *,
        offset: int,
        prefix_bytes: int = 0,
    ) -> None:
        super().__init__(path, *shape, dtype.newbyteorder("="), size_bytes)
        self._stored = dtype
        self._offset = offset
        self._row_bytes = prefix_bytes + self.d * dtype.itemsize

    @contextmanager
    def reading(self) -> Iterator[RowReader]:
        """Open the file for several reads into one buffer."""
        buffer = np.empty(0, np.uint8)

        def read(start: int, stop: int) -> np.ndarray:
            nonlocal buffer
            nbytes = (stop - start) * self._row_bytes
            if nbytes > buffer.size:
                buffer = np.empty(nbytes, np.uint8)
            raw = buffer[:nbytes]
            read_exactly(file, raw, self._offset + start * self._row_bytes)
            return self._decode(raw.reshape(stop - start, self._row_bytes), start)

        with open_file(self.path) as file:
            yield read

    def _decode(self, rows: np.ndarray, start: int) -> np.ndarray:
        """View raw rows (n, row_bytes) uint8 as vectors; ``start`` is the number of the first."""
        return rows.view(self._stored)


class ColumnMajorFile(VectorFile):
    """A file in Fortran order: dimension 0 of all rows, then dimension 1, and so on.

    Reading a range of rows takes one read per dimension, so ranges should be long.

    Parameters
    ----------
    path, shape, dtype, size_bytes, offset
        As in `PackedFile`.
    """

    def __init__(
        self,
        path: SourcePath,
        shape: tuple[int, int],
        dtype: np.dtype,
        size_bytes: int,
        *,
        offset: int,
    ) -> None:
        super().__init__(path, *shape, dtype.newbyteorder("="), size_bytes)
        self._stored = dtype
        self._offset = offset

    @contextmanager
    def reading(self) -> Iterator[RowReader]:
        """Open the file for several reads; each result is a new array."""
        width = self._stored.itemsize

        def read(start: int, stop: int) -> np.ndarray:
            columns = np.empty((self.d, stop - start), self._stored)
            for dimension, column in enumerate(columns):
                at = self._offset + (dimension * self.n + start) * width
                read_exactly(file, column.view(np.uint8), at)
            return columns.T

        with open_file(self.path) as file:
            yield read


@contextmanager
def open_file(path: SourcePath) -> Iterator[OpenSource]:
    """Open a file for reads at any offset; typed errors cover the opening, not the body."""
    try:
        file = path.file if isinstance(path, RemotePath) else PositionedFile(path)
    except MissingFile:
        with source_errors(path):
            raise
    try:
        yield file
    finally:
        file.close()


def read_exactly(file: OpenSource, out: np.ndarray, offset: int) -> None:
    """Fill ``out`` (contiguous uint8) from byte ``offset``.

    Raises
    ------
    InvalidSource
        The file is too short.
    StorageError
        A failed read.
    """
    try:
        file.read_into(out.data, offset)
    except CorruptFile as error:
        raise InvalidSource(f"{error}; it has shrunk since it was opened") from error


def read_head(path: SourcePath, count: int) -> tuple[bytes, int]:
    """Read at most the first ``count`` bytes of a file; return them and the file's size."""
    with open_file(path) as file:
        size = file.size
        return bytes(file.read(min(count, size), 0)), size


def check_size(
    path: SourcePath, found: int, header: int, shape: tuple[int, int], itemsize: int
) -> None:
    """Refuse a file whose header and size disagree."""
    expected = header + shape[0] * shape[1] * itemsize
    if found != expected:
        raise InvalidSource(
            f"{path}: {found} bytes found, expected {expected} for its header's "
            f"n={shape[0]}, d={shape[1]} of {itemsize}-byte values"
        )
