"""Files open for reading at random places, through the page cache and past it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.storage.buffers import aligned_buffer
from teravec.storage.files import byte_view
from teravec.storage.page_cache import knows_cached_bytes

__all__ = ["ALIGNMENT", "ReadFile", "ReadFiles"]

Int64 = npt.NDArray[np.int64]

ALIGNMENT = 512
"""What direct reads ask of offset, length and address: a sector of common disks, in bytes."""


class ReadFile:
    """A file open for reading at random places, through the page cache and past it.

    Parameters
    ----------
    path : Path
    fd : int
        Open for reading; stays the caller's.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd
        self.size = os.fstat(fd).st_size
        # Without knowing what is cached, to read past the page cache would be a guess.
        self.direct_fd = _open_direct(path) if knows_cached_bytes(fd) else None

    def close(self) -> None:
        """Close what was opened here."""
        if self.direct_fd is not None:
            os.close(self.direct_fd)
            self.direct_fd = None


def _open_direct(path: Path) -> int | None:
    """A descriptor for direct reads; None where file system or disk has none by sectors."""
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


class ReadFiles:
    """Files open for reading at random places, by number.

    Parameters
    ----------
    files : sequence of ReadFile
    """

    def __init__(self, files: Sequence[ReadFile] = ()) -> None:
        self._files = list(files)

    def add(self, file: ReadFile) -> None:
        """Give a file the next number."""
        self._files.append(file)

    def __getitem__(self, number: int) -> ReadFile:
        return self._files[number]

    @cached_property
    def sizes(self) -> Int64:
        """Bytes of each, (n,)."""
        return np.array([file.size for file in self._files], np.int64)

    @cached_property
    def fds(self) -> Int64:
        """Descriptors for reads through the page cache, (n,)."""
        return np.array([file.fd for file in self._files], np.int64)

    @cached_property
    def direct_fds(self) -> Int64:
        """Descriptors for reads past the page cache, (n,); the others where there is none."""
        return np.array(
            [file.fd if file.direct_fd is None else file.direct_fd for file in self._files],
            np.int64,
        )

    def close(self) -> None:
        """Close what was opened here."""
        for file in self._files:
            file.close()
