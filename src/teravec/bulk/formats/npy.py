"""``.npy``: ids alone; and the arrays of ``.npz``."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from teravec.bulk.formats.found import Found, Neighbors, flat_blocks
from teravec.bulk.formats.whole import publishing_result, reading
from teravec.errors import InvalidSource

__all__ = ["as_ids", "read_npy", "read_npy_array", "write_npy", "write_npy_header"]

Int64 = npt.NDArray[np.int64]


def write_npy(path: Path, found: Found) -> None:
    """Write the ids, int64 of shape (n, k)."""
    with publishing_result(path) as file:
        write_npy_header(file, "<i8", (found.n, found.k or 0))
        for _, ids in flat_blocks(found):
            file.write(np.ascontiguousarray(ids, "<i8"))


def write_npy_header(file: Any, dtype: str, shape: tuple[int, ...]) -> None:
    """Begin an array whose elements follow, in C order."""
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(file, fields)


def read_npy(path: Path) -> Neighbors:
    """Read ids."""
    with reading(path) as (file, size):
        ids = read_npy_array(file, size, str(path))
    return Neighbors(as_ids(ids, str(path), dimensions=2))


def read_npy_array(file: IO[bytes], size: int, name: str) -> npt.NDArray[Any]:
    """Read a ``.npy`` array of ``size`` bytes, its header included; nothing is unpickled."""
    start = file.tell()
    try:
        version = npy_format.read_magic(file)
        read_header = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
            (3, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
        header = file.tell() - start
    except Exception as error:  # the header is Python text, and every stage of parsing has its own
        why = " ".join(str(error).split())
        raise InvalidSource(f"{name}: no sound .npy header: {why}") from error
    if dtype.hasobject or dtype.names or dtype.kind not in "iuf":
        raise InvalidSource(f"{name}: dtype {dtype} found, numbers expected")
    expected = header
    values = dtype.itemsize
    for side in shape:
        values *= side  # Python's integers: a header cannot make them overflow
    expected += values
    if expected != size or min(shape, default=0) < 0:
        raise InvalidSource(
            f"{name}: {size} bytes found, {expected} expected for its header's shape {shape} "
            f"of {dtype}"
        )
    file.seek(start)
    try:
        array: npt.NDArray[Any] = npy_format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidSource(f"{name}: not a sound .npy array: {error}") from error
    return array


def as_ids(array: npt.NDArray[Any], name: str, dimensions: int) -> Int64:
    """Ids of an array that was read, as int64."""
    if array.ndim != dimensions or array.dtype.kind not in "iu":
        raise InvalidSource(
            f"{name}: {array.dtype} array of shape {array.shape} found, "
            "integer ids of shape (n, k) expected"
        )
    none = array == np.iinfo(array.dtype).max if array.dtype.kind == "u" else array == -1
    if array.dtype == np.uint64 and (large := array[~none & (array > np.uint64(2**63 - 1))]).size:
        raise InvalidSource(f"{name}: id {large.max()} found, less than 2^63 expected")
    if array.dtype.itemsize >= 4:  # unsigned, -1 wraps
        array = np.where(none, np.zeros_like(array), array)
        ids = np.ascontiguousarray(array, np.int64)
        ids[none] = -1
        return ids
    return np.ascontiguousarray(array, np.int64)
