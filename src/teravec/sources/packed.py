"""Files whose rows all have one size and lie one after another: the base of four formats.

Reads go through ``preadv`` into one buffer that is used again, so that a run of reads touches
no new memory, and never through a memory map, whose pages would count as ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from teravec.errors import InvalidSource
from teravec.sources.vectorfile import RowReader, VectorFile, source_errors

__all__ = ["ColumnMajorFile", "PackedFile", "check_size", "open_fd", "read_exactly", "read_head"]


class PackedFile(VectorFile):
    """Rows of ``row_bytes`` bytes from byte ``offset`` to the end of the file.

    Parameters
    ----------
    path, n, d, dtype, size_bytes
        As `VectorFile`; the caller has checked them against each other.
    offset : int
        Where row 0 begins.
    prefix_bytes : int
        Bytes before the vector in each row.
    """

    def __init__(
        self,
        path: Path,
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
        """Open the file for a run of reads into one buffer."""
        buffer = np.empty(0, np.uint8)

        def read(start: int, stop: int) -> np.ndarray:
            nonlocal buffer
            wanted = (stop - start) * self._row_bytes
            if wanted > buffer.size:
                buffer = np.empty(wanted, np.uint8)
            raw = buffer[:wanted]
            read_exactly(fd, raw, self._offset + start * self._row_bytes, self.path)
            return self._decode(raw.reshape(stop - start, self._row_bytes), start)

        with open_fd(self.path) as fd:
            yield read

    def _decode(self, rows: np.ndarray, start: int) -> np.ndarray:
        """View raw rows (n, row_bytes) uint8, of which the first is row ``start``, as vectors."""
        return rows.view(self._stored)


class ColumnMajorFile(VectorFile):
    """Values of dimension 0 of all rows, then of dimension 1, and so on: Fortran's order.

    A range of rows is a piece of every column, each a read of its own, so ranges are best long.

    Parameters
    ----------
    path, shape, dtype, size_bytes, offset
        As of `PackedFile`.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int], dtype: np.dtype, size_bytes: int, *, offset: int
    ) -> None:
        super().__init__(path, *shape, dtype.newbyteorder("="), size_bytes)
        self._stored = dtype
        self._offset = offset

    @contextmanager
    def reading(self) -> Iterator[RowReader]:
        """Open the file for a run of reads; memory holds what one of them returns."""
        width = self._stored.itemsize

        def read(start: int, stop: int) -> np.ndarray:
            columns = np.empty((self.d, stop - start), self._stored)
            for dimension, column in enumerate(columns):
                at = self._offset + (dimension * self.n + start) * width
                read_exactly(fd, column.view(np.uint8), at, self.path)
            return columns.T

        with open_fd(self.path) as fd:
            yield read


@contextmanager
def open_fd(path: Path) -> Iterator[int]:
    """Open a file for reading and yield its descriptor; only opening is guarded, not the body."""
    with source_errors(path, "open"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def read_exactly(fd: int, out: np.ndarray, offset: int, path: Path) -> None:
    """Fill ``out`` (contiguous uint8) from byte ``offset``; a short file is an error."""
    done, view = 0, out.data
    while done < len(view):
        try:
            count = os.preadv(fd, [view[done:]], offset + done)
        except OSError:
            with source_errors(path):
                raise
        if count == 0:
            raise InvalidSource(
                f"{path}: file ends at byte {offset + done}, expected {offset + len(view)} bytes "
                "or more; it has shrunk since it was opened"
            )
        done += count


def read_head(path: Path, count: int) -> tuple[bytes, int]:
    """Read up to ``count`` first bytes of a file; return them and the size of the file."""
    with open_fd(path) as fd, source_errors(path):
        return os.pread(fd, count, 0), os.fstat(fd).st_size


def check_size(path: Path, found: int, header: int, shape: tuple[int, int], itemsize: int) -> None:
    """Refuse a file whose header and size disagree."""
    expected = header + shape[0] * shape[1] * itemsize
    if found != expected:
        raise InvalidSource(
            f"{path}: {found} bytes found, expected {expected} for its header's "
            f"n={shape[0]}, d={shape[1]} of {itemsize}-byte values"
        )
