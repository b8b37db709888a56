"""Result files opened: to be written durably, or read with their size known."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from teravec.errors import InvalidArgument, InvalidSource
from teravec.storage.files import publishing, write_all

__all__ = ["check_counts", "publishing_result", "read_array", "reading"]


class _Whole(io.RawIOBase):
    """A file being written, of which every write is whole or an error."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._position = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = self._file.seek(offset, whence)
        return self._position

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        write_all(self._file, view, self._position)
        self._position += len(view)
        return len(view)


@contextmanager
def publishing_result(path: Path) -> Iterator[_Whole]:
    """A file to write front to back, which appears under its name when it is whole."""
    with publishing(path) as file:
        yield _Whole(file)


@contextmanager
def reading(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The open file, and its size in bytes."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        yield file, size


def read_array(file: BinaryIO, path: Path, dtype: str, shape: tuple[int, ...]) -> Any:
    """Read an array of known shape from where the file stands."""
    array = np.fromfile(file, dtype, int(np.prod(shape)))
    if array.size != np.prod(shape):
        raise InvalidSource(f"{path}: {array.size} values read, {np.prod(shape)} expected")
    return array.reshape(shape)


def check_counts(path: Path, n: int, k: int) -> None:
    """Refuse what a header of 32-bit numbers cannot hold."""
    if max(n, k) > np.iinfo(np.int32).max:
        raise InvalidArgument(f"{path}: shape {(n, k)} found, less than 2^31 x 2^31 expected")
