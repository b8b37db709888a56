"""The interface of every input format: one file with n vectors of d dimensions."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from teravec.errors import InvalidSource, MissingFile, storage_errors
from teravec.sources.remote import SourcePath

__all__ = ["MAX_D", "SKIP_HINT", "RowReader", "VectorFile", "check_dimension", "source_errors"]

MAX_D = 1 << 20
"""Largest plausible dimension; a larger one means that the file has another format."""

SKIP_HINT = "build and groundtruth leave such rows out with --skip-bad (skip_bad=True)"
"""Advice at the end of errors about one row."""

RowReader = Callable[[int, int], np.ndarray]
"""Reads rows [start, stop) in the file's dtype; the next call may overwrite the result."""


class VectorFile(ABC):
    """One input file whose header is read; most formats keep no descriptor open.

    Readers are thread-safe: every `reading` context has its own descriptor and buffers.

    Attributes
    ----------
    path : Path
    n, d : int
        Rows and dimensions. ``d`` may be 0 if ``n`` is 0 and the format states no dimension.
    dtype : numpy.dtype
        Element type in the file.
    size_bytes : int
        File size when it was opened.
    vector_column : str or None
        The column that is read, in formats with columns.
    is_decoded : bool
        Whether rows can only be decoded in order, from the first row of a group.
    by_content : bool
        Whether a later process recognises these vectors by their values, instead of by a file's
        name and bytes.
    is_held : bool
        Whether the vectors are in this process's memory, where no other process can open them.
    id_name : str or None
        Name of the ids, if the file has ids that no option names.
    """

    is_decoded = False
    by_content = False
    is_held = False
    id_name: str | None = None

    def __init__(self, path: SourcePath, n: int, d: int, dtype: np.dtype, size_bytes: int) -> None:
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
        """Open the file for several reads; each result is valid until the next read."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows [start, stop), 0 <= start < stop <= n.

        Returns
        -------
        ndarray of shape (stop - start, d), of the file's dtype
            May be read-only; values may be infinite or NaN.
        """
        with self.reading() as read:
            return read(start, stop)

    def read_ids(self, start: int, stop: int) -> np.ndarray | None:
        """Read the ids of rows [start, stop) as int64; None if the file has no ids."""
        return None

    def release(self) -> None:
        """Release decoded rows and descriptors that are kept for the next read."""
        return


def check_dimension(path: SourcePath, d: int) -> None:
    """Refuse an implausible dimension before memory is allocated for it."""
    if not 0 < d <= MAX_D:
        raise InvalidSource(f"{path}: dimension {d} found, expected 1 to {MAX_D}")


@contextmanager
def source_errors(path: str | os.PathLike[str], action: str = "read") -> Iterator[None]:
    """Turn an ``OSError`` into a typed error; a missing input is an InvalidSource."""
    try:
        with storage_errors(path, action):
            yield
    except MissingFile as error:
        message = f"{os.fspath(path)}: no such file or directory, expected a file of vectors"
        raise InvalidSource(message) from error
