"""Scanning inverted lists that lie in a buffer of ours, by Faiss's own scanners.

An ``OnDiskInvertedLists`` normally points into a memory map. Here it points at a buffer
that we read and verified, which avoids the map's read-ahead and page faults and leaves the
scanning, with its vector instructions and threads, to Faiss.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from teravec.kernels.faiss_threads import faiss_threads

__all__ = ["ListScanner", "ListsInMemory"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_ENTRY = np.dtype([("size", "<u8"), ("capacity", "<u8"), ("offset", "<u8")])


@dataclass(frozen=True)
class ListsInMemory:
    """Codes of some lists, or of parts of them, in one buffer.

    Parameters
    ----------
    list_nos : ndarray of shape (n,), int64
        Ascending and distinct.
    sizes : ndarray of shape (n,), int64
        Codes of each list in the buffer.
    offsets : ndarray of shape (n,), int64
        Byte of the buffer at which each list's codes begin.
    buffer : ndarray of uint8
    """

    list_nos: Int64
    sizes: Int64
    offsets: Int64
    buffer: npt.NDArray[np.uint8]


class ListScanner:
    """Scans lists in memory for many queries at once.

    Results name a vector by its place: ``list_no << 32 | row``, where the row counts from
    the start of the list's codes in the buffer. One scan runs at a time, on all the threads
    it is given.

    Parameters
    ----------
    ivf : faiss.IndexIVF
        Trained, without lists; the scanner takes it over.
    """

    def __init__(self, ivf: Any) -> None:
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
        """Point the Faiss lists at the buffer for the length of one scan."""
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
                self._lists.ptr = None  # its destructor would unmap what is not a map
                self._lists.totsize = 0
                entries["size"][lists.list_nos] = 0

    def scan(
        self, queries: Float32, list_nos: Int64, distances: Float32, lists: ListsInMemory, k: int,
        threads: int,
    ) -> tuple[Float32, Int64]:  # fmt: skip
        """The k nearest codes of each query among the lists it names.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), float32
        list_nos : ndarray of shape (nq, nprobe), int64
            Lists to scan; -1 is skipped. Every other must be in ``lists``.
        distances : ndarray of shape (nq, nprobe), float32
            Distance of the query to each list's centroid, in the index's metric.

        Returns
        -------
        distances : ndarray of shape (nq, k), float32, best first
        places : ndarray of shape (nq, k), int64, -1 where fewer than k exist
        """
        nq, nprobe = list_nos.shape
        best = np.empty((nq, k), np.float32)
        places = np.empty((nq, k), np.int64)
        with self._mapped(lists, nprobe, threads):
            # 3: threads over queries; 1: threads over one query's lists.
            self._ivf.parallel_mode = 3 if nq > 1 else 1
            self._ivf.search_preassigned_c(
                nq, faiss.swig_ptr(queries), k, faiss.swig_ptr(list_nos),
                faiss.swig_ptr(distances), faiss.swig_ptr(best), faiss.swig_ptr(places), True,
            )  # fmt: skip
        return best, places

    def range_scan(
        self, queries: Float32, list_nos: Int64, distances: Float32, lists: ListsInMemory,
        radius: float, threads: int,
    ) -> tuple[Int64, Float32, Int64]:  # fmt: skip
        """All codes within ``radius`` of each query among the lists it names.

        Returns
        -------
        lims : ndarray of shape (nq + 1,), int64
            Results of query i are at [lims[i], lims[i + 1]).
        distances : ndarray of float32, in no order within a query
        places : ndarray of int64
        """
        nq, nprobe = list_nos.shape
        result = faiss.RangeSearchResult(nq)
        with self._mapped(lists, nprobe, threads):
            self._ivf.parallel_mode = 0 if nq > 1 else 1
            self._ivf.range_search_preassigned_c(
                nq, faiss.swig_ptr(queries), radius, faiss.swig_ptr(list_nos),
                faiss.swig_ptr(distances), result, True,
            )  # fmt: skip
        lims = faiss.rev_swig_ptr(result.lims, nq + 1).astype(np.int64)
        total = int(lims[-1])
        found = faiss.rev_swig_ptr(result.distances, total).copy()
        return lims, found, faiss.rev_swig_ptr(result.labels, total).copy()
