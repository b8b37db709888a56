"""``.ibin`` and ``.bin``: the neighbour files of big-ann-benchmarks."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from teravec.bulk.formats.found import Found, Neighbors, flat_blocks
from teravec.bulk.formats.whole import check_counts, publishing_result, read_array, reading
from teravec.errors import InvalidSource

__all__ = ["read_bin", "read_ibin", "write_bin", "write_ibin"]

_HEADER = struct.Struct("<II")
_NO_ID = 0xFFFFFFFF  # a missing neighbour among unsigned ids


def write_ibin(path: Path, found: Found) -> None:
    """Write n, k and int32 ids."""
    _write(path, found, "<i4", with_distances=False)


def write_bin(path: Path, found: Found) -> None:
    """Write n, k, uint32 ids and float32 distances."""
    _write(path, found, "<u4", with_distances=True)  # -1 wraps to 0xFFFFFFFF


def _write(path: Path, found: Found, dtype: str, *, with_distances: bool) -> None:
    k = found.k or 0
    check_counts(path, found.n, k)
    with publishing_result(path) as file:
        file.write(_HEADER.pack(found.n, k))
        for _, ids in flat_blocks(found):
            file.write(ids.astype(dtype))
        if with_distances:
            for distances, _ in flat_blocks(found):
                file.write(distances.astype("<f4"))


def read_ibin(path: Path) -> Neighbors:
    """Read a file with signed ids."""
    return _read(path, "<i4")


def read_bin(path: Path) -> Neighbors:
    """Read a file with unsigned ids."""
    return _read(path, "<u4")


def _read(path: Path, dtype: str) -> Neighbors:
    with reading(path) as (file, size):
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            raise InvalidSource(f"{path}: {size} bytes found, a header of 8 (n and k) expected")
        n, k = _HEADER.unpack(head)
        alone = _HEADER.size + 4 * n * k
        both = alone + 4 * n * k
        if size not in (alone, both):
            raise InvalidSource(
                f"{path}: {size} bytes found, {alone} (ids) or {both} (ids and distances) expected "
                f"for its header's n={n}, k={k}"
            )
        raw = read_array(file, path, dtype, (n, k))
        distances = read_array(file, path, "<f4", (n, k)) if size == both else None
    ids = raw.astype(np.int64)
    if raw.dtype.kind == "u":
        ids[raw == _NO_ID] = -1
    return Neighbors(ids, distances)
