"""Reading lists: near ranges joined, many reads in flight, every list verified."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.index.opened import OpenedIndex
from teravec.native import reads
from teravec.search.plan import Chunk
from teravec.search.stats import SearchStats
from teravec.storage.buffers import Buffers
from teravec.storage.files import byte_view
from teravec.storage.listfile import ID_BYTES, ListFile
from teravec.storage.store import Ranges, Reader

__all__ = ["ListReader", "Unchecked"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

_SEGMENT_BYTES = 1 << 20  # near lists are read together up to this
_PIECE_BYTES = 256 << 10  # of less, what a piece costs to pass on is more than it saves


class _Lists(NamedTuple):
    """Where a chunk's lists lie: number of the slice, byte of its file, and length, (n,) each."""

    slices: Int64
    offsets: Int64
    lengths: Int64

    def part(self, some: slice) -> _Lists:
        """Some of them."""
        return _Lists(self.slices[some], self.offsets[some], self.lengths[some])


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
    ranges : Reader
        Searches share it.
    stats : SearchStats
        Counts reads and bytes.
    """

    def __init__(self, index: OpenedIndex, ranges: Reader, stats: SearchStats) -> None:
        self._index, self._ranges, self.stats = index, ranges, stats
        self._running = xxhash.xxh3_64()

    def read(self, chunk: Chunk, part: str, buffers: Buffers, most: int) -> Iterator[Unchecked]:
        """Read a chunk's lists into a buffer.

        Parameters
        ----------
        chunk : Chunk
        part : {"codes", "ids"}
        buffers : Buffers
            Lends the buffer; to be given back when the chunk is no longer needed.
        most : int
            Pieces that the chunk is cut into, each of which is yielded when it is there, while the
            others are on their way; fewer where little is read.

        Yields
        ------
        Unchecked
            The chunk's lists, in their order.

        Raises
        ------
        CorruptFile
            The file ends too early.
        StorageError
        """
        lists = self._places(chunk, part)
        ranges, firsts, at = self._joined(lists)
        arrived = np.cumsum(ranges.lengths)
        size = int(arrived[-1])
        buffer = buffers.take(size)
        self.stats.lists_read += len(chunk.list_nos) if part == "codes" else 0
        self.stats.reads += len(ranges)
        self.stats.bytes_read += size
        pieces = arrived // max(_PIECE_BYTES, size // most + 1)
        stops = [*(np.flatnonzero(pieces[1:] != pieces[:-1]) + 1).tolist(), len(ranges)]
        start = 0
        for stop in self._ranges.filled(ranges, buffer, stops):
            piece = slice(start, int(firsts[stop]))
            yield Unchecked(chunk.part(piece), part, lists.part(piece), buffer, at[piece])
            start = piece.stop

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
        slices = np.searchsorted(self._index.bounds, list_nos, side="right") - 1
        offsets = np.empty(len(list_nos), np.int64)
        for number, mine in self._by_slice(slices):
            file = self._index.slices[number]
            rows = file.starts[list_nos[mine] - file.lists[0]] + chunk.row_start
            offsets[mine] = file.code_offset(rows) if part == "codes" else file.id_offset(rows)
        width = self._index.manifest.code_size if part == "codes" else ID_BYTES
        return _Lists(slices, offsets, chunk.counts * width)

    def _joined(self, lists: _Lists) -> tuple[Ranges, Int64, Int64]:
        """Ranges to read, (m,), the first list of each and their end, and lists' places."""
        columns, bounds, at = reads.join(
            self._index.gap_bytes, _SEGMENT_BYTES, self._index.store.alignment, *lists
        )
        slices = lists.slices[bounds[:-1]]
        return Ranges(self._index.read_files, slices, *columns), bounds, at

    def _check(self, chunk: Chunk, lists: _Lists, part: str, view: memoryview, at: Int64) -> None:
        expected = self._checksums(chunk.list_nos, lists.slices, part)
        bounds = zip(at.tolist(), (at + lists.lengths).tolist(), strict=True)
        digest = xxhash.xxh3_64_intdigest
        found = [digest(view[start:stop]) for start, stop in bounds]
        if found != expected.tolist():
            i = int(np.flatnonzero(np.array(found, np.uint64) != expected)[0])
            file = self._index.slices[int(lists.slices[i])]
            raise file.damaged(int(chunk.list_nos[i]), part, found[i])

    def _checksums(self, list_nos: Int64, slices: Int64, part: str) -> UInt64:
        """What the files' tables say, (n,)."""
        expected = np.empty(len(list_nos), np.uint64)
        for number, mine in self._by_slice(slices):
            file = self._index.slices[number]
            expected[mine] = file.checksums(part)[list_nos[mine] - file.lists[0]]
        return expected

    @staticmethod
    def _by_slice(slices: Int64) -> Iterator[tuple[int, slice]]:
        """Each slice that some lists are of, these ascending, and which lists those are."""
        first, last = int(slices[0]), int(slices[-1])
        if first == last:
            yield first, slice(len(slices))
            return
        bounds = np.searchsorted(slices, np.arange(first, last + 2)).tolist()
        for number, (start, stop) in enumerate(pairwise(bounds), first):
            if start < stop:
                yield number, slice(start, stop)

    def _check_part(self, file: ListFile, chunk: Chunk, part: str, data: memoryview) -> None:
        """Hash one part of a large list; parts come in order, so the last decides."""
        list_no = int(chunk.list_nos[0])
        if chunk.row_start == 0:
            self._running = xxhash.xxh3_64()
        self._running.update(data)
        position = list_no - file.lists[0]
        if chunk.row_start + int(chunk.counts[0]) < int(file.sizes[position]):
            return
        if (found := self._running.intdigest()) != int(file.checksums(part)[position]):
            raise file.damaged(list_no, part, found)
