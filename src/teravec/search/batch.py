"""One batch of queries through the lists they want: read, scan, gather, name.

Lists are visited in file order, each once for all queries that want it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.index.opened import OpenedIndex
from teravec.kernels.compiled_scanner import CompiledScan, CompiledScanner
from teravec.kernels.faiss_scanner import FaissScan, FaissScanner
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.kernels.pairs import Pairs
from teravec.search.lists import IndexLists
from teravec.search.ordering import by_query, sort_rows
from teravec.search.passing import PassingRows
from teravec.search.reader import ListReader
from teravec.search.stats import SearchStats
from teravec.storage.store import Reader

__all__ = ["Batch", "BatchInWaves", "SearchResources"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SearchResources:
    """What searches of one index share.

    Parameters
    ----------
    index : OpenedIndex
    scanner : CompiledScanner or FaissScanner
        Finds the k best.
    range_scanner : callable
        Gives what finds all within a radius; made when it is first asked for.
    lists : IndexLists
        Brings lists into memory.
    ranges : Reader
        Reads files.
    threads : int
    """

    index: OpenedIndex
    scanner: CompiledScanner | FaissScanner
    range_scanner: Callable[[], FaissScanner]
    lists: IndexLists
    ranges: Reader
    threads: int


class Batch:
    """Queries and the lists they want.

    Parameters
    ----------
    resources : SearchResources
    queries : ndarray of shape (nq, d_index), float32
        Prepared by the model.
    list_nos : ndarray of shape (nq, nprobe), int64
        Lists to visit, distinct within a row, in any order; -1 is none.
    distances : ndarray of shape (nq, nprobe), float32
        Squared distance to the list's centroid (l2), or inner product with it.
    stats : SearchStats
        Counts what the batch costs.
    passing : PassingRows, optional
        Find only these rows.
    """

    def __init__(
        self,
        resources: SearchResources,
        queries: Float32,
        list_nos: Int64,
        distances: Float32,
        stats: SearchStats,
        passing: PassingRows | None = None,
    ) -> None:
        self._begin(resources, queries, stats, passing)
        self._pairs = Pairs.of(list_nos, distances, resources.index.runs.list_sizes)

    def _begin(
        self,
        resources: SearchResources,
        queries: Float32,
        stats: SearchStats,
        passing: PassingRows | None,
    ) -> None:
        self._resources, self._stats, self._passing = resources, stats, passing
        self._queries = np.ascontiguousarray(queries)
        self._reader = ListReader(resources.index, resources.ranges, stats)
        stats.queries += len(queries)

    def top_k(self, k: int) -> tuple[Float32, Int64]:
        """The k nearest of each query: distances (nq, k), best first, and ids, -1 for none."""
        resources = self._resources
        scan = resources.scanner.top_k(self._queries, k, resources.threads)
        self._add_to(scan)
        best, places = scan.result()
        del scan  # what its threads kept takes more than the results
        return self._name(best, places)

    def _add_to(self, scan: CompiledScan | FaissScan) -> None:
        """Scan the wanted lists."""
        for lists in self._chunks():
            started = time.perf_counter()
            scan.add(lists, self._pairs.of_lists(lists.list_nos))
            self._stats.scan_s += time.perf_counter() - started

    def _name(self, best: Float32, places: Int64) -> tuple[Float32, Int64]:
        """Give the ids of places; equal distances in the order of ids."""
        ids = self._ids_of(places)
        if np.count_nonzero(
            best[:, 1:] == best[:, :-1]
        ):  # these go by id, whatever the lists' order
            return sort_rows(best, ids, self._resources.index.model.metric)
        return best, ids

    def within(self, radius: float) -> tuple[Int64, Float32, Int64]:
        """All within the radius: lims (nq + 1,), distances and ids, best first a query."""
        owners, distances, places = [], [], []
        for lists in self._chunks():
            started = time.perf_counter()
            owned, found, at = self._resources.range_scanner().within(
                self._queries,
                self._pairs.of_lists(lists.list_nos),
                lists,
                radius,
                self._resources.threads,
            )
            owners.append(owned)
            distances.append(found)
            places.append(at)
            self._stats.scan_s += time.perf_counter() - started
        owner = np.concatenate([np.empty(0, np.int64), *owners])
        distance = np.concatenate([np.empty(0, np.float32), *distances])
        ids = self._ids_of(np.concatenate([np.empty(0, np.int64), *places]))
        metric = self._resources.index.model.metric
        return by_query(len(self._queries), owner, distance, ids, metric)

    def _chunks(self) -> Iterator[ListsInMemory]:
        """The wanted lists, verified and in memory, in file order."""
        wanted, counts = self._pairs.list_nos, self._pairs.counts
        if not len(wanted):
            return
        self._stats.lists_wanted += len(self._pairs.queries)
        self._stats.codes_scanned += int(counts @ self._resources.index.runs.list_sizes[wanted])
        started = time.perf_counter()
        source = self._resources.lists.codes(wanted, self._reader, self._passing)
        while True:
            item = next(source, None)
            self._stats.wait_s += time.perf_counter() - started
            if item is None:
                return
            yield item
            started = time.perf_counter()

    def _ids_of(self, places: Int64) -> Int64:
        """Ids of places; only the lists that hold one are read."""
        return self._resources.lists.ids(places.ravel(), self._reader).reshape(places.shape)


class BatchInWaves(Batch):
    """Queries whose lists become known one wave after another, of codes in one stage.

    Parameters
    ----------
    resources, queries, stats, passing
        As for ``Batch``.
    k : int
        Results a query.
    """

    def __init__(
        self,
        resources: SearchResources,
        queries: Float32,
        k: int,
        stats: SearchStats,
        passing: PassingRows,
    ) -> None:
        self._begin(resources, queries, stats, passing)
        self._scan = resources.scanner.top_k(self._queries, k, resources.threads)
        self._so_far: tuple[Float32, Int64] | None = None

    def visit(self, rows: Int64, list_nos: Int64, distances: Float32) -> None:
        """Scan lists (n, m) for some of the queries (n,), ascending; -1 is none."""
        sizes = self._resources.index.runs.list_sizes
        self._pairs = Pairs.of(list_nos, distances, sizes).named(rows)
        self._add_to(self._scan)
        self._so_far = None

    def _best(self) -> tuple[Float32, Int64]:
        if self._so_far is None:
            self._so_far = self._scan.result()
        return self._so_far

    def thresholds(self, rank: int) -> Float64:
        """Distances of a rank, from 0, so far, (nq,); not a number where fewer were found."""
        best, places = self._best()
        return np.where(places[:, rank] < 0, np.nan, best[:, rank].astype(np.float64))

    def result(self) -> tuple[Float32, Int64]:
        """Distances and ids (nq, k), best first; -1 for none."""
        return self._name(*self._best())
