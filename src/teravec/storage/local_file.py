"""Local files open for reading at any position, through the page cache and past it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.errors import storage_errors
from teravec.storage.buffers import aligned_buffer
from teravec.storage.files import byte_view, open_to_read, read_into, read_scattered
from teravec.storage.page_cache import knows_cached_bytes
from teravec.storage.store import OpenFile, ReadFiles

__all__ = ["ALIGNMENT", "LocalFile", "LocalFiles"]

Int64 = npt.NDArray[np.int64]

ALIGNMENT = 512
"""Direct reads need multiples of a disk's sector for offset, length and address, in bytes."""


class LocalFile(OpenFile):
    """A file of a local file system, open for reading.

    Parameters
    ----------
    path : Path
    in_order : bool
        Let the kernel read ahead. Otherwise it is told that reads are at random places.

    Attributes
    ----------
    fd : int
        For reads through the page cache; -1 once the file is closed.
    direct_fd : int or None
        For reads past the page cache (``open_direct``).
    """

    def __init__(self, path: Path, *, in_order: bool = False) -> None:
        self.path = str(path)
        self.fd = open_to_read(path, in_order=in_order)
        self.direct_fd: int | None = None
        try:
            with storage_errors(path, "read"):
                self.size = os.fstat(self.fd).st_size
        except BaseException:
            self.close()
            raise

    def open_direct(self) -> None:
        """Open the file for direct reads as well, where the system can."""
        # Direct reads need to know what the page cache holds; otherwise they would be a guess.
        if self.direct_fd is None and knows_cached_bytes(self.fd):
            self.direct_fd = _open_direct(self.path)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        read_into(self.fd, buffer, offset, self.path)

    def read_scattered(self, buffers: Sequence[memoryview], offset: int) -> None:
        read_scattered(self.fd, buffers, offset, self.path)

    def close(self) -> None:
        fds, self.fd, self.direct_fd = (self.fd, self.direct_fd), -1, None
        for fd in fds:
            if fd is not None and fd >= 0:
                os.close(fd)


def _open_direct(path: str) -> int | None:
    """Open a descriptor for direct reads; None where file system or disk has none by sectors."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except (OSError, AttributeError):
        return None
    try:
        os.preadv(fd, [byte_view(aligned_buffer(ALIGNMENT))], 0)
    except OSError:
        os.close(fd)
        return None
    return fd


class LocalFiles(ReadFiles):
    """Local files by number, each open for direct reads too where the system can."""

    def __init__(self, files: Sequence[OpenFile]) -> None:
        super().__init__(files)
        self._local = [file for file in files if isinstance(file, LocalFile)]
        assert len(self._local) == len(files), "a file of another store"
        for file in self._local:
            file.open_direct()

    def __getitem__(self, number: int) -> LocalFile:
        return self._local[number]

    @cached_property
    def fds(self) -> Int64:
        """Descriptors for reads through the page cache, (n,)."""
        return np.array([file.fd for file in self._local], np.int64)

    @cached_property
    def direct_fds(self) -> Int64:
        """Descriptors for reads past the page cache, (n,); ``fds`` where there is none."""
        return np.array(
            [file.fd if file.direct_fd is None else file.direct_fd for file in self._local],
            np.int64,
        )
