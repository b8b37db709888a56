"""The second stage: candidates that sketches left, compared again by their finer codes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import ordered_map
from teravec.index.opened import OpenedIndex
from teravec.kernels.codec import decode
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.sketch import Candidates, SketchScanner
from teravec.search.batch import Batch, SearchResources
from teravec.search.candidates import best_k, candidates_kept, chosen
from teravec.search.fine_cache import FineCache, rows_of
from teravec.search.pages import PageReader
from teravec.search.stats import SearchStats
from teravec.storage.listfile import ID_BYTES
from teravec.storage.range_reader import RangeReader

__all__ = ["Refiner", "TwoStageBatch", "TwoStages"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_ROW_MASK = (1 << PLACE_BITS) - 1


class Refiner:
    """Compares queries with the finer codes of vectors named by place.

    Parameters
    ----------
    index : OpenedIndex
        Of codes in two stages.
    ranges : RangeReader
        Reads files.
    run_bytes : int
        Memory of a run of candidates; up to ``threads + 1`` runs are in memory.
    cache_bytes : int
        For pages that were read; none is kept with 0.
    threads : int
    """

    def __init__(
        self, index: OpenedIndex, ranges: RangeReader, run_bytes: int, cache_bytes: int,
        threads: int,
    ) -> None:  # fmt: skip
        self._index, self._threads = index, threads
        npages = np.array([file.header.npages for file in index.fine], np.int64)
        self._first_pages: Int64 = np.cumsum(npages) - npages  # page numbers go through all files
        page_bytes = index.fine[0].header.page_bytes
        self._cache = FineCache(int(npages.sum()), page_bytes, cache_bytes)
        self._pages = PageReader(index, ranges)
        self._ivf = index.model.empty_ivf()
        pair_bytes = self._pages.most_bytes + page_bytes + 12 * index.model.description.d_index
        self._run = max(1, run_bytes // pair_bytes)

    def distances(
        self, queries: Float32, owners: Int64, places: Int64, stats: SearchStats
    ) -> tuple[Float32, Int64]:
        """Distances of queries to finer codes, and the vectors' ids.

        Pages are read in file order; a page serves all pairs of a run that want it.

        Parameters
        ----------
        queries : ndarray of shape (nq, d_index), float32
        owners, places : ndarray of shape (n,), int64
            Pairs to compare: row of ``queries``, and ``list_no << 32 | row`` of the vector.
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
        order = np.argsort(places, kind="stable")
        distances = np.empty(len(places), np.float32)
        ids = np.empty(len(places), np.int64)
        runs = [order[start : start + self._run] for start in range(0, len(order), self._run)]

        def refine(run: Int64) -> tuple[Float32, Int64, SearchStats]:
            cost = SearchStats()
            return *self._run_distances(queries, owners[run], places[run], cost), cost

        threads = min(self._threads, len(runs))
        results: Iterator[tuple[Float32, Int64, SearchStats]] = (
            map(refine, runs) if threads <= 1 else ordered_map(refine, runs, threads=threads)
        )
        for run, (run_distances, run_ids, cost) in zip(runs, results, strict=True):
            distances[run], ids[run] = run_distances, run_ids
            stats.add(cost)
        stats.codes_refined += len(places)
        return distances, ids

    def _run_distances(
        self, queries: Float32, owners: Int64, places: Int64, stats: SearchStats
    ) -> tuple[Float32, Int64]:
        list_nos, file_nos, rows = self._file_rows(places)
        header = self._index.fine[0].header
        pages, slots = np.divmod(rows, header.page_rows)
        at = slots * header.row_size
        numbers = self._first_pages[file_nos] + pages
        wanted, kept = self._cache.rows(numbers, at, header.row_size)
        if not kept.all():
            new = ~kept
            wanted[new] = self._read(file_nos[new], pages[new], numbers[new], at[new], stats)
        ids = np.ascontiguousarray(wanted[:, -ID_BYTES:]).view("<i8")[:, 0]
        vectors, mine = decode(self._ivf, wanted[:, :-ID_BYTES], list_nos), queries[owners]
        if self._index.model.metric.larger_is_closer:
            return np.einsum("ij,ij->i", vectors, mine), ids
        vectors -= mine
        return np.einsum("ij,ij->i", vectors, vectors), ids

    def _read(
        self, file_nos: Int64, pages: Int64, numbers: Int64, at: Int64, stats: SearchStats
    ) -> npt.NDArray[np.uint8]:
        """Rows that the cache does not have; ``numbers`` ascend."""
        fresh = np.diff(numbers, prepend=-1) != 0
        read, places = self._pages.read(file_nos[fresh], pages[fresh], stats)
        self._cache.keep(numbers[fresh], read, places)
        row_size = self._index.fine[0].header.row_size
        return rows_of(read, places[np.cumsum(fresh) - 1], at, row_size)

    def _file_rows(self, places: Int64) -> tuple[Int64, Int64, Int64]:
        """List, number of the slice's file and row in that file, of each place."""
        index = self._index
        list_nos, rows = places >> PLACE_BITS, places & _ROW_MASK
        file_nos = np.searchsorted(index.bounds, list_nos, side="right") - 1
        for number, file in enumerate(index.slices):
            mine = slice(*np.searchsorted(file_nos, [number, number + 1]).tolist())
            rows[mine] += file.starts[list_nos[mine] - file.lists[0]]
        return list_nos, file_nos, rows


