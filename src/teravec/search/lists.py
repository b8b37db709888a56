"""Where a search finds lists: streamed through buffers, or kept once they were read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import ahead
from teravec.index.opened import OpenedIndex
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.search.plan import Chunk, plan_chunks
from teravec.search.reader import ListReader
from teravec.storage.listfile import ID_BYTES

__all__ = ["KeptLists", "ListsOfIndex", "StreamedLists"]

Int64 = npt.NDArray[np.int64]


class ListsOfIndex(Protocol):
    """Brings lists of an index into memory, verified."""

    def codes(self, list_nos: Int64, reader: ListReader) -> Iterator[ListsInMemory]:
        """Codes of the lists (n,), ascending and distinct, in one or more chunks."""

    def ids(self, list_nos: Int64, rows: Int64, reader: ListReader) -> Int64:
        """Ids of n vectors, given by list number and row within the list, in any order."""


class StreamedLists:
    """Reads lists through buffers: the next chunk while one is scanned.

    Parameters
    ----------
    index : OpenedIndex
    chunk_bytes : int
        Of lists read together; up to three chunks are in memory.
    """

    def __init__(self, index: OpenedIndex, chunk_bytes: int) -> None:
        self._index, self._chunk_bytes = index, chunk_bytes

    def codes(self, list_nos: Int64, reader: ListReader) -> Iterator[ListsInMemory]:
        """Codes of the lists, in chunks."""
        sizes, code_size = self._index.sizes[list_nos], self._index.manifest.code_size

        def read(chunk: Chunk) -> ListsInMemory:
            buffer, offsets = reader.read_codes(chunk)
            return ListsInMemory(chunk.list_nos, chunk.counts, offsets, buffer, chunk.row_start)

        chunks = plan_chunks(list_nos, sizes, code_size, self._chunk_bytes)
        several = int(sizes.sum()) * code_size > self._chunk_bytes
        return ahead(map(read, chunks)) if several else map(read, chunks)

    def ids(self, list_nos: Int64, rows: Int64, reader: ListReader) -> Int64:
        """Ids of vectors; whole lists are read, as a checksum covers a list."""
        wanted = np.unique(list_nos)
        ids = np.empty(len(rows), np.int64)
        for chunk in plan_chunks(wanted, self._index.sizes[wanted], ID_BYTES, self._chunk_bytes):
            values = reader.read_ids(chunk)
            mine = np.flatnonzero(
                (list_nos >= chunk.list_nos[0]) & (list_nos <= chunk.list_nos[-1])
            )
            if not chunk.whole:
                inside = rows[mine] - chunk.row_start
                mine = mine[(inside >= 0) & (inside < chunk.counts[0])]
            starts = np.cumsum(chunk.counts) - chunk.counts - chunk.row_start
            at = np.searchsorted(chunk.list_nos, list_nos[mine])
            ids[mine] = values[starts[at] + rows[mine]]
        return ids


class KeptLists:
    """Keeps every list once it was read, in its place: for an index that memory can hold.

    The arrays are reserved whole, but take memory only where a list was read.

    Parameters
    ----------
    index : OpenedIndex
    """

    def __init__(self, index: OpenedIndex) -> None:
        self._sizes, self._code_size = index.sizes, index.manifest.code_size
        self._starts = np.cumsum(index.sizes) - index.sizes
        self._buffers = {
            "codes": np.empty(int(index.sizes.sum()) * self._code_size, np.uint8),
            "ids": np.empty(int(index.sizes.sum()) * ID_BYTES, np.uint8),
        }
        self._kept = {part: np.zeros(len(index.sizes), bool) for part in self._buffers}
        self._lock = threading.Lock()

    @staticmethod
    def bytes_needed(index: OpenedIndex) -> int:
        """Memory that all codes and ids take."""
        return int(index.sizes.sum()) * (index.manifest.code_size + ID_BYTES)

    def codes(self, list_nos: Int64, reader: ListReader) -> Iterator[ListsInMemory]:
        """Codes of the lists, in one chunk; those not there yet are read."""
        self._keep("codes", self._code_size, list_nos, reader)
        counts, offsets = self._sizes[list_nos], self._starts[list_nos] * self._code_size
        return iter([ListsInMemory(list_nos, counts, offsets, self._buffers["codes"])])

    def ids(self, list_nos: Int64, rows: Int64, reader: ListReader) -> Int64:
        """Ids of vectors."""
        self._keep("ids", ID_BYTES, list_nos, reader)
        named: Int64 = self._buffers["ids"].view(np.int64)[self._starts[list_nos] + rows]
        return named

    def _keep(self, part: str, width: int, list_nos: Int64, reader: ListReader) -> None:
        """Read the lists that are not there; a list counts as kept only once it is verified."""
        kept = self._kept[part]
        if kept[list_nos].all():
            return
        with self._lock:
            missing = np.unique(list_nos[~kept[list_nos]])
            if len(missing):
                chunk = Chunk(missing, 0, self._sizes[missing])
                reader.read_into(chunk, part, self._buffers[part], self._starts[missing] * width)
                kept[missing] = True
