"""What a file of neighbours is whose name does not say it: by its first bytes and its size."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from teravec.bulk.formats.whole import reading
from teravec.errors import InvalidSource

__all__ = ["sniffed"]

_MAGIC = {b"PK\x03\x04": ".npz", b"\x93NUMPY": ".npy", b"PAR1": ".parquet"}
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ROWS = 1000  # whose counts are looked at


def sniffed(path: Path) -> str:
    """The extension that the file's content would have.

    Raises
    ------
    InvalidSource
        It is none of them, or could be two; says how to go on.
    """
    with reading(path) as (file, size):
        head = file.read(8)
        if head == _HDF5:
            raise InvalidSource(
                f'{path}: an HDF5 file found, which is not read; convert it: python -c "import '
                f"h5py, numpy; f = h5py.File('{path}'); numpy.savez('truth.npz', "
                "ids=f['neighbors'][:], distances=f['distances'][:])\""
            )
        for magic, extension in _MAGIC.items():
            if head.startswith(magic):
                return extension
        found = [".bin"] if _is_bin(head, size) else []
        file.seek(0)
        k = int.from_bytes(head[:4], "little", signed=True)
        if k >= 1 and size and size % (4 + 4 * k) == 0:
            rows = min(_ROWS, size // (4 + 4 * k))
            counts = np.fromfile(file, "<i4", rows * (k + 1)).reshape(-1, k + 1)[:, 0]
            found += [".ivecs"] if (counts == k).all() else []
    if len(found) == 1:
        return found[0]
    what = "what is both .bin and .ivecs" if found else f"extension {path.suffix!r}"
    raise InvalidSource(
        f"{path}: {what} found, neighbours as .npz .ibin .bin .ivecs .npy .parquet expected; "
        f"{size:,} bytes that begin with {head.hex(' ') or 'nothing'}: --truth-format says which "
        "it is"
    )


def _is_bin(head: bytes, size: int) -> bool:
    """Whether n and k, and ids with or without distances, make up the file."""
    if len(head) < 8:
        return False
    n, k = struct.unpack("<II", head)
    return n > 0 and k > 0 and size in (8 + 4 * n * k, 8 + 8 * n * k)
