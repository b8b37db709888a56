"""Sealed ``.npy`` files: arrays that belong to a JSON file, which holds their checksums."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import CorruptFile, storage_errors
from teravec.storage.files import byte_view, check_size, file_checksum, publishing, write_all

__all__ = ["check_file", "describe_file", "read_array", "write_array"]


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


def write_array(path: Path, array: npt.NDArray[Any]) -> dict[str, Any]:
    """Publish an array as ``.npy`` and describe the file, as it was to be written."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    digest = xxhash.xxh3_64(header.getvalue())
    digest.update(byte_view(array))
    described = {"size": header.tell() + array.nbytes, "checksum": digest.hexdigest()}
    with publishing(path, verify=lambda temporary: check_file(temporary, described)) as file:
        write_all(file, header.getvalue(), 0)
        write_all(file, byte_view(array), header.tell())
    return described


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
