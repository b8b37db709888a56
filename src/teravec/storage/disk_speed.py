"""Three figures of a disk, measured in about a second, for a prediction of a build."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from teravec.errors import storage_errors
from teravec.storage.files import byte_view, read_into, sync_file, write_all

__all__ = ["DiskSpeed", "measure_disk"]

_FILE_BYTES = 192 << 20
_PIECE_BYTES = 8 << 20
_PAGE_BYTES = 4096
_RANDOM_READS = 200


@dataclass(frozen=True)
class DiskSpeed:
    """How fast a disk writes and reads, past the page cache.

    Parameters
    ----------
    write_bytes_per_s, read_bytes_per_s : float
        In the file's order, in pieces of 8 MiB; writing includes the sync.
    read_latency_s : float
        Mean seconds of a read of 4 KiB at random, one at a time.
    """

    write_bytes_per_s: float
    read_bytes_per_s: float
    read_latency_s: float


def measure_disk(path: Path) -> DiskSpeed:
    """Write a file of 192 MiB, read it in order and at random, and remove it.

    Parameters
    ----------
    path : Path
        The file; its directory exists.

    Raises
    ------
    StorageError
    """
    data = np.random.default_rng(4).integers(0, 256, _PIECE_BYTES, np.uint8)
    with storage_errors(path, "measure"):
        write_s = _time_writing(path, byte_view(data))
        read_s, latency_s = _time_reading(path, byte_view(data))
        path.unlink()
    return DiskSpeed(_FILE_BYTES / write_s, _FILE_BYTES / read_s, latency_s)


def _time_writing(path: Path, piece: memoryview) -> float:
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for offset in range(0, _FILE_BYTES, _PIECE_BYTES):
            write_all(file, piece, offset)
        sync_file(file.fileno())
    return time.perf_counter() - started


def _time_reading(path: Path, buffer: memoryview) -> tuple[float, float]:
    """Return the seconds of reading the whole file, and of one read at random."""
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        for offset in range(0, _FILE_BYTES, _PIECE_BYTES):
            read_into(fd, buffer, offset, path)
        read_s = time.perf_counter() - started
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        pages = _FILE_BYTES // _PAGE_BYTES
        chosen = np.random.default_rng(5).choice(pages, _RANDOM_READS, replace=False).tolist()
        started = time.perf_counter()
        for page in chosen:
            read_into(fd, buffer[:_PAGE_BYTES], page * _PAGE_BYTES, path)
    return read_s, (time.perf_counter() - started) / _RANDOM_READS
