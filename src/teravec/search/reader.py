"""Reading lists: near ranges joined, many reads in flight, every list verified."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.index.opened import OpenedIndex
from teravec.search.plan import Chunk
from teravec.search.stats import SearchStats
from teravec.storage.files import byte_view
from teravec.storage.listfile import ID_BYTES, ListFile
from teravec.storage.range_reader import ALIGNMENT, Range, RangeReader, aligned_buffer

__all__ = ["ListReader", "Unchecked"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_SEGMENT_BYTES = 1 << 20  # near lists are read together up to this
# One read across a gap is as quick as two up to some 36 KB (16 us a read, 0.44 ns a byte).
_GAP_BYTES = 32 << 10


class _Lists(NamedTuple):
    """Where a chunk's lists lie: number of the slice, byte of its file, and length, (n,) each."""

    slices: Int64
    offsets: Int64
    lengths: Int64


class Unchecked(NamedTuple):
    """A chunk's lists as they were read; ``ListReader.checked`` says whether they are right.

    Attributes
    ----------
    chunk : Chunk
    part : {"codes", "ids"}
    lists : _Lists
    buffer : ndarray of uint8
    offsets : ndarray of shape (n,), int64
        Byte of the buffer at which each list begins.
    """

    chunk: Chunk
    part: str
    lists: _Lists
    buffer: Bytes
    offsets: Int64


class ListReader:
    """Reads codes or ids of lists into memory, for one search.

    Parameters
    ----------
    index : OpenedIndex
        Stays open as long as the reader is used.
    ranges : RangeReader
        Searches share it.
    stats : SearchStats
        Counts reads and bytes.
    """

    def __init__(self, index: OpenedIndex, ranges: RangeReader, stats: SearchStats) -> None:
        self._index, self._ranges, self.stats = index, ranges, stats
        self._running = xxhash.xxh3_64()

    def read(self, chunk: Chunk, part: str) -> Unchecked:
        """Read a chunk's lists.

        Parameters
        ----------
        chunk : Chunk
        part : {"codes", "ids"}

        Raises
        ------
        CorruptFile
            The file ends too early.
        StorageError
        """
        lists = self._places(chunk, part)
        ranges, size, at = self._joined(lists)
        buffer = aligned_buffer(size)
        self.stats.lists_read += len(chunk.list_nos) if part == "codes" else 0
        self.stats.reads += len(ranges)
        self.stats.bytes_read += size
        self._ranges.read(ranges, buffer)
        return Unchecked(chunk, part, lists, buffer, at)

    def checked(self, found: Unchecked) -> tuple[Bytes, Int64]:
        """Verify lists that were read; parts of a large list in their order.

        Returns
        -------
        buffer : ndarray of uint8
        offsets : ndarray of shape (n,), int64
            Byte of the buffer at which each list begins.

        Raises
        ------
        CorruptFile
            Names the file and the list whose bytes are wrong.
        """
        chunk, lists, at = found.chunk, found.lists, found.offsets
        view = byte_view(found.buffer)
        if chunk.whole:
            self._check(chunk, lists, found.part, view, at)
        else:
            file = self._index.slices[int(lists.slices[0])]
            self._check_part(file, chunk, found.part, view[at[0] : at[0] + lists.lengths[0]])
        return found.buffer, at

    def _places(self, chunk: Chunk, part: str) -> _Lists:
        list_nos = chunk.list_nos
        numbers = np.searchsorted(self._index.bounds, list_nos, side="right") - 1
        offsets = np.empty(len(list_nos), np.int64)
        for number in range(int(numbers[0]), int(numbers[-1]) + 1):
            file = self._index.slices[number]
            mine = slice(*np.searchsorted(numbers, [number, number + 1]).tolist())
            rows = file.starts[list_nos[mine] - file.lists[0]] + chunk.row_start
            offsets[mine] = file.code_offset(rows) if part == "codes" else file.id_offset(rows)
        width = self._index.manifest.code_size if part == "codes" else ID_BYTES
        return _Lists(numbers, offsets, chunk.counts * width)

    def _joined(self, lists: _Lists) -> tuple[list[Range], int, Int64]:
        """Ranges to read, bytes they take in a buffer, and each list's place there."""
        ends = lists.offsets + lists.lengths
        apart = lists.slices[1:] != lists.slices[:-1]
        apart |= lists.offsets[1:] - ends[:-1] > _GAP_BYTES
        total = np.cumsum(lists.lengths)
        apart |= total[1:] // _SEGMENT_BYTES != total[:-1] // _SEGMENT_BYTES
        firsts = np.concatenate([[0], np.flatnonzero(apart) + 1])
        lasts = np.append(firsts[1:], len(ends)) - 1
        low = lists.offsets[firsts] // ALIGNMENT * ALIGNMENT
        lengths = -(-(ends[lasts] - low) // ALIGNMENT) * ALIGNMENT
        begins = np.cumsum(lengths) - lengths
        shift = np.repeat(begins - low, lasts - firsts + 1)
        columns = np.stack([low, lengths, begins], axis=1).tolist()
        files = [self._index.read_files[number] for number in lists.slices[firsts].tolist()]
        ranges = [Range(file, *values) for file, values in zip(files, columns, strict=True)]
        return ranges, int(lengths.sum()), lists.offsets + shift

    def _check(self, chunk: Chunk, lists: _Lists, part: str, view: memoryview, at: Int64) -> None:
        expected = np.empty(len(at), np.uint64)
        for number in np.unique(lists.slices).tolist():
            file, mine = self._index.slices[number], lists.slices == number
            table = file.code_checksums if part == "codes" else file.id_checksums
            expected[mine] = table[chunk.list_nos[mine] - file.lists[0]]
        bounds = zip(at.tolist(), (at + lists.lengths).tolist(), strict=True)
        digest = xxhash.xxh3_64_intdigest
        found = np.array([digest(view[start:stop]) for start, stop in bounds], np.uint64)
        wrong = np.flatnonzero(found != expected)
        if len(wrong):
            file = self._index.slices[int(lists.slices[wrong[0]])]
            raise file.damaged(int(chunk.list_nos[wrong[0]]), part, int(found[wrong[0]]))

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
