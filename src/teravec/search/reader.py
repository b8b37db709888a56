"""Reading runs of lists: near ranges joined, many reads in flight, every run verified."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.index.opened import OpenedIndex
from teravec.native import reads
from teravec.search.plan import Chunk
from teravec.search.stats import SearchStats
from teravec.storage.buffers import Buffers
from teravec.storage.files import byte_view
from teravec.storage.listfile import ID_BYTES
from teravec.storage.store import Ranges, Reader

__all__ = ["USUAL_READS", "ListReader", "ReadSizes", "Unchecked"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


class ReadSizes(NamedTuple):
    """Sizes of reads.

    Attributes
    ----------
    segment_bytes : int
        Near lists are read together up to this.
    piece_bytes : int
        Least size of a piece that is passed on before the rest has arrived. Passing on a smaller
        one would cost more than it saves.
    """

    segment_bytes: int = 1 << 20
    piece_bytes: int = 256 << 10


USUAL_READS = ReadSizes()
"""What users get."""


class _Lists(NamedTuple):
    """Where a chunk's runs lie: number of the segment, byte of its file, and length, (n,) each."""

    segments: Int64
    offsets: Int64
    lengths: Int64

    def part(self, some: slice) -> _Lists:
        """Some of them."""
        return _Lists(self.segments[some], self.offsets[some], self.lengths[some])


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
        self._running: Any = None

    def beside(self) -> ListReader:
        """Return a reader for another thread of the same search, which counts for itself."""
        return ListReader(self._index, self._ranges, SearchStats())

    def read(
        self, chunk: Chunk, part: str, buffers: Buffers, most: int, sizes: ReadSizes
    ) -> Iterator[Unchecked]:
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
        sizes : ReadSizes

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
        ranges, firsts, at = self._joined(lists, sizes.segment_bytes)
        arrived = np.cumsum(ranges.lengths)
        size = int(arrived[-1])
        buffer = buffers.take(size)
        self.stats.lists_read += len(chunk.runs) if part == "codes" else 0
        self.stats.reads += len(ranges)
        self.stats.bytes_read += size
        pieces = arrived // max(sizes.piece_bytes, size // most + 1)
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
            data = view[at[0] : at[0] + lists.lengths[0]]
            self._check_part(int(lists.segments[0]), chunk, found.part, data)
        return found.buffer, at

    def _places(self, chunk: Chunk, part: str) -> _Lists:
        segments = self._index.runs.segments_of(chunk.runs)
        offsets = np.empty(len(segments), np.int64)
        for number, mine in self._by_segment(segments):
            file = self._index.segments[number]
            rows = file.starts[chunk.runs[mine] - self._index.runs.firsts[number]] + chunk.row_start
            offsets[mine] = file.code_offset(rows) if part == "codes" else file.id_offset(rows)
        width = self._index.manifest.code_size if part == "codes" else ID_BYTES
        return _Lists(segments, offsets, chunk.counts * width)

    def _joined(self, lists: _Lists, segment_bytes: int) -> tuple[Ranges, Int64, Int64]:
        """Ranges to read, (m,), the first list of each and their end, and lists' places."""
        columns, bounds, at = reads.join(
            self._index.gap_bytes, segment_bytes, self._index.store.alignment, *lists
        )
        segments = lists.segments[bounds[:-1]]
        return Ranges(self._index.read_files, segments, *columns), bounds, at

    def _check(self, chunk: Chunk, lists: _Lists, part: str, view: memoryview, at: Int64) -> None:
        expected = self._checksums(chunk.runs, lists.segments, part)
        bounds = zip(at.tolist(), (at + lists.lengths).tolist(), strict=True)
        digest = xxhash.xxh3_64_intdigest
        found = [digest(view[start:stop]) for start, stop in bounds]
        if found != expected.tolist():
            i = int(np.flatnonzero(np.array(found, np.uint64) != expected)[0])
            self._refuse(int(lists.segments[i]), int(chunk.runs[i]), part, found[i])

    def _refuse(self, segment: int, run: int, part: str, found: int) -> NoReturn:
        """Raise the error for a run whose checksum is wrong."""
        file, list_no = self._index.segments[segment], run % self._index.runs.nlist
        raise file.damaged(list_no, part, found)

    def _checksums(self, runs: Int64, segments: Int64, part: str) -> UInt64:
        """What the files' tables say, (n,)."""
        expected, firsts = np.empty(len(runs), np.uint64), self._index.runs.firsts
        for number, mine in self._by_segment(segments):
            checksums = self._index.segments[number].checksums(part)
            expected[mine] = checksums[runs[mine] - firsts[number]]
        return expected

    @staticmethod
    def _by_segment(segments: Int64) -> Iterator[tuple[int, slice]]:
        """Yield each segment of runs, given ascending segments, and which of the runs it holds."""
        first, last = int(segments[0]), int(segments[-1])
        if first == last:
            yield first, slice(len(segments))
            return
        bounds = np.searchsorted(segments, np.arange(first, last + 2)).tolist()
        for number, (start, stop) in enumerate(pairwise(bounds), first):
            if start < stop:
                yield number, slice(start, stop)

    def _check_part(self, segment: int, chunk: Chunk, part: str, data: memoryview) -> None:
        """Hash one part of a large run; parts come in order, so the last one decides."""
        run = int(chunk.runs[0])
        if chunk.row_start == 0:
            self._running = xxhash.xxh3_64()
        self._running.update(data)
        if chunk.row_start + int(chunk.counts[0]) < int(self._index.runs.sizes[run]):
            return
        checksums = self._index.segments[segment].checksums(part)
        expected = int(checksums[run - int(self._index.runs.firsts[segment])])
        if (found := self._running.intdigest()) != expected:
            self._refuse(segment, run, part, found)
