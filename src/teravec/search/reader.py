"""Reading lists: several reads in flight, near ranges joined, every list verified."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.index.opened import OpenedIndex
from teravec.search.plan import Chunk
from teravec.search.stats import SearchStats
from teravec.storage.files import byte_view, read_into
from teravec.storage.listfile import ID_BYTES, ListFile

__all__ = ["ListReader", "read_pool"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

# Reads in flight: local disks reach their rate at a depth of 8 and more.
_IN_FLIGHT = 8
_SEGMENT_BYTES = 1 << 20  # adjacent lists are read together up to this
_INLINE_BYTES = 1 << 16  # one read this small is not worth handing to a thread


@dataclass(frozen=True)
class _Segment:
    """Adjacent lists of one file, read by one call: positions [first, stop) of the chunk."""

    file: ListFile
    offset: int
    first: int
    stop: int
    at: int
    length: int


def read_pool() -> ThreadPoolExecutor:
    """Threads that reads wait on, for as many as should be in flight."""
    return ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="teravec-read")


class ListReader:
    """Reads codes or ids of lists into memory, for one search.

    Parameters
    ----------
    index : OpenedIndex
        Stays open as long as the reader is used.
    pool : ThreadPoolExecutor
        From ``read_pool``; searches share it.
    stats : SearchStats
        Counts reads and bytes.
    """

    def __init__(self, index: OpenedIndex, pool: ThreadPoolExecutor, stats: SearchStats) -> None:
        self._slices, self._bounds = index.slices, index.bounds
        self._code_size = index.manifest.code_size
        self._pool, self._stats = pool, stats
        self._running = xxhash.xxh3_64()

    def read_codes(self, chunk: Chunk) -> tuple[Bytes, Int64]:
        """Codes of a chunk's lists, one after another.

        Returns
        -------
        buffer : ndarray of uint8
        offsets : ndarray of shape (n,), int64
            Byte of the buffer at which each list begins.

        Raises
        ------
        CorruptFile
            Names the file and the list whose bytes are wrong.
        StorageError
        """
        return self._read(chunk, "codes", self._code_size)

    def read_ids(self, chunk: Chunk) -> Int64:
        """Ids of a chunk's lists, one after another, int64."""
        buffer, _ = self._read(chunk, "ids", ID_BYTES)
        return buffer.view(np.int64)

    def _read(self, chunk: Chunk, part: str, width: int) -> tuple[Bytes, Int64]:
        lengths = chunk.counts * width
        stops = np.cumsum(lengths)
        buffer = np.empty(int(stops[-1]), np.uint8)
        segments = self._segments(chunk, part, stops - lengths, lengths)
        self._stats.reads += len(segments)
        self._stats.bytes_read += len(buffer)
        view = byte_view(buffer)

        def read(segment: _Segment) -> None:
            data = view[segment.at : segment.at + segment.length]
            read_into(segment.file.fd, data, segment.offset, segment.file.path)
            if chunk.whole:
                self._check(segment, chunk, lengths, part, data)

        if len(segments) == 1 and len(buffer) <= _INLINE_BYTES:
            read(segments[0])
        else:
            for _ in self._pool.map(read, segments):
                pass
        if not chunk.whole:
            self._check_part(segments[0].file, chunk, part, view)
        return buffer, stops - lengths

    def _segments(self, chunk: Chunk, part: str, at: Int64, lengths: Int64) -> list[_Segment]:
        """Join lists that are adjacent in their file, up to a bound."""
        list_nos = chunk.list_nos
        numbers = np.searchsorted(self._bounds, list_nos, side="right") - 1
        offsets = np.empty(len(list_nos), np.int64)
        for number in np.unique(numbers).tolist():
            file, mine = self._slices[number], numbers == number
            rows = file.starts[list_nos[mine] - file.lists[0]] + chunk.row_start
            offsets[mine] = file.code_offset(rows) if part == "codes" else file.id_offset(rows)
        apart = np.flatnonzero(
            (np.diff(numbers) != 0) | (offsets[1:] != offsets[:-1] + lengths[:-1])
        )
        runs = [0, *(apart + 1).tolist(), len(list_nos)]
        segments = []
        for first, stop in pairwise(runs):
            segments += self._cut(numbers, offsets, at, lengths, first, stop)
        return segments

    def _cut(
        self, numbers: Int64, offsets: Int64, at: Int64, lengths: Int64, first: int, stop: int
    ) -> list[_Segment]:
        """Cut a run of adjacent lists into segments of at most about a megabyte."""
        file = self._slices[int(numbers[first])]
        run = at[first:stop] - at[first]
        cuts = np.flatnonzero(np.diff(run // _SEGMENT_BYTES)) + 1
        bounds = [first, *(first + cuts).tolist(), stop]
        return [
            _Segment(
                file, int(offsets[a]), a, b, int(at[a]), int(at[b - 1] + lengths[b - 1] - at[a])
            )
            for a, b in pairwise(bounds)
        ]

    def _check(
        self, segment: _Segment, chunk: Chunk, lengths: Int64, part: str, data: memoryview
    ) -> None:
        file, position = segment.file, 0
        list_nos = chunk.list_nos[segment.first : segment.stop]
        table = file.code_checksums if part == "codes" else file.id_checksums
        expected = table[list_nos - file.lists[0]].tolist()
        sizes = lengths[segment.first : segment.stop].tolist()
        for i, (size, checksum) in enumerate(zip(sizes, expected, strict=True)):
            found = xxhash.xxh3_64_intdigest(data[position : position + size])
            if found != checksum:
                raise file.damaged(int(list_nos[i]), part, found)
            position += size

    def _check_part(self, file: ListFile, chunk: Chunk, part: str, data: memoryview) -> None:
        """Hash one part of a large list; parts come in order, so the last decides."""
        list_no = int(chunk.list_nos[0])
        if chunk.row_start == 0:
            self._running = xxhash.xxh3_64()
        self._running.update(data)
        position = list_no - file.lists[0]
        if chunk.row_start + int(chunk.counts[0]) == int(file.sizes[position]):
            table = file.code_checksums if part == "codes" else file.id_checksums
            if (found := self._running.intdigest()) != int(table[position]):
                raise file.damaged(list_no, part, found)
