"""Scanning inverted lists in one of our buffers with Faiss's scanners.

A Faiss ``OnDiskInvertedLists`` normally points into a memory map. Here it points at a buffer of
verified lists. That avoids the map's read-ahead and page faults, and still uses Faiss's scanners
with their vector instructions and threads.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from teravec.kernels.faiss_pieces import FaissPiece, faiss_pieces
from teravec.kernels.faiss_threads import faiss_threads
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.kernels.metric import Metric
from teravec.kernels.pairs import Pairs

__all__ = ["FaissScan", "FaissScanner"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_CODES_FOR_THREADS = 1 << 15  # fewer codes, about half a millisecond's work, use one thread
_ENTRY = np.dtype([("size", "<u8"), ("capacity", "<u8"), ("offset", "<u8")])


class FaissScanner:
    """Scans lists in memory for many queries at once.

    One scan runs at a time, on all its threads.

    Parameters
    ----------
    ivf : faiss.IndexIVF
        Trained, without lists; the scanner becomes its owner.
    metric : Metric
    """

    def __init__(self, ivf: Any, metric: Metric) -> None:
        self.metric, self.code_size = metric, int(ivf.code_size)
        lists = faiss.OnDiskInvertedLists()
        lists.read_only = True
        lists.nlist, lists.code_size = ivf.nlist, ivf.code_size
        lists.lists.resize(ivf.nlist)
        raw = (ctypes.c_uint8 * (ivf.nlist * _ENTRY.itemsize)).from_address(
            int(lists.lists.data().this)
        )
        self._entries = np.frombuffer(raw, _ENTRY)
        self._entries["size"] = 0
        self._lists, self._ivf = lists, ivf
        ivf.replace_invlists(lists, False)
        self._lock = threading.Lock()

    @contextmanager
    def _mapped(self, lists: ListsInMemory, nprobe: int, threads: int) -> Iterator[None]:
        """Point the Faiss lists at the buffer for the duration of one scan."""
        with self._lock, faiss_threads(threads):
            entries = self._entries
            entries["size"][lists.list_nos] = lists.sizes
            entries["capacity"][lists.list_nos] = lists.sizes
            entries["offset"][lists.list_nos] = lists.offsets
            self._lists.ptr = faiss.swig_ptr(lists.buffer)
            self._lists.totsize = lists.buffer.nbytes
            self._ivf.nprobe = nprobe
            try:
                yield
            finally:
                self._lists.ptr = None  # otherwise the destructor would unmap our buffer
                self._lists.totsize = 0
                entries["size"][lists.list_nos] = 0

    def top_k(self, queries: Float32, k: int, threads: int) -> FaissScan:
        """Begin a scan for the k best of each query (nq, d)."""
        return FaissScan(self, queries, k, threads)

    def nearest(
        self, queries: Float32, piece: FaissPiece, k: int, threads: int
    ) -> tuple[Int64, Float32, Int64]:
        """Find the k best codes of a piece, for each query that visits one of its lists.

        Returns
        -------
        rows : ndarray of shape (m,), int64
            Those queries, ascending.
        distances : ndarray of shape (m, k), float32, best first
        places : ndarray of shape (m, k), int64, -1 where fewer than k exist
        """
        rows, list_nos, coarse = piece.pairs.as_matrix()
        nq, lists = len(rows), piece.lists
        best = np.empty((nq, k), np.float32)
        places = np.empty((nq, k), np.int64)
        wanting = np.ascontiguousarray(queries[rows])
        with self._mapped(lists, list_nos.shape[1], _threads(lists, nq, threads)):
            # 3: threads over queries; 1: threads over one query's lists.
            self._ivf.parallel_mode = 3 if nq > 1 else 1
            self._ivf.search_preassigned_c(
                nq,
                faiss.swig_ptr(wanting),
                k,
                faiss.swig_ptr(list_nos),
                faiss.swig_ptr(coarse),
                faiss.swig_ptr(best),
                faiss.swig_ptr(places),
                True,
            )
        found = places >= 0
        places[found] = piece.places(places[found])
        best[~found] = self.metric.worst  # Faiss returns FLT_MAX, a possible distance
        return rows, best, places

    def within(
        self, queries: Float32, pairs: Pairs, lists: ListsInMemory, radius: float, threads: int
    ) -> tuple[Int64, Float32, Int64]:
        """Find all codes within ``radius`` among some lists, for each query that visits one.

        Returns
        -------
        rows : ndarray of shape (m,), int64
            The query of each result, ascending.
        distances : ndarray of shape (m,), float32, in no order within a query
        places : ndarray of shape (m,), int64
        """
        pieces = faiss_pieces(lists, pairs, self.code_size)
        found = [self._within(queries, piece, radius, threads) for piece in pieces]
        if len(found) == 1:
            return found[0]
        none = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        rows, distances, places = (
            np.concatenate(arrays) for arrays in zip(none, *found, strict=True)
        )
        order = np.argsort(rows, kind="stable")
        return rows[order], distances[order], places[order]

    def _within(
        self, queries: Float32, piece: FaissPiece, radius: float, threads: int
    ) -> tuple[Int64, Float32, Int64]:
        """Find all codes of a piece within ``radius``; returns what ``within`` does."""
        rows, list_nos, coarse = piece.pairs.as_matrix()
        nq, lists = len(rows), piece.lists
        result = faiss.RangeSearchResult(nq)
        wanting = np.ascontiguousarray(queries[rows])
        with self._mapped(lists, list_nos.shape[1], _threads(lists, nq, threads)):
            self._ivf.parallel_mode = 0 if nq > 1 else 1
            self._ivf.range_search_preassigned_c(
                nq,
                faiss.swig_ptr(wanting),
                radius,
                faiss.swig_ptr(list_nos),
                faiss.swig_ptr(coarse),
                result,
                True,
            )
        counts = np.diff(faiss.rev_swig_ptr(result.lims, nq + 1).astype(np.int64))
        total = int(counts.sum())
        found = faiss.rev_swig_ptr(result.distances, total).copy()
        labels = faiss.rev_swig_ptr(result.labels, total).astype(np.int64)
        return np.repeat(rows, counts), found, piece.places(labels)


def _threads(lists: ListsInMemory, nq: int, threads: int) -> int:
    """Return the threads for a scan: one if waking others would take longer than the scan."""
    return 1 if int(lists.sizes.sum()) * nq < _CODES_FOR_THREADS else threads


class FaissScan:
    """The k best codes so far, for a batch of queries."""

    def __init__(self, scanner: FaissScanner, queries: Float32, k: int, threads: int) -> None:
        self._scanner, self._queries = scanner, np.ascontiguousarray(queries, np.float32)
        self._k, self._threads = k, threads
        self._best = np.full((len(queries), k), scanner.metric.worst, np.float32)
        self._places = np.full((len(queries), k), -1, np.int64)

    def add(self, lists: ListsInMemory, pairs: Pairs) -> None:
        """Scan lists for the queries that visit them; ``pairs`` names the same lists."""
        for piece in faiss_pieces(lists, pairs, self._scanner.code_size):
            self._merge(*self._scanner.nearest(self._queries, piece, self._k, self._threads))

    def _merge(self, rows: Int64, found: Float32, places: Int64) -> None:
        """Keep the best of what was found before and now, (m, k), for some of the queries."""
        sign = -1.0 if self._scanner.metric.larger_is_closer else 1.0
        both = np.concatenate([self._best[rows], found], axis=1)
        both_places = np.concatenate([self._places[rows], places], axis=1)
        order = np.argsort(sign * both, axis=1, kind="stable")[:, : self._k]
        self._best[rows] = np.take_along_axis(both, order, axis=1)
        self._places[rows] = np.take_along_axis(both_places, order, axis=1)

    def result(self) -> tuple[Float32, Int64]:
        """Return distances (nq, k), best first, and places (-1: none)."""
        return self._best, self._places
