"""Sealed files of arrays that belong to a JSON file, which holds their checksums."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import CorruptFile
from teravec.storage.buffers import aligned_buffer
from teravec.storage.files import byte_view
from teravec.storage.local_store import AnyPath, open_file, stored
from teravec.storage.store import OpenFile, Sealed, Writer, check_size

__all__ = [
    "ArrayWriter",
    "check_file",
    "describe_file",
    "file_checksum",
    "publishing_arrays",
    "read_array",
    "read_file",
    "read_values",
    "write_array",
]

_BLOCK_BYTES = 4 << 20
_HEADER_BYTES = 1 << 16  # the largest header of .npy's version 1


def file_checksum(file: OpenFile, block_bytes: int = _BLOCK_BYTES) -> str:
    """Return the XXH3-64 of a whole file, 16 hexadecimal digits, reading block by block."""
    digest = xxhash.xxh3_64()
    block = memoryview(bytearray(min(block_bytes, file.size)))
    for start in range(0, file.size, block_bytes):
        part = block[: file.size - start]
        file.read_into(part, start)
        digest.update(part)
    return digest.hexdigest()


def describe_file(path: AnyPath) -> dict[str, Any]:
    """Return size in bytes and checksum of a file, for the JSON file that vouches for it."""
    with open_file(path, in_order=True) as file:
        return {"size": file.size, "checksum": file_checksum(file)}


def check_file(path: OpenFile | AnyPath, expected: dict[str, Any]) -> None:
    """Raise MissingFile or CorruptFile unless the file is as it was described."""
    with open_file(path, in_order=True) as file:
        _check(file, expected)


def read_file(path: AnyPath, expected: dict[str, Any]) -> bytes:
    """Read a whole file after checking it; raise as ``check_file`` does."""
    with _open_sealed(path, expected) as file:
        return bytes(_read_checked(file, expected).data)


def _open_sealed(path: AnyPath, expected: dict[str, Any]) -> OpenFile:
    sealed = Sealed(expected["size"], expected["checksum"])
    return open_file(path, in_order=True, sealed=sealed)


def _read_checked(file: OpenFile, expected: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Read a whole file, and compare it with what it should be."""
    check_size(file, expected["size"])
    data = aligned_buffer(file.size)[: file.size]
    file.read_into(byte_view(data), 0)
    _compare(file, xxhash.xxh3_64_hexdigest(data.data), expected)
    return data


def _check(file: OpenFile, expected: dict[str, Any]) -> None:
    check_size(file, expected["size"])
    _compare(file, file_checksum(file), expected)


def _compare(file: OpenFile, found: str, expected: dict[str, Any]) -> None:
    if found != expected["checksum"]:
        file.distrust()
        raise CorruptFile(f"{file.path}: checksum {found} found, {expected['checksum']} expected")


class ArrayWriter:
    """A file while arrays are written to it, one after another.

    Parameters
    ----------
    file : Writer
    size : int
        Bytes that the file will have.
    """

    def __init__(self, file: Writer, size: int) -> None:
        self._file, self._size = file, size
        self._digest, self._offset = xxhash.xxh3_64(), 0

    def write(self, array: npt.NDArray[Any]) -> None:
        """Append an array's bytes; it is C-contiguous."""
        self._digest.update(byte_view(array))
        self._file.write(byte_view(array), self._offset)
        self._offset += array.nbytes

    @property
    def described(self) -> dict[str, Any]:
        """Size and checksum of the file, computed from what was to be written."""
        return {"size": self._size, "checksum": self._digest.hexdigest()}


@contextmanager
def publishing_arrays(path: AnyPath, size: int) -> Iterator[ArrayWriter]:
    """Publish a file of ``size`` bytes that the body writes, arrays without a header."""
    with stored(path).publish(verify=lambda file: _check(file, writer.described)) as file:
        writer = ArrayWriter(file, size)
        yield writer


def write_array(path: AnyPath, array: npt.NDArray[Any]) -> dict[str, Any]:
    """Publish an array as ``.npy``; return size and checksum of what was to be written."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    with publishing_arrays(path, header.tell() + array.nbytes) as out:
        out.write(np.frombuffer(header.getvalue(), np.uint8))
        out.write(array)
    return out.described


def read_array(
    path: AnyPath,
    expected: dict[str, Any],
    shape: tuple[int, ...] | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[Any]:
    """Read an array after checking its file.

    Parameters
    ----------
    path : StorePath or Path
    expected : dict
        Size and checksum, as described when it was written.
    shape, dtype
        What the array must have; any shape where none is given.

    Raises
    ------
    MissingFile, CorruptFile
    """
    with _open_sealed(path, expected) as file:
        data = _read_checked(file, expected)
        found_shape, found_dtype, start = _read_header(data, file.path)
        if found_dtype != dtype or (shape is not None and found_shape != shape):
            raise CorruptFile(
                f"{path}: {found_dtype} array of shape {found_shape} found, "
                f"{np.dtype(dtype)} of shape {shape} expected"
            )
        nbytes = math.prod(found_shape) * found_dtype.itemsize
        check_size(file, start + nbytes)
    return data[start:].view(found_dtype).reshape(found_shape)


def _read_header(
    data: npt.NDArray[np.uint8], path: str
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape and dtype of a ``.npy`` file of version 1, and the byte of its first value."""
    head = io.BytesIO(data[:_HEADER_BYTES].tobytes())
    try:
        version = np.lib.format.read_magic(head)
        if version != (1, 0):
            raise ValueError(f"version {version} found, (1, 0) expected")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(head)
        if fortran_order and len(shape) > 1:
            raise ValueError("values in Fortran's order found, in C's expected")
        if dtype.hasobject:
            raise ValueError("Python objects found, numbers expected")
    except (ValueError, EOFError) as error:
        raise CorruptFile(f"{path}: not an array file: {error}") from error
    return shape, dtype, head.tell()


def read_values(
    file: OpenFile, length: int, dtype: npt.DTypeLike, start: int, stop: int
) -> npt.NDArray[Any]:
    """Read elements [start, stop) of an array of ``length`` elements, which ends its file."""
    values = np.empty(stop - start, dtype)
    header = file.size - length * values.itemsize
    file.read_into(byte_view(values), header + start * values.itemsize)
    return values
