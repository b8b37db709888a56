"""One file open for reading at any byte, by any number of threads."""

from __future__ import annotations

import os
from pathlib import Path

from teravec.errors import storage_errors
from teravec.storage.files import read_into

__all__ = ["PositionedFile"]


class PositionedFile:
    """A file open for reading; each read names its offset, so readers share no position.

    Every error names the file. The system's read-ahead stays on.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    path : Path

    Raises
    ------
    MissingFile, StorageError
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        try:  # opened for every few rows of some sources: no context manager on this way
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            with storage_errors(path, "open"):
                raise

    @property
    def size(self) -> int:
        """Bytes of the file now."""
        with storage_errors(self.path, "read"):
            return os.fstat(self._fd).st_size

    def read_into(self, out: memoryview, offset: int) -> None:
        """Fill ``out`` from byte ``offset``.

        Parameters
        ----------
        out : memoryview
            Bytes, contiguous and writable.
        offset : int

        Raises
        ------
        CorruptFile
            The file ends too early.
        StorageError
            A failed read.
        """
        read_into(self._fd, out, offset, self.path)

    def read(self, length: int, offset: int) -> bytes:
        """Read ``length`` bytes from ``offset`` on, or fewer where the file ends earlier.

        Raises
        ------
        StorageError
            A failed read.
        """
        with storage_errors(self.path, "read"):
            data = os.pread(self._fd, length, offset)
            while len(data) < length:  # the system reads at most 2 GiB at once
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        return data

    def close(self) -> None:
        """Close the file; closing it again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> PositionedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
