"""Where a search finds lists: in the cache, or read from their files through buffers."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import ahead
from teravec.errors import CorruptFile, StorageError
from teravec.index.opened import OpenedIndex
from teravec.kernels.lists_in_memory import PLACE_BITS, ListsInMemory
from teravec.search.cache_keys import CacheKeys
from teravec.search.finding import RunIds
from teravec.search.hidden_rows import HiddenRows
from teravec.search.list_cache import NOT_KEPT, ListCache
from teravec.search.memory_shares import CHUNKS, MemoryShares
from teravec.search.passing import PassingRows
from teravec.search.plan import Chunk, plan_chunks
from teravec.search.reader import ListReader
from teravec.storage.buffers import Buffers
from teravec.storage.listfile import ID_BYTES

__all__ = ["IndexLists"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_PIECES = 8
_SMALL_BYTES = 64 << 20  # of small new segments that are read whole,
_SMALL_SHARE = 4  # and at most this share of the cache
_ROW_MASK = (1 << PLACE_BITS) - 1


class IndexLists:
    """Brings lists of an index into memory, verified.

    Parameters
    ----------
    index : OpenedIndex
    shares : MemoryShares
        Of them ``lists_bytes`` for codes and ids of lists that were read, ``masks_bytes`` for
        masks of hidden rows, and ``chunk_bytes`` for lists read together.
    before : IndexLists, optional
        Of another version of the index, which shares its cache.
    """

    def __init__(
        self, index: OpenedIndex, shares: MemoryShares, before: IndexLists | None = None
    ) -> None:
        self._index, self._runs, self._sizes = index, index.runs, index.runs.sizes
        self._code_size = index.manifest.code_size
        self._chunk_bytes, self._reads = shares.chunk_bytes, shares.reads
        nruns, segments = len(index.runs.sizes), index.open_segments
        if before is None:
            self.cache_keys = CacheKeys(segments, index.runs.firsts, nruns)
            self._cache = ListCache(2 * nruns, shares.lists_bytes)
            self._buffers = Buffers(CHUNKS * shares.chunk_bytes)
        else:
            self.cache_keys, self._cache = before.cache_keys, before._cache
            self._buffers = before._buffers
        self._segments = list(segments)
        self.segment_keys = self.cache_keys.hold(segments)
        self._cache.grow(self.cache_keys.nkeys)
        self._hidden: HiddenRows = HiddenRows(
            index, shares.masks_bytes, None if before is None else before._hidden
        )
        firsts = index.runs.firsts
        self._code_shifts = _starts(keys.codes for keys in self.segment_keys) - firsts
        self._id_shifts = _starts(keys.ids for keys in self.segment_keys) - firsts
        self._same_keys = not self._code_shifts.any() and len(set(self._id_shifts.tolist())) <= 1
        # An index that was only built: runs are lists, and all rows are visible.
        self._plain = (
            index.runs.one_layer
            and not index.has_id_bases
            and self._hidden.none
            and self._same_keys
        )
        self._id_shift = int(self._id_shifts[0]) if len(self._id_shifts) else 0
        self._most_small = 0 if self._plain else shares.lists_bytes

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

    def close(self) -> None:
        """Give up what is kept of segments that no other version has."""
        for keys in self.cache_keys.let_go(self._segments):
            self._cache.drop(keys)
            self.cache_keys.free(keys)
        self._segments = []

    def _code_keys(self, runs: Int64) -> Int64:
        """Return the keys of the codes of runs (n,)."""
        if self._same_keys:
            return runs
        keys: Int64 = runs + self._code_shifts[self._runs.segments_of(runs)]
        return keys

    def _id_keys(self, runs: Int64) -> Int64:
        """Return the keys of the ids of runs (n,)."""
        if self._same_keys:
            return runs + self._id_shift
        keys: Int64 = runs + self._id_shifts[self._runs.segments_of(runs)]
        return keys

    def codes(
        self, list_nos: Int64, reader: ListReader, passing: PassingRows | None = None
    ) -> Iterator[ListsInMemory]:
        """Yield the codes of lists (n,), ascending and distinct: first those in the cache.

        What was yielded is good until the next is asked for. Under a filter, runs without a
        passing row are left out, and other rows are masked.
        """
        buffer = self._cache.buffer  # before they are pinned: the cache may be released meanwhile
        runs, lists = (list_nos, list_nos) if self._plain else self._runs.by_list(list_nos)
        if passing is not None:
            some = passing.counts[runs] > 0
            runs, lists = runs[some], lists[some]
        keys = runs if self._plain else self._code_keys(runs)
        at = self._cache.pin(keys)
        held = at >= 0
        if np.count_nonzero(held) == len(held):  # usual for a few lists that were wanted before
            kept, missing = runs, runs[:0]
        else:
            missing = np.sort(runs[~held])
            kept, lists, keys, at = runs[held], lists[held], keys[held], at[held]
        try:
            reader.stats.lists_cached += len(kept)
            if len(kept):
                columns = kept, self._sizes[kept], at
                yield self._in_memory(reader, lists, *columns, buffer, passing=passing)
            if len(missing):
                yield from self._read_codes(missing, reader, passing)
        finally:
            self._cache.unpin(keys)

    def ids(self, places: Int64, reader: ListReader) -> Int64:
        """Ids of vectors named by place, (n,), in any order; -1 for -1.

        Whole lists of ids are read, as a checksum covers a list.
        """
        if self._same_keys:
            ids, missing = self._cache.ids(self._id_shift, places)
        else:
            ids, missing = self._cache.ids(0, self._id_places(places))
        if missing:
            rows = np.flatnonzero(ids == NOT_KEPT)
            ids[rows] = self._read_ids(places[rows], reader)
        return ids if self._plain else self._index.number_ids(places, ids)

    def _id_places(self, places: Int64) -> Int64:
        """Name the key of the ids instead of the run in places (n,); -1 stays."""
        found = places >= 0
        runs = places[found] >> PLACE_BITS
        named = places.copy()
        named[found] = self._id_keys(runs) << PLACE_BITS | places[found] & _ROW_MASK
        return named

    def hold_small(self, reader: ListReader) -> None:
        """Read small new segments whole: many additions would else cost as many reads a list."""
        runs = find_small_runs(self._index, self._most_small)
        if not len(runs):
            return
        for part, keys in (("codes", self._code_keys(runs)), ("ids", self._id_keys(runs))):
            missing = runs[~self._cache.holds(keys)]
            # A damaged list is an error of the searches that want it.
            with suppress(CorruptFile, StorageError):
                for _ in self._read(missing, part, reader):
                    pass
        if self._hidden.are_missing(runs):
            with suppress(CorruptFile, StorageError):
                self._hidden.prepare(runs, partial(self._ids_of_runs, reader))

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

    def _read_codes(
        self, runs: Int64, reader: ListReader, passing: PassingRows | None
    ) -> Iterator[ListsInMemory]:
        with self._masks_beside(runs, reader) as made:
            for chunk, buffer, offsets in self._read(runs, "codes", reader):
                runs, counts, list_nos = chunk.runs, chunk.counts, chunk.runs
                if not self._plain:
                    list_nos = self._runs.lists_of(runs)
                    order = np.argsort(list_nos, kind="stable")  # scanners want ascending lists
                    list_nos, runs = list_nos[order], runs[order]
                    counts, offsets = counts[order], offsets[order]
                if made is not None:
                    made.result()
                columns = list_nos, runs, counts, offsets
                yield self._in_memory(reader, *columns, buffer, chunk.row_start, passing)

    @contextmanager
    def _masks_beside(self, runs: Int64, reader: ListReader) -> Iterator[Future[None] | None]:
        """Make the masks of a few runs (n,), ascending, while the body reads their codes.

        Their ids are then kept, where a search looks for those of its results.
        """
        few = ID_BYTES * int(self._sizes[runs].sum()) <= self._chunk_bytes
        if not few or not self._hidden.are_missing(runs):
            yield None
            return
        beside = reader.beside()
        with ThreadPoolExecutor(1, thread_name_prefix="teravec-masks") as pool:
            yield pool.submit(self._hidden.prepare, runs, partial(self._ids_of_runs, beside))
        reader.stats.add(beside.stats)

    def _in_memory(
        self,
        reader: ListReader,
        list_nos: Int64,
        runs: Int64,
        counts: Int64,
        offsets: Int64,
        buffer: Bytes,
        row_start: int = 0,
        passing: PassingRows | None = None,
    ) -> ListsInMemory:
        """Describe codes of runs (n,) to the scanners; their lists ascend."""
        mask = None
        if not self._hidden.none:
            mask = self._hidden.mask(runs, partial(self._ids_of_runs, reader))
        if passing is not None:
            mask = passing.mask(runs, mask)
        run_nos = None if self._runs.one_layer else runs
        return ListsInMemory(list_nos, counts, offsets, buffer, row_start, run_nos, mask)

    def ids_of(self, list_nos: Int64, reader: ListReader) -> Iterator[RunIds]:
        """Yield the ids of lists (n,), ascending and distinct: first those in the cache."""
        runs = self._runs.of_lists(list_nos)
        yield from self._ids_of_runs(reader, runs[self._sizes[runs] > 0])

    def _ids_of_runs(self, reader: ListReader, runs: Int64) -> Iterator[RunIds]:
        """Yield the ids of runs (n,), ascending; those of a large run in parts."""
        held: list[tuple[int, Bytes]] = []
        for run, key in zip(runs.tolist(), self._id_keys(runs).tolist(), strict=True):
            data = self._cache.copy(key)
            if data is not None:
                held.append((run, data))
        if held:
            known = np.array([run for run, _ in held], np.int64)
            ids = np.concatenate([data for _, data in held]).view("<i8")
            yield RunIds(known, self._sizes[known], 0, ids)
            runs = np.setdiff1d(runs, known, assume_unique=True)
        for chunk, buffer, offsets in self._read(runs, "ids", reader) if len(runs) else ():
            ends = offsets + ID_BYTES * chunk.counts
            parts = map(buffer.__getitem__, map(slice, offsets.tolist(), ends.tolist()))
            ids = np.concatenate(list(parts)).view("<i8")
            yield RunIds(chunk.runs, chunk.counts, chunk.row_start, ids)

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
        width = self._code_size if part == "codes" else ID_BYTES
        keys_of = self._code_keys if part == "codes" else self._id_keys
        counts = self._runs.sizes[runs]
        chunks = plan_chunks(runs, counts, width, self._chunk_bytes)
        several = int(counts.sum()) * width > self._chunk_bytes
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
                        sizes = chunk.counts * width
                        self._cache.keep(keys_of(chunk.runs), buffer, offsets, sizes)
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


def find_small_runs(index: OpenedIndex, cache_bytes: int) -> Int64:
    """Find the runs of small new segments, that a search should find in memory, ascending.

    Those of the newest layers, as long as all of them together take a small share of the cache.
    """
    left = min(_SMALL_BYTES, cache_bytes // _SMALL_SHARE)
    row_bytes = index.manifest.code_size + ID_BYTES
    first = len(index.runs.sizes)
    for layer in reversed(range(1, len(index.runs.sizes) // max(1, index.runs.nlist))):
        sizes = index.runs.sizes[layer * index.runs.nlist : (layer + 1) * index.runs.nlist]
        left -= int(sizes.sum()) * row_bytes
        if left < 0:
            break
        first = layer * index.runs.nlist
    return first + np.flatnonzero(index.runs.sizes[first:])


def _starts(ranges: Iterable[range]) -> Int64:
    return np.array([each.start for each in ranges], np.int64)


def _take_ids(buffer: Bytes, offsets: Int64) -> Int64:
    """Ids at bytes of a buffer, which are at no word's boundary."""
    taken: Int64 = buffer[offsets[:, None] + np.arange(ID_BYTES)].view("<i8")[:, 0]
    return taken
