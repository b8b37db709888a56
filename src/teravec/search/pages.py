"""Reading pages of row files: a few rows anywhere, several reads in flight, each page checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teravec.search.stats import SearchStats
from teravec.storage.files import byte_view, read_into
from teravec.storage.rowfile import RowFile

__all__ = ["PageReader"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_IN_FLIGHT = 8  # reads at a time, at which local disks reach their rate
_SEGMENT_BYTES = 1 << 20  # adjacent pages are read together up to this
_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)


class _Segment(NamedTuple):
    """Adjacent pages of one file, read by one call to positions [at, stop) of the result."""

    file: RowFile
    first: int
    at: int
    stop: int


class PageReader:
    """Reads pages of the row files of an index.

    Parameters
    ----------
    files : sequence of RowFile
        With pages of one size; stay open as long as the reader is used.
    pool : ThreadPoolExecutor
        Threads that reads wait on.
    """

    def __init__(self, files: Sequence[RowFile], pool: ThreadPoolExecutor) -> None:
        self._files, self._pool = files, pool
        self.page_bytes = files[0].header.page_bytes
        self._most = max(1, _SEGMENT_BYTES // self.page_bytes)

    def read(self, file_nos: Int64, pages: Int64, stats: SearchStats) -> Bytes:
        """Read pages, in one batch.

        Parameters
        ----------
        file_nos, pages : ndarray of shape (n,), int64
            Ascending by file, then page; distinct.
        stats : SearchStats
            Counts reads and bytes.

        Returns
        -------
        ndarray of shape (n, page_bytes), uint8

        Raises
        ------
        CorruptFile
            Names the file and the page whose bytes are wrong.
        StorageError
        """
        out = np.empty((len(pages), self.page_bytes), np.uint8)
        segments = self._segments(file_nos, pages)
        stats.reads += len(segments)
        stats.bytes_read += out.nbytes
        waiting = [segment for segment in segments if not _read_cached(segment, out)]
        # Each task reads its share one after another: as many reads are in flight as tasks.
        tasks = min(_IN_FLIGHT, len(waiting))
        futures = [self._pool.submit(_read_all, waiting[i::tasks], out) for i in range(tasks)]
        for future in futures:
            future.result()
        for file, first, at, stop in segments:
            file.check_pages(first, out[at:stop])
        return out

    def _segments(self, file_nos: Int64, pages: Int64) -> list[_Segment]:
        if not len(pages):
            return []
        apart = (np.diff(file_nos) != 0) | (np.diff(pages) != 1)
        bounds = np.concatenate([[0], np.flatnonzero(apart) + 1, [len(pages)]]).tolist()
        return [
            _Segment(self._files[file_nos[at]], int(pages[at]), at, min(at + self._most, stop))
            for start, stop in pairwise(bounds)
            for at in range(start, stop, self._most)
        ]


def _read_cached(segment: _Segment, out: Bytes) -> bool:
    """Read a segment if that takes no waiting for the disk: it costs no switch of threads."""
    file, first, at, stop = segment
    target = byte_view(out[at:stop])
    try:
        return os.preadv(file.fd, [target], file.page_offset(first), _NO_WAIT) == len(target)
    except OSError:  # not in the page cache, or a file system that cannot tell
        return False


def _read_all(segments: list[_Segment], out: Bytes) -> None:
    for file, first, at, stop in segments:
        read_into(file.fd, byte_view(out[at:stop]), file.page_offset(first), file.path)
