"""The second stage: candidates that sketches left, compared again by their finer codes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import on_threads
from teravec.index.opened import OpenedIndex
from teravec.kernels.blocks import over_blocks
from teravec.kernels.fine_codes import FineCodes
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.sketch import Candidates, SketchScanner
from teravec.search.batch import Batch, SearchResources
from teravec.search.cache_keys import SegmentKeys
from teravec.search.fine_cache import FineCache
from teravec.search.memory_shares import MemoryShares
from teravec.search.ordering import by_query
from teravec.search.pages import PageReader, PageRun
from teravec.search.passing import PassingRows
from teravec.search.stages import nearest_in_two_stages
from teravec.search.stats import SearchStats
from teravec.storage.store import Reader

__all__ = ["Refiner", "TwoStageBatch", "TwoStages"]

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_ROW_MASK = (1 << PLACE_BITS) - 1
_MORE_PAGES = 4  # a quarter more than there are, for those that later versions add
_BLOCK = 1 << 14  # pairs compared by one call


class Refiner:
    """Compares queries with the finer codes of vectors named by place.

    Parameters
    ----------
    index : OpenedIndex
        Of codes in two stages.
    ranges : Reader
        Reads files.
    run_bytes : int
        Memory of pages read together; up to ``threads + 1`` runs of them are in memory.
    cache_bytes : int
        For pages that were read, where all fit, else for rows; none is kept with 0.
    threads : int
    keys : sequence of SegmentKeys
        Of the index's segments.
    before : Refiner, optional
        Of another version of the index, which shares its cache.
    """

    _codes: FineCodes
    _whole_pages: bool
    _cache: FineCache

    def __init__(
        self,
        index: OpenedIndex,
        ranges: Reader,
        run_bytes: int,
        cache_bytes: int,
        threads: int,
        keys: Sequence[SegmentKeys],
        before: Refiner | None = None,
    ) -> None:
        self._threads, self._run_bytes = threads, run_bytes
        self._codes = index.model.fine_codes() if before is None else before._codes
        first_pages = np.array([each.first_page for each in keys], np.int64)
        self._pages = PageReader(index, ranges, first_pages, run_bytes)
        header = index.fine[0].header
        self._page_rows, self._row_size = header.page_rows, header.row_size
        # Rows are numbered through all pages, as if each were full.
        self._index, self._runs = index, index.runs
        self._first_rows = np.zeros(len(index.runs.sizes), np.int64)
        firsts = zip(index.runs.firsts.tolist(), first_pages.tolist(), strict=True)
        for file, (run, page) in zip(index.segments, firsts, strict=True):
            starts = file.starts[:-1] + page * self._page_rows
            self._first_rows[run : run + len(starts)] = starts
        if before is not None:
            self._whole_pages, self._cache = before._whole_pages, before._cache
            return
        # Of a page, one row is wanted now: pages are kept only where that costs no other's place.
        npages = sum(file.header.npages for file in index.fine)
        npages += npages // _MORE_PAGES
        self._whole_pages = npages * header.page_bytes <= cache_bytes
        units = (
            (npages, header.page_bytes)
            if self._whole_pages
            else (npages * self._page_rows, self._row_size)
        )
        self._cache = FineCache(*units, cache_bytes)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the cache that hold finer codes."""
        return self._cache.kept_bytes

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the cache, with finer codes in them or without."""
        return len(self._cache.buffer)

    def hold_back(self, size: int) -> None:
        """Leave so many bytes of the cache to others, as far as it has them."""
        self._cache.hold_back(min(size, len(self._cache.buffer)))

    def release(self) -> None:
        """Give the memory of cache and buffers back; finer codes are read as before."""
        self._cache.release()
        self._pages.release()

    def distances(
        self, queries: Float32, owners: Int64, places: Int64, stats: SearchStats
    ) -> tuple[Float32, Int64]:
        """Distances of queries to finer codes, and the vectors' ids.

        What the cache has is compared there. Pages of the rest are read in file order, each once.

        Parameters
        ----------
        queries : ndarray of shape (nq, d_index), float32
        owners, places : ndarray of shape (n,), int64
            Pairs to compare: row of ``queries``, and ``run << 32 | row`` of the vector.
        stats : SearchStats

        Returns
        -------
        distances : ndarray of shape (n,), float32, in the index's metric
        ids : ndarray of shape (n,), int64

        Raises
        ------
        CorruptFile
            Names the file and the page whose bytes are wrong.
        """
        pairs = _Pairs.of(queries, owners, self._in_lists(places))
        missed: list[tuple[Int64, Int64]] = []

        def compare(start: int, stop: int) -> None:
            rows = self._rows_of(places[start:stop])
            with self._cache.steady:
                begins = self._kept(rows)
                self._compare(pairs.part(slice(start, stop)), self._cache.buffer, begins)
            at = (begins < 0).nonzero()[0]
            if len(at):
                missed.append((at + start, rows[at]))

        over_blocks(compare, len(places), rows=_BLOCK, threads=self._threads, even=True)
        if missed:
            at, rows = (np.concatenate(part) for part in zip(*missed, strict=True))
            self._read(pairs, at, rows, stats)
        stats.codes_refined += len(places)
        return pairs.distances, self._index.number_ids(places, pairs.ids)

    def _in_lists(self, places: Int64) -> Int64:
        """Name the list instead of the run in places: a finer code is relative to its centroid."""
        if self._runs.one_layer:
            return places
        return self._runs.lists_of(places >> PLACE_BITS) << PLACE_BITS | places & _ROW_MASK

    def _rows_of(self, places: Int64) -> Int64:
        rows: Int64 = self._first_rows[places >> PLACE_BITS] + (places & _ROW_MASK)
        return rows

    def _kept(self, rows: Int64) -> Int64:
        """Bytes of the cache at which rows begin, -1 where one is not there."""
        if not self._whole_pages:
            return self._cache.find(rows)
        pages, slots = np.divmod(rows, self._page_rows)
        begins = self._cache.find(pages)
        return np.where(begins < 0, -1, begins + slots * self._row_size)

    def _compare(self, pairs: _Pairs, rows: Bytes, begins: Int64) -> None:
        self._codes.compare(
            pairs.queries, pairs.owners, pairs.places, rows, begins, pairs.distances, pairs.ids
        )

    def _read(self, pairs: _Pairs, at: Int64, rows: Int64, stats: SearchStats) -> None:
        """Compare the pairs at some positions (n,), of these rows (n,), by pages of the files."""
        order = np.argsort(rows)
        at, rows = at[order], rows[order]
        pages = rows // self._page_rows
        wanted = pages[np.diff(pages, prepend=-1) != 0]
        costs: list[SearchStats] = []

        def refine(run: PageRun) -> None:
            costs.append(SearchStats())
            read, begins = self._pages.read(run, costs[-1])
            mine = slice(*np.searchsorted(pages, [run.pages[0], run.pages[-1] + 1]).tolist())
            of_page = np.searchsorted(run.pages, pages[mine])
            slots = rows[mine] - pages[mine] * self._page_rows
            row_begins = begins[of_page] + slots * self._row_size
            some = pairs.at(at[mine])
            self._compare(some, read, row_begins)
            pairs.put(at[mine], some)
            if self._whole_pages:
                self._cache.keep(run.pages, read, begins)
            else:
                self._cache.keep(rows[mine], read, row_begins)
            self._pages.give_back(read)

        runs = list(self._pages.runs(wanted, self._run_bytes))
        on_threads(refine, runs, threads=self._threads + 1)  # one waits for the disk
        for cost in costs:
            stats.add(cost)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a query and a vector, and what is found of each: arrays of shape (n,)."""

    queries: Float32
    owners: Int64
    places: Int64
    distances: Float32
    ids: Int64

    @classmethod
    def of(cls, queries: Float32, owners: Int64, places: Int64) -> _Pairs:
        return cls(
            np.ascontiguousarray(queries),
            np.ascontiguousarray(owners),
            np.ascontiguousarray(places),
            np.empty(len(places), np.float32),
            np.empty(len(places), np.int64),
        )

    def part(self, which: slice) -> _Pairs:
        """Views of some in a row."""
        return _Pairs(
            self.queries,
            self.owners[which],
            self.places[which],
            self.distances[which],
            self.ids[which],
        )

    def at(self, positions: Int64) -> _Pairs:
        """Some of them, of which nothing is found yet."""
        return _Pairs.of(self.queries, self.owners[positions], self.places[positions])

    def put(self, positions: Int64, some: _Pairs) -> None:
        """Take over what was found of some."""
        self.distances[positions], self.ids[positions] = some.distances, some.ids


