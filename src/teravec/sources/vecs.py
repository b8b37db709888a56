"""The TEXMEX formats .fvecs, .bvecs and .ivecs.

::

    row: int32 d | d values (float32, uint8 or int32), little-endian

References
----------
http://corpus-texmex.irisa.fr, "File formats".
"""

from __future__ import annotations

import numpy as np

from teravec.errors import InvalidSource
from teravec.sources.packed import PackedFile, read_head
from teravec.sources.remote import SourcePath
from teravec.sources.vectorfile import check_dimension

__all__ = ["DTYPES", "VecsFile", "open_vecs"]

DTYPES: dict[str, np.dtype] = {
    "fvecs": np.dtype("<f4"),
    "bvecs": np.dtype("u1"),
    "ivecs": np.dtype("<i4"),
}

_PREFIX = np.dtype("<i4")


class VecsFile(PackedFile):
    """A file whose rows each begin with their dimension; every read checks it."""

    def _decode(self, rows: np.ndarray, start: int) -> np.ndarray:
        found = rows[:, : _PREFIX.itemsize].copy().view(_PREFIX)[:, 0]
        wrong = np.flatnonzero(found != self.d)
        if wrong.size:
            row = int(wrong[0])
            raise InvalidSource(
                f"{self.path}: row {start + row} says dimension {found[row]}, "
                f"expected {self.d} as in row 0"
            )
        return rows[:, _PREFIX.itemsize :].view(self._stored)


def open_vecs(path: SourcePath, dtype: np.dtype) -> VecsFile:
    """Open a file of rows of ``dtype``; its size must be a whole number of rows."""
    head, size = read_head(path, _PREFIX.itemsize)
    n = d = 0
    if size > 0:
        if len(head) < _PREFIX.itemsize:
            raise InvalidSource(f"{path}: {size} bytes found, expected a first row of 5 or more")
        d = int(np.frombuffer(head, _PREFIX)[0])
        check_dimension(path, d)
        row_bytes = _PREFIX.itemsize + d * dtype.itemsize
        n, rest = divmod(size, row_bytes)
        if rest:
            raise InvalidSource(
                f"{path}: {size} bytes found, expected a multiple of {row_bytes}, "
                f"the size of a row of d={d} (row 0 says so)"
            )
    return VecsFile(path, (n, d), dtype, size, offset=0, prefix_bytes=_PREFIX.itemsize)
