"""Where a search finds lists: in the cache, or read from their files through buffers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import ahead
from teravec.index.opened import OpenedIndex
from teravec.kernels.lists_in_memory import PLACE_BITS, ListsInMemory
from teravec.search.hidden_rows import HiddenRows
from teravec.search.list_cache import NOT_KEPT, ListCache
from teravec.search.plan import Chunk, plan_chunks
from teravec.search.reader import USUAL_READS, ListReader, ReadSizes
from teravec.storage.buffers import Buffers
from teravec.storage.listfile import ID_BYTES

__all__ = ["IndexLists"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_PIECES = 8
_MASK_SHARE = 32  # of the cache, for masks of hidden rows
_ROW_MASK = (1 << PLACE_BITS) - 1


class IndexLists:
    """Brings lists of an index into memory, verified.

    Parameters
    ----------
    index : OpenedIndex
    cache_bytes : int
        For codes and ids of lists that were read; none is kept with 0.
    chunk_bytes : int
        Of lists read together; up to ``CHUNKS`` chunks are in memory.
    reads : ReadSizes
    """

    CHUNKS = 4  # one read, one verified, one scanned, and one on its way between two

    def __init__(
        self, index: OpenedIndex, cache_bytes: int, chunk_bytes: int, reads: ReadSizes = USUAL_READS
    ) -> None:
        self._index, self._runs, self._sizes = index, index.runs, index.runs.sizes
        self._code_size = index.manifest.code_size
        self._nruns = len(index.runs.sizes)
        self._chunk_bytes, self._reads = chunk_bytes, reads
        # Masks take a bit of a row whose codes take hundreds.
        hidden_bytes = cache_bytes // _MASK_SHARE if any(map(len, index.deleted)) else 0
        self._hidden = HiddenRows(index, hidden_bytes)
        cache_bytes -= hidden_bytes
        # An index that was only built: runs are lists, and all rows are visible.
        self._plain = index.runs.one_layer and not index.has_id_bases and self._hidden.none
        # The codes of run i have key i, its ids nruns + i.
        self._cache = ListCache(2 * self._nruns, cache_bytes)
        self._buffers = Buffers(self.CHUNKS * chunk_bytes)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the cache that hold lists."""
        return self._cache.kept_bytes

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the cache, with lists in them or without."""
        return len(self._cache.buffer)

    def hold_back(self, size: int) -> int:
        """Leave so many bytes of the cache to others; return those that it does not have."""
        held_back = min(size, len(self._cache.buffer))
        self._cache.hold_back(held_back)
        return size - held_back

    def release(self) -> None:
        """Give the memory of cache and buffers back; lists are read as before."""
        self._cache.release()
        self._buffers.release()
        self._hidden.release()

    @staticmethod
    def all_bytes(index: OpenedIndex) -> int:
        """Memory that all codes and ids take."""
        return int(index.runs.sizes.sum()) * (index.manifest.code_size + ID_BYTES)

    def codes(self, list_nos: Int64, reader: ListReader) -> Iterator[ListsInMemory]:
        """Yield the codes of lists (n,), ascending and distinct: first those in the cache.

        What was yielded is good until the next is asked for.
        """
        buffer = self._cache.buffer  # before they are pinned: the cache may be released meanwhile
        runs = list_nos if self._plain else self._runs.of_lists(list_nos)
        at = self._cache.pin(runs)
        held = at >= 0
        if np.count_nonzero(held) == len(held):  # usual for a few lists that were wanted before
            kept, missing = runs, runs[:0]
        else:
            kept, at, missing = runs[held], at[held], runs[~held]
        try:
            reader.stats.lists_cached += len(kept)
            if len(kept):
                yield self._in_memory(reader, kept, self._sizes[kept], at, buffer)
            if len(missing):
                yield from self._read_codes(missing, reader)
        finally:
            self._cache.unpin(kept)

    def ids(self, places: Int64, reader: ListReader) -> Int64:
        """Ids of vectors named by place, (n,), in any order; -1 for -1.

        Whole lists of ids are read, as a checksum covers a list.
        """
        ids, missing = self._cache.ids(self._nruns, places)
        if missing:
            rows = np.flatnonzero(ids == NOT_KEPT)
            ids[rows] = self._read_ids(places[rows], reader)
        return ids if self._plain else self._index.number_ids(places, ids)

    def _read_ids(self, places: Int64, reader: ListReader) -> Int64:
        order = np.argsort(places)
        places = places[order]
        runs, rows = places >> PLACE_BITS, places & _ROW_MASK
        wanted = runs[np.concatenate([[True], runs[1:] != runs[:-1]])]
        ids = np.empty(len(places), np.int64)
        for chunk, buffer, offsets in self._read(wanted, "ids", reader):
            first, last = (int(run) << PLACE_BITS for run in chunk.runs[[0, -1]])
            ends = first + chunk.row_start, last + chunk.row_start + int(chunk.counts[-1])
            mine = slice(*np.searchsorted(places, ends).tolist())
            at = np.searchsorted(chunk.runs, runs[mine])
            ids[order[mine]] = _take_ids(
                buffer, offsets[at] + ID_BYTES * (rows[mine] - chunk.row_start)
            )
        return ids

    def _read_codes(self, runs: Int64, reader: ListReader) -> Iterator[ListsInMemory]:
        for chunk, buffer, offsets in self._read(runs, "codes", reader):
            columns = chunk.runs, chunk.counts, offsets, buffer
            yield self._in_memory(reader, *columns, chunk.row_start)

    def _in_memory(
        self,
        reader: ListReader,
        runs: Int64,
        counts: Int64,
        offsets: Int64,
        buffer: Bytes,
        row_start: int = 0,
    ) -> ListsInMemory:
        """Describe codes of runs (n,), ascending, to the scanners, which want ascending lists."""
        if self._plain:
            return ListsInMemory(runs, counts, offsets, buffer, row_start)
        list_nos = self._runs.lists_of(runs)
        order = np.argsort(list_nos, kind="stable")
        runs = runs[order]
        mask = self._hidden.mask(runs, partial(self._ids_of_runs, reader))
        columns = list_nos[order], counts[order], offsets[order]
        run_nos = None if self._runs.one_layer else runs
        return ListsInMemory(*columns, buffer, row_start, run_nos, mask)

    def _ids_of_runs(self, reader: ListReader, runs: Int64) -> Iterator[tuple[int, Int64]]:
        """Read the ids of runs (n,), ascending; parts of a large run in their order."""
        for chunk, buffer, offsets in self._read(runs, "ids", reader):
            columns = chunk.runs.tolist(), offsets.tolist(), chunk.counts.tolist()
            for run, start, count in zip(*columns, strict=True):
                yield run, buffer[start : start + ID_BYTES * count].copy().view("<i8")

    def _read(
        self, runs: Int64, part: str, reader: ListReader
    ) -> Iterator[tuple[Chunk, Bytes, Int64]]:
        """Read codes or ids of runs (n,), ascending, from their files, in chunks.

        With several chunks, one is read, the one before it verified and kept, and the one before
        that scanned, at the same time: the device never waits. A single chunk is verified and
        scanned piece by piece, as it arrives.

        Yields
        ------
        chunk : Chunk
        buffer : ndarray of uint8
            Good until the next chunk is asked for.
        offsets : ndarray of shape (n,), int64
            Byte of the buffer at which each of the chunk's runs begins.
        """
        width, first_key = (self._code_size, 0) if part == "codes" else (ID_BYTES, self._nruns)
        sizes = self._runs.sizes[runs]
        chunks = plan_chunks(runs, sizes, width, self._chunk_bytes)
        several = int(sizes.sum()) * width > self._chunk_bytes
        most = _PIECES if part == "codes" and not several else 1
        read = (
            found
            for chunk in chunks
            for found in reader.read(chunk, part, self._buffers, most, self._reads)
        )

        def verified() -> Generator[tuple[Chunk, Bytes, Int64], None, None]:
            with closing(ahead(read) if several else read) as unchecked:
                for found in unchecked:
                    chunk, (buffer, offsets) = found.chunk, reader.checked(found)
                    if chunk.whole:
                        keys, counts = first_key + chunk.runs, chunk.counts
                        self._cache.keep(keys, buffer, offsets, counts * width)
                    yield chunk, buffer, offsets

        lent: Bytes | None = None
        with closing(ahead(verified()) if several else verified()) as found:
            for chunk, buffer, offsets in found:
                if lent is not None and buffer is not lent:
                    self._buffers.give_back(lent)
                lent = buffer
                yield chunk, buffer, offsets
        if lent is not None:
            self._buffers.give_back(lent)

    def warm(self, list_nos: Int64, reader: ListReader) -> None:
        """Read lists into the cache, the most wanted first, until it is full.

        Parameters
        ----------
        list_nos : ndarray of shape (n,), int64
            Distinct; most wanted first.
        """
        ends = np.cumsum(self._runs.list_sizes[list_nos] * (self._code_size + ID_BYTES))
        fit = np.sort(list_nos[ends <= len(self._cache.buffer)])
        for _ in self.codes(fit, reader):
            pass
        runs = self._runs.of_lists(fit)
        self.ids(runs[self._runs.sizes[runs] > 0] << PLACE_BITS, reader)


def _take_ids(buffer: Bytes, offsets: Int64) -> Int64:
    """Ids at bytes of a buffer, which are at no word's boundary."""
    taken: Int64 = buffer[offsets[:, None] + np.arange(ID_BYTES)].view("<i8")[:, 0]
    return taken
