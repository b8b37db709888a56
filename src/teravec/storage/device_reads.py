"""Timed reads of a file from its disk, by each available method."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from teravec.errors import StorageError, storage_errors
from teravec.storage.uring import PENDING, Uring

__all__ = ["Method", "TimedReads", "cached", "time_reads"]


class Method(StrEnum):
    """A method of reading; the simplest comes first."""

    PREAD = "pread"  # threads that read through the page cache
    DIRECT = "direct"  # threads, O_DIRECT
    URING = "io_uring"  # one thread, O_DIRECT


@dataclass(frozen=True)
class TimedReads:
    """Number of reads, and the seconds that they took together."""

    reads: int
    seconds: float


def time_reads(
    path: Path,
    method: Method,
    offsets: Sequence[int],
    block_bytes: int,
    depth: int,
    seconds: float,
    *,
    read_ahead: bool = False,
) -> TimedReads:
    """Drop a file from the page cache, and read blocks of it for some time.

    Parameters
    ----------
    path : Path
    method : Method
    offsets : sequence of int
        Bytes at which blocks begin, multiples of 4 KiB, in the order of reading.
    block_bytes : int
        A multiple of 4 KiB.
    depth : int
        Reads in flight.
    seconds : float
        No read starts later; it ends earlier if the offsets run out.
    read_ahead : bool
        Let the kernel read ahead; for PREAD in the file's order.

    Raises
    ------
    StorageError
        A read failed, or the kernel or the file system lacks the method.
    """
    with storage_errors(path, f"read by {method}"), _opened(path, method, read_ahead) as fd:
        if method is Method.URING:
            return _read_by_ring(fd, offsets, block_bytes, depth, seconds)
        return _read_by_threads(fd, offsets, block_bytes, depth, seconds)


def cached(path: Path) -> bool | None:
    """Whether the file's first bytes stay in the page cache after they were dropped.

    True for file systems in memory: their rates are not those of a disk. None if the file system
    cannot tell.
    """
    with storage_errors(path, "read"), _opened(path, Method.PREAD, False) as fd:
        try:
            return os.preadv(fd, [bytearray(1)], 0, getattr(os, "RWF_NOWAIT", 0)) == 1
        except BlockingIOError:
            return False
        except OSError:
            return None


@contextmanager
def _opened(path: Path, method: Method, read_ahead: bool) -> Iterator[int]:
    """Open the file, and drop it from the page cache."""
    direct = 0 if method is Method.PREAD else getattr(os, "O_DIRECT", 0)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | direct)
    try:
        with suppress(OSError):  # it is advice
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            advice = os.POSIX_FADV_SEQUENTIAL if read_ahead else os.POSIX_FADV_RANDOM
            os.posix_fadvise(fd, 0, 0, advice)
        yield fd
    finally:
        os.close(fd)


def _aligned(size: int) -> mmap.mmap:
    """Return memory that begins at a page, as O_DIRECT requires, with every page present."""
    populate = getattr(mmap, "MAP_POPULATE", 0)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | populate)


def _read_by_threads(
    fd: int, offsets: Sequence[int], block_bytes: int, depth: int, seconds: float
) -> TimedReads:
    wanted = iter(offsets)  # shared by the threads: taking the next one is atomic
    began = [0.0]

    def begin() -> None:
        began[0] = time.perf_counter()

    ready = threading.Barrier(depth, begin)

    def work(_: int) -> tuple[int, float]:
        reads = 0
        with _aligned(block_bytes) as buffer:
            ready.wait()
            until = began[0] + seconds
            for offset in wanted:
                if os.preadv(fd, [buffer], offset) == 0:
                    break
                reads += 1
                if time.perf_counter() > until:
                    break
            return reads, time.perf_counter()

    with ThreadPoolExecutor(depth, thread_name_prefix="teravec-device") as pool:
        ended = list(pool.map(work, range(depth)))
    return TimedReads(sum(reads for reads, _ in ended), max(end for _, end in ended) - began[0])


def _read_by_ring(
    fd: int, offsets: Sequence[int], block_bytes: int, depth: int, seconds: float
) -> TimedReads:
    n = len(offsets)
    places = np.arange(n) % depth  # two reads may be of one place: nobody looks at the bytes
    columns = np.full(n, fd), np.array(offsets), np.full(n, block_bytes), places * block_bytes
    results, ended = np.empty(n, np.int64), 0
    with _aligned(block_bytes * depth) as memory:
        ring, buffer = Uring(depth), np.frombuffer(memory, np.uint8)
        ring.begin(np.concatenate(columns), buffer, results)
        began = time.perf_counter()
        try:
            while ended < n and time.perf_counter() - began < seconds:
                ended = ring.wait(ended + 1)
        finally:
            ring.drain()
            del buffer
        reads = results[results != PENDING]
        if (reads <= 0).any():
            raise StorageError(f"io_uring: a read failed: {os.strerror(-int(reads.min()))}")
        return TimedReads(len(reads), time.perf_counter() - began)
