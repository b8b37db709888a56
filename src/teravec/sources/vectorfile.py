"""The interface of every input format: one file that holds n vectors of d dimensions."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from teravec.errors import InvalidSource, MissingFile, storage_errors

__all__ = ["MAX_D", "SKIP_HINT", "RowReader", "VectorFile", "check_dimension", "source_errors"]

MAX_D = 1 << 20
"""Largest dimension believed; more means that a header is not what its extension says."""

SKIP_HINT = "build and groundtruth leave such rows out with --skip-bad (skip_bad=True)"
"""What errors about one row add."""

RowReader = Callable[[int, int], np.ndarray]
"""Reads rows [start, stop) in the file's dtype; the next call may overwrite what it returned."""


class VectorFile(ABC):
    """One open-for-description file; it holds no descriptor unless its format says so.

    Readers are thread-safe: every `reading` context has its own descriptor and buffers.

    Attributes
    ----------
    path : Path
    n, d : int
        Rows and dimensions. ``d`` may be 0 where ``n`` is 0 and the format does not say.
    dtype : numpy.dtype
        Element type in the file.
    size_bytes : int
        File size when it was opened.
    vector_column : str or None
        Column read, in formats that have columns.
    is_decoded : bool
        Rows have to be decoded one after another, from a group's first on.
    """

    is_decoded = False

    def __init__(self, path: Path, n: int, d: int, dtype: np.dtype, size_bytes: int) -> None:
        self.path = path
        self.n = n
        self.d = d
        self.dtype = dtype
        self.size_bytes = size_bytes
        self.vector_column: str | None = None
        if n > 0:
            check_dimension(path, d)

    @abstractmethod
    def reading(self) -> AbstractContextManager[RowReader]:
        """Open the file for a run of reads; what is read stays valid until the next read."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows [start, stop), 0 <= start < stop <= n.

        Returns
        -------
        ndarray of shape (stop - start, d), of the file's dtype
            Possibly read-only, and not checked to be finite.
        """
        with self.reading() as read:
            return read(start, stop)

    def read_ids(self, start: int, stop: int) -> np.ndarray | None:
        """Read the ids of rows [start, stop) as int64; None where the file names no ids."""
        return None

    def release(self) -> None:
        """Let go of decoded rows and descriptors kept for a next read."""
        return


def check_dimension(path: Path, d: int) -> None:
    """Refuse a dimension that no set of vectors has, before anything is allocated for it."""
    if not 0 < d <= MAX_D:
        raise InvalidSource(f"{path}: dimension {d} found, expected 1 to {MAX_D}")


@contextmanager
def source_errors(path: str | os.PathLike[str], action: str = "read") -> Iterator[None]:
    """Turn an ``OSError`` into a typed one; an input that is not there is the user's to mend."""
    try:
        with storage_errors(path, action):
            yield
    except MissingFile as error:
        message = f"{os.fspath(path)}: no such file or directory, expected a file of vectors"
        raise InvalidSource(message) from error
