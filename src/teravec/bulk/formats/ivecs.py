"""``.ivecs``: the neighbour files of TEXMEX."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from teravec.bulk.formats.found import Found, Neighbors
from teravec.bulk.formats.whole import check_counts, publishing_result, read_array, reading
from teravec.errors import InvalidSource

__all__ = ["read_ivecs", "write_ivecs"]

_BLOCK = 1 << 20  # ids converted at a time


def write_ivecs(path: Path, found: Found) -> None:
    """Write a row of k and k ids for each query."""
    k = found.k or 0
    check_counts(path, found.n, k)
    rows = max(1, _BLOCK // max(1, k))
    with publishing_result(path) as file:
        for start in range(0, found.n, rows):
            count = min(rows, found.n - start)
            _, ids = found.read(start * k, (start + count) * k)
            row = np.empty((count, 1 + k), "<i4")
            row[:, 0], row[:, 1:] = k, ids.reshape(count, k)
            file.write(row)


def read_ivecs(path: Path) -> Neighbors:
    """Read rows of equal length."""
    with reading(path) as (file, size):
        head = file.read(4)
        k = int.from_bytes(head, "little", signed=True)
        if len(head) < 4 or k < 1 or size % (4 + 4 * k):
            raise InvalidSource(
                f"{path}: {size} bytes and first count {k if head else 'none'} found, "
                "a whole number of rows of one count and so many int32 ids expected"
            )
        file.seek(0)
        rows = read_array(file, path, "<i4", (size // (4 + 4 * k), k + 1))
    other = np.flatnonzero(rows[:, 0] != k)
    if other.size:
        raise InvalidSource(
            f"{path}: row {other[0]} has count {rows[other[0], 0]}, {k} expected as in row 0"
        )
    return Neighbors(rows[:, 1:].astype(np.int64))