@dataclass(frozen=True)
class TwoStages:
    """What searches of codes in two stages share, besides ``SearchResources``."""

    scanner: SketchScanner
    refiner: Refiner

    @classmethod
    def of(
        cls, index: OpenedIndex, ranges: RangeReader, memory_bytes: int, cache_bytes: int,
        threads: int,
    ) -> TwoStages:  # fmt: skip
        """The two stages of an index; ``memory_bytes`` are for refining, beside its cache."""
        model = index.model
        scanner = SketchScanner(model.centroids, model.codec.sketch_bits, model.metric)
        run_bytes = memory_bytes // (threads + 1)
        return cls(scanner, Refiner(index, ranges, run_bytes, cache_bytes, threads))


@dataclass(frozen=True)
class _Found:
    """Results in no order: the query of each, its distance and its id."""

    owners: Int64
    distances: Float32
    ids: Int64

    def ordered(self, nq: int, sign: float) -> tuple[Int64, Float32, Int64]:
        """As lims (nq + 1,), distances and ids, best first a query; equal ones by id."""
        order = np.lexsort((self.ids, sign * self.distances, self.owners))
        counts = np.bincount(self.owners, minlength=nq)
        lims = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return lims, self.distances[order], self.ids[order]


class TwoStageBatch(Batch):
    """Queries and the lists they want, of codes in two stages.

    Parameters
    ----------
    resources, queries, list_nos, distances, stats
        As for ``Batch``.
    stages : TwoStages
    candidates : int
        Most vectors a query whose finer codes ``top_k`` reads; fewer where bounds spare some.
        With ntotal and more, the finer code of every vector scanned is read.
    """

    def __init__(
        self, resources: SearchResources, queries: Float32, list_nos: Int64, distances: Float32,
        stats: SearchStats, *, stages: TwoStages, candidates: int,
    ) -> None:  # fmt: skip
        super().__init__(resources, queries, list_nos, distances, stats)
        self._sketches, self._refiner, self._most = stages.scanner, stages.refiner, candidates
        self._metric = resources.index.model.metric

    def top_k(self, k: int) -> tuple[Float32, Int64]:
        """The k nearest of each query: distances (nq, k), best first, and ids, -1 for none."""
        ntotal = self._resources.index.ntotal
        candidates = self.sketched(candidates_kept(k, self._most, ntotal))
        found = self._refined(*chosen(candidates, k, ntotal))
        nq = len(self._queries)
        return best_k(nq, k, found.owners, found.distances, found.ids, self._metric)

    def sketched(self, capacity: int) -> Candidates:
        """The first stage alone: candidates of each query, ``capacity`` at most."""
        candidates = Candidates.none(len(self._queries), capacity)
        for lists in self._chunks():
            started = time.perf_counter()
            pairs = self._pairs.of_lists(lists.list_nos)
            self._sketches.scan(self._queries, lists, pairs, candidates, self._resources.threads)
            self._stats.scan_s += time.perf_counter() - started
        return candidates

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
        refined = self._refined(owners, places)
        larger = self._metric.larger_is_closer
        inside = refined.distances > radius if larger else refined.distances < radius
        refined = _Found(refined.owners[inside], refined.distances[inside], refined.ids[inside])
        return refined.ordered(len(self._queries), -1.0 if larger else 1.0)

    def _refined(self, owners: Int64, places: Int64) -> _Found:
        started = time.perf_counter()
        distances, ids = self._refiner.distances(self._queries, owners, places, self._stats)
        self._stats.refine_s += time.perf_counter() - started
        return _Found(owners, distances, ids)
