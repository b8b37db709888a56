"""Sealed files of arrays that belong to a JSON file, which holds their checksums."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import CorruptFile, storage_errors
from teravec.storage.files import byte_view, check_size, file_checksum, publishing, write_all

__all__ = [
    "ArrayWriter",
    "check_file",
    "describe_file",
    "publishing_arrays",
    "read_array",
    "write_array",
]


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and checksum of a file, for the JSON file that vouches for it."""
    with storage_errors(path, "read"):
        size = path.stat().st_size
    return {"size": size, "checksum": file_checksum(path)}


def check_file(path: Path, expected: dict[str, Any]) -> None:
    """Raise MissingFile or CorruptFile unless the file is as it was described."""
    check_size(path, expected["size"])
    found = file_checksum(path)
    if found != expected["checksum"]:
        raise CorruptFile(f"{path}: checksum {found} found, {expected['checksum']} expected")


class ArrayWriter:
    """A file while arrays are written to it, one after another.

    Parameters
    ----------
    file : binary file
    size : int
        Bytes that the file is to have.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._digest, self._offset = xxhash.xxh3_64(), 0

    def write(self, array: npt.NDArray[Any]) -> None:
        """Append an array's bytes; it is C-contiguous."""
        self._digest.update(byte_view(array))
        write_all(self._file, byte_view(array), self._offset)
        self._offset += array.nbytes

    @property
    def described(self) -> dict[str, Any]:
        """The file, as it was to be written."""
        return {"size": self._size, "checksum": self._digest.hexdigest()}


@contextmanager
def publishing_arrays(path: Path, size: int) -> Iterator[ArrayWriter]:
    """Publish a file of ``size`` bytes that the body writes, arrays without a header."""
    with publishing(path, verify=lambda part: check_file(part, writer.described)) as file:
        writer = ArrayWriter(file, size)
        yield writer


def write_array(path: Path, array: npt.NDArray[Any]) -> dict[str, Any]:
    """Publish an array as ``.npy`` and describe the file, as it was to be written."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    with publishing_arrays(path, header.tell() + array.nbytes) as out:
        out.write(np.frombuffer(header.getvalue(), np.uint8))
        out.write(array)
    return out.described


def read_array(
    path: Path,
    expected: dict[str, Any],
    shape: tuple[int, ...] | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[Any]:
    """Read an array after checking its file.

    Parameters
    ----------
    path : Path
    expected : dict
        Size and checksum, as described when it was written.
    shape, dtype
        What the array must have; any shape where none is given.

    Raises
    ------
    MissingFile, CorruptFile
    """
    check_file(path, expected)
    try:
        with storage_errors(path, "read"):
            array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptFile(f"{path}: not an array file: {error}") from error
    if array.dtype != dtype or (shape is not None and array.shape != shape):
        raise CorruptFile(
            f"{path}: {array.dtype} array of shape {array.shape} found, "
            f"{np.dtype(dtype)} of shape {shape} expected"
        )
    return np.asarray(array)