@dataclass(frozen=True)
class TwoStages:
    """What searches of codes in two stages share, besides ``SearchResources``."""

    scanner: SketchScanner
    refiner: Refiner

    @classmethod
    def of(
        cls,
        index: OpenedIndex,
        ranges: Reader,
        shares: MemoryShares,
        threads: int,
        keys: Sequence[SegmentKeys],
        before: TwoStages | None = None,
    ) -> TwoStages:
        """The two stages of an index; with ``before``, those of another version of it."""
        model = index.model
        if before is None:
            scanner = SketchScanner(model.centroids, model.codec.sketch_bits, model.metric)
        else:
            scanner = before.scanner
        run_bytes = shares.refine_bytes // (threads + 1)
        refiner = Refiner(
            index,
            ranges,
            run_bytes,
            shares.pages_bytes,
            threads,
            keys,
            None if before is None else before.refiner,
        )
        return cls(scanner, refiner)


class TwoStageBatch(Batch):
    """Queries and the lists they want, of codes in two stages.

    Parameters
    ----------
    resources, queries, list_nos, distances, stats, passing
        As for ``Batch``.
    stages : TwoStages
    candidates : int
        Most vectors a query whose finer codes ``top_k`` reads; fewer where bounds spare some.
        With ntotal and more, the finer code of every vector scanned is read.
    """

    def __init__(
        self,
        resources: SearchResources,
        queries: Float32,
        list_nos: Int64,
        distances: Float32,
        stats: SearchStats,
        passing: PassingRows | None = None,
        *,
        stages: TwoStages,
        candidates: int,
    ) -> None:
        super().__init__(resources, queries, list_nos, distances, stats, passing)
        self._sketches, self._refiner, self._most = stages.scanner, stages.refiner, candidates
        self.metric = resources.index.model.metric

    @property
    def ntotal(self) -> int:
        """Vectors of the whole index."""
        return self._resources.index.ntotal

    def top_k(self, k: int, own: Int64 | None = None) -> tuple[Float32, Int64]:
        """The k nearest of each query, without its own vector where ``own`` has its id.

        Returns distances (nq, k), best first, and ids, -1 for none.
        """
        return nearest_in_two_stages(self, k, self._most, own)

    def scan(self, capacity: int) -> Iterator[Candidates]:
        """The first stage alone: candidates of all queries, ``capacity`` of each at most."""
        candidates = Candidates.none(len(self._queries), capacity)
        for lists in self._chunks():
            started = time.perf_counter()
            pairs = self._pairs.of_lists(lists.list_nos)
            self._sketches.scan(self._queries, lists, pairs, candidates, self._resources.threads)
            self._stats.scan_s += time.perf_counter() - started
        yield candidates

    def within(self, radius: float) -> tuple[Int64, Float32, Int64]:
        """All within the radius: lims (nq + 1,), distances and ids, best first a query.

        Finer codes are read of all whose lower bound is within it.
        """
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for lists in self._chunks():
            started = time.perf_counter()
            pairs = self._pairs.of_lists(lists.list_nos)
            threads = self._resources.threads
            found.append(self._sketches.within(self._queries, lists, pairs, radius, threads))
            self._stats.scan_s += time.perf_counter() - started
        owners, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
        owners, distances, ids = self.refine(owners, places)
        larger = self.metric.larger_is_closer
        inside = distances > radius if larger else distances < radius
        inner = owners[inside], distances[inside], ids[inside]
        return by_query(len(self._queries), *inner, self.metric)

    def refine(self, owners: Int64, places: Int64) -> tuple[Int64, Float32, Int64]:
        """The second stage alone: distances to finer codes, and ids, of query and place."""
        started = time.perf_counter()
        distances, ids = self._refiner.distances(self._queries, owners, places, self._stats)
        self._stats.refine_s += time.perf_counter() - started
        return owners, distances, ids
