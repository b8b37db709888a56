"""Reading lists: several reads in flight, near ranges joined, every list verified."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

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
_INLINE_BYTES = 2 << 20  # what the page cache gives of this little is copied at once
_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)


class _Segment(NamedTuple):
    """Adjacent lists of one file, read by one call: positions [first, stop) of the chunk."""

    file: ListFile
    offset: int
    at: int
    length: int
    first: int
    stop: int


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
        return self._read_packed(chunk, "codes", self._code_size)

    def read_ids(self, chunk: Chunk) -> Int64:
        """Ids of a chunk's lists, one after another, int64."""
        buffer, _ = self._read_packed(chunk, "ids", ID_BYTES)
        return buffer.view(np.int64)

    def _read_packed(self, chunk: Chunk, part: str, width: int) -> tuple[Bytes, Int64]:
        lengths = chunk.counts * width
        at = np.cumsum(lengths) - lengths
        buffer = np.empty(int(at[-1] + lengths[-1]), np.uint8)
        self.read_into(chunk, part, buffer, at)
        return buffer, at

    def read_into(self, chunk: Chunk, part: str, buffer: Bytes, at: Int64) -> None:
        """Read and verify a chunk's lists into places of a buffer.

        Parameters
        ----------
        chunk : Chunk
        part : {"codes", "ids"}
        buffer : ndarray of uint8
        at : ndarray of shape (n,), int64
            Byte of the buffer at which each list is to begin; ascending.
        """
        lengths = chunk.counts * (self._code_size if part == "codes" else ID_BYTES)
        total = int(lengths.sum())
        segments = self._segments(chunk, part, at, lengths)
        self._stats.lists_read += len(chunk.list_nos) if part == "codes" else 0
        self._stats.reads += len(segments)
        self._stats.bytes_read += total
        view = byte_view(buffer)
        waiting = segments
        if total <= _INLINE_BYTES:
            waiting = [segment for segment in segments if not _read_cached(segment, view)]
        # Each task reads its share one after another: as many reads are in flight as tasks.
        tasks = min(_IN_FLIGHT, len(waiting))
        futures = [self._pool.submit(_read_all, waiting[i::tasks], view) for i in range(tasks)]
        for future in futures:
            future.result()
        if chunk.whole:
            self._check(segments, chunk, lengths, part, view)
        else:
            self._check_part(segments[0].file, chunk, part, view)

    def _segments(self, chunk: Chunk, part: str, at: Int64, lengths: Int64) -> list[_Segment]:
        """Join lists that are adjacent in their file, up to about a megabyte."""
        list_nos = chunk.list_nos
        numbers = np.searchsorted(self._bounds, list_nos, side="right") - 1
        offsets = np.empty(len(list_nos), np.int64)
        for number in range(int(numbers[0]), int(numbers[-1]) + 1):
            file = self._slices[number]
            mine = slice(*np.searchsorted(numbers, [number, number + 1]).tolist())
            rows = file.starts[list_nos[mine] - file.lists[0]] + chunk.row_start
            offsets[mine] = file.code_offset(rows) if part == "codes" else file.id_offset(rows)
        apart = (numbers[1:] != numbers[:-1]) | (offsets[1:] != offsets[:-1] + lengths[:-1])
        apart |= at[1:] // _SEGMENT_BYTES != at[:-1] // _SEGMENT_BYTES
        firsts = np.concatenate([[0], np.flatnonzero(apart) + 1])
        stops = np.append(firsts[1:], len(list_nos))
        ends = at[stops - 1] + lengths[stops - 1]
        columns = (offsets[firsts], at[firsts], ends - at[firsts], firsts, stops)
        files = [self._slices[number] for number in numbers[firsts].tolist()]
        return [
            _Segment(file, *values)
            for file, values in zip(files, np.stack(columns, axis=1).tolist(), strict=True)
        ]

    def _check(
        self, segments: list[_Segment], chunk: Chunk, lengths: Int64, part: str, view: memoryview
    ) -> None:
        for segment in segments:
            file, position = segment.file, segment.at
            list_nos = chunk.list_nos[segment.first : segment.stop]
            table = file.code_checksums if part == "codes" else file.id_checksums
            expected = table[list_nos - file.lists[0]].tolist()
            sizes = lengths[segment.first : segment.stop].tolist()
            for i, (size, checksum) in enumerate(zip(sizes, expected, strict=True)):
                found = xxhash.xxh3_64_intdigest(view[position : position + size])
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


def _read_cached(segment: _Segment, view: memoryview) -> bool:
    """Read a segment if that takes no waiting for the disk: it costs no switch of threads."""
    target = view[segment.at : segment.at + segment.length]
    try:
        return os.preadv(segment.file.fd, [target], segment.offset, _NO_WAIT) == segment.length
    except OSError:  # not in the page cache, or a file system that cannot tell
        return False


def _read_all(segments: list[_Segment], view: memoryview) -> None:
    for file, offset, at, length, _, _ in segments:
        read_into(file.fd, view[at : at + length], offset, file.path)
