"""NumPy's .npy: a two-dimensional array in C order.

References
----------
``numpy.lib.format``, versions 1.0 and 2.0 (3.0 differs only for named fields).
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from teravec.errors import InvalidSource
from teravec.sources.packed import PackedFile, check_size, read_head

__all__ = ["DTYPES", "open_npy"]

DTYPES = (np.dtype("<f4"), np.dtype("<f8"), np.dtype("<f2"), np.dtype("u1"), np.dtype("i1"))

# numpy refuses headers over 10,000 characters; ours hold one shape and one dtype.
_HEAD_BYTES = 16 << 10


def open_npy(path: Path, *, column: bool = False) -> PackedFile:
    """Open a .npy file of a type in ``DTYPES``; nothing is ever unpickled.

    Parameters
    ----------
    path : Path
    column : bool
        Read one value a row, of an array of shape (n,).
    """
    head, size = read_head(path, _HEAD_BYTES)
    stream = io.BytesIO(head)
    shape, fortran, dtype = _read_header(path, stream)
    if dtype not in DTYPES:
        names = ", ".join(known.name for known in DTYPES)
        raise InvalidSource(f"{path}: dtype {dtype.str} found, expected little-endian {names}")
    if len(shape) != (1 if column else 2) or min(shape) < 0:
        expected = "(n,)" if column else "(n, d)"
        raise InvalidSource(f"{path}: array of shape {shape} found, expected {expected}")
    if fortran and not column:
        raise InvalidSource(f"{path}: Fortran order found, expected C order (row-major)")
    n, d = (*shape, 1) if column else shape
    offset = stream.tell()
    check_size(path, size, offset, (n, d), dtype.itemsize)
    return PackedFile(path, (n, d), dtype, size, offset=offset)


def _read_header(path: Path, stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            return npy_format.read_array_header_1_0(stream)
        if version == (2, 0):
            return npy_format.read_array_header_2_0(stream)
    except Exception as error:  # the header is Python text, and every stage of parsing has its own
        why = " ".join(str(error).split())
        raise InvalidSource(f"{path}: no sound .npy header: {why}") from error
    found = ".".join(map(str, version))
    raise InvalidSource(f"{path}: .npy version {found} found, expected 1.0 or 2.0")
