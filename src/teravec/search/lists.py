"""Where a search finds lists: in the cache, or read from their files through buffers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import ahead
from teravec.index.opened import OpenedIndex
from teravec.kernels.lists_in_memory import PLACE_BITS, ListsInMemory
from teravec.search.list_cache import NOT_KEPT, ListCache
from teravec.search.plan import plan_chunks
from teravec.search.reader import ListReader
from teravec.storage.buffers import Buffers
from teravec.storage.listfile import ID_BYTES

__all__ = ["IndexLists"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_PIECES = 8
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
    """

    CHUNKS = 4  # one read, one verified, one scanned, and one on its way between two

    def __init__(self, index: OpenedIndex, cache_bytes: int, chunk_bytes: int) -> None:
        self._sizes, self._code_size = index.sizes, index.manifest.code_size
        self._nlist = len(index.sizes)
        self._chunk_bytes = chunk_bytes
        # The codes of list i have key i, its ids nlist + i.
        self._cache = ListCache(2 * self._nlist, cache_bytes)
        self._buffers = Buffers(self.CHUNKS * chunk_bytes)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the cache that hold lists."""
        return self._cache.kept_bytes

    def hold_back(self, size: int) -> int:
        """Leave so many bytes of the cache to others; return those that it does not have."""
        held_back = min(size, len(self._cache.buffer))
        self._cache.hold_back(held_back)
        return size - held_back

    def release(self) -> None:
        """Give the memory of cache and buffers back; lists are read as before."""
        self._cache.release()
        self._buffers.release()

    @staticmethod
    def all_bytes(index: OpenedIndex) -> int:
        """Memory that all codes and ids take."""
        return int(index.sizes.sum()) * (index.manifest.code_size + ID_BYTES)

    def codes(self, list_nos: Int64, reader: ListReader) -> Iterator[ListsInMemory]:
        """Codes of the lists (n,), ascending and distinct: those in the cache, then the others.

        What was yielded is good until the next is asked for.
        """
        buffer = self._cache.buffer  # before they are pinned: the cache may be released meanwhile
        at = self._cache.pin(list_nos)
        held = at >= 0
        if np.count_nonzero(held) == len(held):  # usual for a few lists that were wanted before
            kept, missing = list_nos, list_nos[:0]
        else:
            kept, at, missing = list_nos[held], at[held], list_nos[~held]
        try:
            reader.stats.lists_cached += len(kept)
            if len(kept):
                yield ListsInMemory(kept, self._sizes[kept], at, buffer)
            if len(missing):
                yield from self._read(missing, "codes", reader)
        finally:
            self._cache.unpin(kept)

    def ids(self, places: Int64, reader: ListReader) -> Int64:
        """Ids of vectors named by place, (n,), in any order; -1 for -1.

        Whole lists of ids are read, as a checksum covers a list.
        """
        ids, missing = self._cache.ids(self._nlist, places)
        if missing:
            rows = np.flatnonzero(ids == NOT_KEPT)
            ids[rows] = self._read_ids(places[rows], reader)
        return ids

    def _read_ids(self, places: Int64, reader: ListReader) -> Int64:
        order = np.argsort(places)
        places = places[order]
        list_nos, rows = places >> PLACE_BITS, places & _ROW_MASK
        wanted = list_nos[np.concatenate([[True], list_nos[1:] != list_nos[:-1]])]
        ids = np.empty(len(places), np.int64)
        for lists in self._read(wanted, "ids", reader):
            first, last = (int(list_no) << PLACE_BITS for list_no in lists.list_nos[[0, -1]])
            ends = first + lists.row_start, last + lists.row_start + int(lists.sizes[-1])
            mine = slice(*np.searchsorted(places, ends).tolist())
            at = np.searchsorted(lists.list_nos, list_nos[mine])
            offsets = lists.offsets[at] + ID_BYTES * (rows[mine] - lists.row_start)
            ids[order[mine]] = _take_ids(lists.buffer, offsets)
        return ids

    def _read(self, list_nos: Int64, part: str, reader: ListReader) -> Iterator[ListsInMemory]:
        """Codes or ids of lists from their files, in chunks.

        Where there are several, one is read, the one before it verified and kept, and the one
        before that scanned, at the same time: the device waits for none of it. One alone is
        verified and scanned piece by piece, as it arrives.
        """
        width, first_key = (self._code_size, 0) if part == "codes" else (ID_BYTES, self._nlist)
        sizes = self._sizes[list_nos]
        chunks = plan_chunks(list_nos, sizes, width, self._chunk_bytes)
        several = int(sizes.sum()) * width > self._chunk_bytes
        most = _PIECES if part == "codes" and not several else 1
        read = (
            found for chunk in chunks for found in reader.read(chunk, part, self._buffers, most)
        )

        def verified() -> Generator[ListsInMemory, None, None]:
            with closing(ahead(read) if several else read) as unchecked:
                for found in unchecked:
                    chunk, (buffer, offsets) = found.chunk, reader.checked(found)
                    if chunk.whole:
                        keys, counts = first_key + chunk.list_nos, chunk.counts
                        self._cache.keep(keys, buffer, offsets, counts * width)
                    yield ListsInMemory(
                        chunk.list_nos, chunk.counts, offsets, buffer, chunk.row_start
                    )

        buffer: Bytes | None = None
        with closing(ahead(verified()) if several else verified()) as found:
            for lists in found:
                if buffer is not None and lists.buffer is not buffer:
                    self._buffers.give_back(buffer)
                buffer = lists.buffer
                yield lists
        if buffer is not None:
            self._buffers.give_back(buffer)

    def warm(self, list_nos: Int64, reader: ListReader) -> None:
        """Read lists into the cache, the most wanted first, until it is full.

        Parameters
        ----------
        list_nos : ndarray of shape (n,), int64
            Distinct; most wanted first.
        """
        ends = np.cumsum(self._sizes[list_nos] * (self._code_size + ID_BYTES))
        fit = np.sort(list_nos[ends <= len(self._cache.buffer)])
        for _ in self.codes(fit, reader):
            pass
        self.ids(fit[self._sizes[fit] > 0] << PLACE_BITS, reader)


def _take_ids(buffer: Bytes, offsets: Int64) -> Int64:
    """Ids at bytes of a buffer, which are at no word's boundary."""
    taken: Int64 = buffer[offsets[:, None] + np.arange(ID_BYTES)].view("<i8")[:, 0]
    return taken
