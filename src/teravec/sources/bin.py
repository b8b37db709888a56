"""The big-ann-benchmarks formats .fbin, .u8bin and .i8bin.

::

    uint32 n | uint32 d | n * d values, row-major, little-endian

References
----------
https://big-ann-benchmarks.com, "Datasets": the same layout for every element type.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from teravec.errors import InvalidSource
from teravec.sources.packed import PackedFile, check_size, read_head

__all__ = ["DTYPES", "open_bin"]

DTYPES: dict[str, np.dtype] = {
    ".fbin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
}

_HEADER = struct.Struct("<II")


def open_bin(path: Path) -> PackedFile:
    """Open a .fbin, .u8bin or .i8bin file; its header must agree with its size."""
    dtype = DTYPES[path.suffix.lower()]
    head, size = read_head(path, _HEADER.size)
    if len(head) < _HEADER.size:
        raise InvalidSource(f"{path}: {size} bytes found, expected a header of 8 (n and d)")
    n, d = _HEADER.unpack(head)
    check_size(path, size, _HEADER.size, (n, d), dtype.itemsize)
    return PackedFile(path, (n, d), dtype, size, offset=_HEADER.size)
