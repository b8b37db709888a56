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

_SEGMENT_BYTES = 1 << 20  # near pages are read together up to this
_GAP_BYTES = 4096  # one read across a gap is quicker than two, even of a disk of such sectors


class _Segment(NamedTuple):
    """Near pages of one file, read by one call: [first, last], the wanted ones at [at, stop)."""

    file_no: int
    first: int
    last: int
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
        self._apart = 1 + _GAP_BYTES // self.page_bytes  # numbers of pages read together

    @property
    def most_bytes(self) -> int:
        """Memory that reading a page takes, with the gap before it."""
        return self.page_bytes * self._apart

    def read(self, file_nos: Int64, pages: Int64, stats: SearchStats) -> tuple[Bytes, Int64]:
        """Read pages, in one batch.

        Parameters
        ----------
        file_nos, pages : ndarray of shape (n,), int64
            Ascending by file, then page; distinct.
        stats : SearchStats
            Counts reads and bytes.

        Returns
        -------
        read : ndarray of shape (m, page_bytes), uint8
            The pages, and some between them that nobody checked.
        at : ndarray of shape (n,), int64
            Where each wanted page is in ``read``.

        Raises
        ------
        CorruptFile
            Names the file and the page whose bytes are wrong.
        StorageError
        """
        segments = self._segments(file_nos, pages)
        counts = np.array([segment.last - segment.first + 1 for segment in segments], np.int64)
        begins = np.cumsum(counts) - counts
        buffer = aligned_buffer(int(counts.sum()) * self.page_bytes)
        stats.reads += len(segments)
        stats.bytes_read += buffer.nbytes
        self._ranges.read(
            [
                Range(
                    self._index.fine_read_files[segment.file_no],
                    self._index.fine[segment.file_no].page_offset(segment.first),
                    count * self.page_bytes,
                    begin * self.page_bytes,
                )
                for segment, count, begin in zip(
                    segments, counts.tolist(), begins.tolist(), strict=True
                )
            ],
            buffer,
        )
        read = buffer.reshape(-1, self.page_bytes)
        shift = [begin - segment.first for segment, begin in zip(segments, begins, strict=True)]
        each = [segment.stop - segment.at for segment in segments]
        at = pages + np.repeat(np.array(shift, np.int64), each)
        for file_no in np.unique(file_nos).tolist():
            mine = file_nos == file_no
            self._index.fine[file_no].check_pages(pages[mine].tolist(), read[at[mine]])
        return read, at

    def _segments(self, file_nos: Int64, pages: Int64) -> list[_Segment]:
        if not len(pages):
            return []
        apart = (np.diff(file_nos) != 0) | (np.diff(pages) > self._apart)
        apart |= np.diff(np.cumsum(np.diff(pages, prepend=pages[0])) // self._most) != 0
        bounds = np.concatenate([[0], np.flatnonzero(apart) + 1, [len(pages)]]).tolist()
        return [
            _Segment(int(file_nos[at]), int(pages[at]), int(pages[stop - 1]), at, stop)
            for at, stop in pairwise(bounds)
        ]
