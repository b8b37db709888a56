"""The big-ann-benchmarks formats .fbin, .u8bin and .i8bin, and .f16bin of cuVS.

::

    uint32 n | uint32 d | n * d values, row-major, little-endian

References
----------
https://big-ann-benchmarks.com, "Datasets": the same layout for every element type.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from teravec.errors import InvalidSource
from teravec.sources.packed import PackedFile, check_size, read_head
from teravec.sources.remote import SourcePath

__all__ = ["DTYPES", "open_bin"]

DTYPES: dict[str, np.dtype] = {
    "fbin": np.dtype("<f4"),
    "f16bin": np.dtype("<f2"),
    "u8bin": np.dtype("u1"),
    "i8bin": np.dtype("i1"),
}

_HEADER = struct.Struct("<II")
_CROPPED = re.compile(r"\.crop_nb_([0-9]+)$")


def open_bin(path: SourcePath, dtype: np.dtype) -> PackedFile:
    """Open a file of a header and values of ``dtype``; the header must agree with the size.

    A file that big-ann-benchmarks cropped may still have the header of the full file. If its name
    and size agree on a smaller number of rows, that number counts.
    """
    head, size = read_head(path, _HEADER.size)
    if len(head) < _HEADER.size:
        raise InvalidSource(f"{path}: {size} bytes found, expected a header of 8 (n and d)")
    n, d = _HEADER.unpack(head)
    cropped = _CROPPED.search(path.name)
    if cropped and size == _HEADER.size + int(cropped[1]) * d * dtype.itemsize:
        n = min(n, int(cropped[1]))
    check_size(path, size, _HEADER.size, (n, d), dtype.itemsize)
    return PackedFile(path, (n, d), dtype, size, offset=_HEADER.size)
