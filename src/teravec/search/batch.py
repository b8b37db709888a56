"""One batch of queries through the lists they want: read, scan, gather, name.

Lists are visited in file order, each once for all queries that want it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.index.opened import OpenedIndex
from teravec.kernels.scanner import ListScanner, ListsInMemory
from teravec.search.lists import ListsOfIndex
from teravec.search.plan import Chunk
from teravec.search.reader import ListReader
from teravec.search.stats import SearchStats

__all__ = ["Batch", "SearchResources"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_CODES_FOR_THREADS = 1 << 15  # scanned in about half a millisecond
_ROW_BITS = 32  # a place is list_no << 32 | row within the list
_ROW_MASK = (1 << _ROW_BITS) - 1


@dataclass(frozen=True)
class SearchResources:
    """What searches of one index share.

    Parameters
    ----------
    index : OpenedIndex
    scanner : ListScanner
    lists : ListsOfIndex
        Brings lists into memory.
    pool : ThreadPoolExecutor
        Threads for reads.
    threads : int
    """

    index: OpenedIndex
    scanner: ListScanner
    lists: ListsOfIndex
    pool: ThreadPoolExecutor
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
    """

    def __init__(
        self, resources: SearchResources, queries: Float32, list_nos: Int64, distances: Float32,
        stats: SearchStats,
    ) -> None:  # fmt: skip
        self._resources, self._stats = resources, stats
        self._queries = np.ascontiguousarray(queries)
        self._reader = ListReader(resources.index, resources.pool, stats)
        list_nos = np.where(resources.index.sizes[list_nos] == 0, -1, list_nos)
        # In list order, so that results do not depend on how lists fall into chunks.
        order = np.argsort(list_nos, axis=1, kind="stable")
        self._list_nos = np.take_along_axis(list_nos, order, axis=1)
        self._distances = np.take_along_axis(distances, order, axis=1)
        stats.queries += len(queries)

    def top_k(self, k: int) -> tuple[Float32, Int64]:
        """The k nearest of each query: distances (nq, k), best first, and ids, -1 for none."""
        metric = self._resources.index.model.metric
        best = np.full((len(self._queries), k), metric.worst, np.float32)
        places = np.full(best.shape, -1, np.int64)
        sign = -1.0 if metric.larger_is_closer else 1.0
        for chunk, lists in self._chunks():
            rows, list_nos, distances = self._wanting(chunk)
            started = time.perf_counter()
            found, found_places = self._resources.scanner.scan(
                self._queries[rows], list_nos, distances, lists, k, self._threads(lists, rows)
            )
            found_places[found_places >= 0] += chunk.row_start
            _keep_best(best, places, rows, found, found_places, sign)
            self._stats.scan_s += time.perf_counter() - started
        ids = self._ids_of(places)
        # Equal distances go by id, whatever the lists' order.
        order = np.lexsort((ids, sign * best), axis=1)
        return np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)

    def within(self, radius: float) -> tuple[Int64, Float32, Int64]:
        """All within the radius: lims (nq + 1,), distances and ids, best first a query."""
        owners, distances, places = [], [], []
        for chunk, lists in self._chunks():
            rows, list_nos, coarse = self._wanting(chunk)
            started = time.perf_counter()
            lims, found, found_places = self._resources.scanner.range_scan(
                self._queries[rows], list_nos, coarse, lists, radius, self._threads(lists, rows)
            )
            owners.append(np.repeat(rows, np.diff(lims)))
            distances.append(found)
            places.append(found_places + chunk.row_start)
            self._stats.scan_s += time.perf_counter() - started
        owner = np.concatenate([np.empty(0, np.int64), *owners])
        distance = np.concatenate([np.empty(0, np.float32), *distances])
        ids = self._ids_of(np.concatenate([np.empty(0, np.int64), *places]))
        metric = self._resources.index.model.metric
        order = np.lexsort((ids, -distance if metric.larger_is_closer else distance, owner))
        counts = np.bincount(owner, minlength=len(self._queries))
        lims = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return lims, distance[order], ids[order]

    def _chunks(self) -> Iterator[tuple[Chunk, ListsInMemory]]:
        """The wanted lists, verified and in memory, in file order."""
        index = self._resources.index
        wanted, counts = np.unique(self._list_nos, return_counts=True)
        if len(wanted) and wanted[0] == -1:
            wanted, counts = wanted[1:], counts[1:]
        if not len(wanted):
            return
        self._stats.lists_wanted += int(counts.sum())
        self._stats.codes_scanned += int((counts * index.sizes[wanted]).sum())
        started = time.perf_counter()
        source = self._resources.lists.codes(wanted, self._reader)
        while True:
            item = next(source, None)
            self._stats.wait_s += time.perf_counter() - started
            if item is None:
                return
            yield item
            started = time.perf_counter()

    def _threads(self, lists: ListsInMemory, rows: Int64) -> int:
        """Threads for a scan: one where waking others would take longer than the scan."""
        most = int(lists.sizes.sum()) * len(rows)
        return 1 if most < _CODES_FOR_THREADS else self._resources.threads

    def _wanting(self, chunk: Chunk) -> tuple[Int64, Int64, Float32]:
        """Rows of the queries that want some list of the chunk; those lists, others -1."""
        first, last = chunk.list_nos[0], chunk.list_nos[-1]
        wanted = (self._list_nos >= first) & (self._list_nos <= last)
        rows = np.flatnonzero(wanted.any(axis=1))
        list_nos = np.where(wanted[rows], self._list_nos[rows], -1)
        return rows, list_nos, np.ascontiguousarray(self._distances[rows])

    def _ids_of(self, places: Int64) -> Int64:
        """Ids of places; only the lists that hold one are read."""
        ids = np.full(places.shape, -1, np.int64)
        held = places >= 0
        flat = places[held]
        if len(flat):
            ids[held] = self._resources.lists.ids(flat >> _ROW_BITS, flat & _ROW_MASK, self._reader)
        return ids


def _keep_best(
    best: Float32, places: Int64, rows: Int64, found: Float32, found_places: Int64, sign: float
) -> None:
    """Merge a chunk's results into the best so far; the earlier one wins a tie."""
    k = best.shape[1]
    both = np.concatenate([best[rows], found], axis=1)
    both_places = np.concatenate([places[rows], found_places], axis=1)
    order = np.argsort(sign * both, axis=1, kind="stable")[:, :k]
    best[rows] = np.take_along_axis(both, order, axis=1)
    places[rows] = np.take_along_axis(both_places, order, axis=1)
