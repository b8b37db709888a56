"""Reading pages of row files: a few rows anywhere, in one batch of reads, each page checked."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teravec.index.opened import OpenedIndex
from teravec.search.stats import SearchStats
from teravec.storage.range_reader import Range, RangeReader, aligned_buffer

__all__ = ["PageReader"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_SEGMENT_BYTES = 1 << 20  # adjacent pages are read together up to this


class _Segment(NamedTuple):
    """Adjacent pages of one file, read by one call to positions [at, stop) of the result."""

    file_no: int
    first: int
    at: int
    stop: int


class PageReader:
    """Reads pages of the row files of an index.

    Parameters
    ----------
    index : OpenedIndex
        Of codes in two stages; stays open as long as the reader is used.
    ranges : RangeReader
        Searches share it.
    """

    def __init__(self, index: OpenedIndex, ranges: RangeReader) -> None:
        self._index, self._ranges = index, ranges
        self.page_bytes = index.fine[0].header.page_bytes
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
        size, files = self.page_bytes, self._index.fine
        buffer = aligned_buffer(len(pages) * size)
        segments = self._segments(file_nos, pages)
        stats.reads += len(segments)
        stats.bytes_read += buffer.nbytes
        read_files = self._index.fine_read_files
        self._ranges.read(
            [
                Range(
                    read_files[segment.file_no],
                    files[segment.file_no].page_offset(segment.first),
                    (segment.stop - segment.at) * size,
                    segment.at * size,
                )
                for segment in segments
            ],
            buffer,
        )
        out = buffer.reshape(len(pages), size)
        for file_no, first, at, stop in segments:
            files[file_no].check_pages(first, out[at:stop])
        return out

    def _segments(self, file_nos: Int64, pages: Int64) -> list[_Segment]:
        if not len(pages):
            return []
        apart = (np.diff(file_nos) != 0) | (np.diff(pages) != 1)
        bounds = np.concatenate([[0], np.flatnonzero(apart) + 1, [len(pages)]]).tolist()
        return [
            _Segment(int(file_nos[at]), int(pages[at]), at, min(at + self._most, stop))
            for start, stop in pairwise(bounds)
            for at in range(start, stop, self._most)
        ]
