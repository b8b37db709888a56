"""Scanning lists by our compiled kernel: each code is unpacked once for all queries.

Faiss's scanners take one query at a time, and unpack every code again for each. For codes of 6
bits that is most of their work. So where a batch's queries share lists, this is several times
as quick; and for one query alone the kernel has fewer instructions a code.
"""

from __future__ import annotations

import queue
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import on_threads
from teravec.kernels import native as compiled
from teravec.kernels.codec import Codec
from teravec.kernels.decoding import Decoding
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.kernels.metric import Metric
from teravec.kernels.pairs import Pairs

__all__ = ["CompiledScan", "CompiledScanner"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_UNPACK = 3  # unpacking a code takes about as long as comparing it with three queries
_ALONE = 1 << 24  # numbers compared on one thread, in half a millisecond: to wake another takes 0.2
_PART = 1 << 14  # comparisons that take far longer than a call
_SPARE = 12  # values kept beside twice k: for small k, the limit is found anew less often
_FINITE = np.finfo(np.float32).max  # what no distance that counts is above
_PARTS = 4  # of the work for each thread: the last ones even out what the first took longer


class _Kept:
    """What threads keep of each query, each for itself: see _scan.c.

    Attributes
    ----------
    best, places : ndarray of shape (threads, nq, room)
        Values and their vectors, in no order; room for twice k and some.
    counts : ndarray of shape (threads, nq), int32
        How many are kept.
    limits : ndarray of shape (threads, nq), float32
        What a value must not be above.
    """

    def __init__(self, threads: int, nq: int, k: int) -> None:
        shape = (threads, nq, 2 * k + _SPARE)
        self.best, self.places = np.empty(shape, np.float32), np.empty(shape, np.int64)
        self.counts, self.limits = np.zeros(shape[:2], np.int32), np.empty(shape[:2], np.float32)
        self.limits.fill(_FINITE)


class CompiledScanner:
    """Scans lists in memory for many queries at once, from any number of threads.

    Parameters
    ----------
    codec : Codec
        One for which ``scans`` is true.
    metric : Metric
    centroids : ndarray of shape (nlist, d), float32
    parameters : ndarray of float32
        The codec's, from ``train_codec``.
    """

    def __init__(
        self, codec: Codec, metric: Metric, centroids: Float32, parameters: Float32
    ) -> None:
        self.metric = metric
        self.decoding = Decoding.of(codec, centroids, parameters)

    @staticmethod
    def scans(codec: Codec) -> bool:
        """Whether this codec has a compiled scanner here."""
        return compiled.scanning is not None and Decoding.knows(codec.name)

    def top_k(self, queries: Float32, k: int, threads: int) -> CompiledScan:
        """Begin to look for the k best of each query (nq, d)."""
        return CompiledScan(self, queries, k, threads)


class CompiledScan:
    """The k best codes so far, for a batch of queries.

    Each thread keeps results of its own, so that none waits for another.
    """

    def __init__(self, scanner: CompiledScanner, queries: Float32, k: int, threads: int) -> None:
        self._scanner = scanner
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._k, self._threads = k, threads
        self._kept = _Kept(threads, len(queries), k)

    def add(self, lists: ListsInMemory, pairs: Pairs) -> None:
        """Scan lists for the queries that want them; ``pairs`` names the same lists.

        Each query's nearest list comes first: what is found there keeps most other codes out of
        what is kept, which would else take as long as the distances.
        """
        if len(self._queries) == 1:  # a pair for each list: one scan of them
            self._add(lists, pairs, first=int(pairs.nearest.argmax()))
        elif len(lists.list_nos) > 1:
            for chosen in (pairs.nearest, ~pairs.nearest):
                part = pairs.where(chosen)
                wanted = part.counts > 0
                self._add(lists.where(wanted), part.of_lists(part.list_nos[wanted]))
        else:
            self._add(lists, pairs)

    def _add(self, lists: ListsInMemory, pairs: Pairs, first: int = 0) -> None:
        each = pairs.counts + _UNPACK
        entries = np.empty((4, len(each)), np.int64)
        entries[0], entries[1] = lists.list_nos, lists.row_start
        entries[2], entries[3] = lists.sizes, lists.offsets
        cost = int(lists.sizes @ each)
        if self._threads == 1 or cost * self._queries.shape[1] <= _ALONE:
            self._scan(lists, entries, pairs.starts, pairs, 0, first)
            return
        code_size = self._scanner.decoding.code_size
        count = min(self._threads * _PARTS, max(self._threads, cost // _PART))
        parts = _parts(entries, pairs.starts, lists.sizes * each, count, code_size)
        free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for thread in range(self._threads):
            free.put(thread)

        def scan(part: tuple[Int64, Int64]) -> None:
            thread = free.get()
            try:
                self._scan(lists, *part, pairs, thread)
            finally:
                free.put(thread)

        on_threads(scan, parts, threads=self._threads)

    def _scan(
        self, lists: ListsInMemory, entries: Int64, starts: Int64, pairs: Pairs, thread: int,
        first: int = 0,
    ) -> None:  # fmt: skip
        scanner, decoding, kept = self._scanner, self._scanner.decoding, self._kept
        queries, coarse = pairs.queries, None
        similarity = scanner.metric.larger_is_closer
        if similarity and decoding.centroids is not None:
            coarse = pairs.distances
        if len(starts) < len(pairs.starts):  # some of the lists
            part = slice(int(starts[0]), int(starts[-1]))
            starts, queries = starts - starts[0], queries[part]
            coarse = None if coarse is None else coarse[part]
        assert compiled.scanning is not None
        compiled.scanning.scan(
            compiled.level, decoding.number, similarity, self._queries.shape[1], self._k, first,
            lists.buffer, entries, starts, queries, coarse,
            self._queries, decoding.centroids, decoding.low, decoding.step,
            kept.best[thread], kept.places[thread], kept.counts[thread], kept.limits[thread],
        )  # fmt: skip

    def result(self) -> tuple[Float32, Int64]:
        """Distances (nq, k), best first, in the metric's own sign, and places, -1 for none.

        Of equal distances those of lowest place.
        """
        nq, kept = len(self._queries), self._kept
        distances, places = np.empty((nq, self._k), np.float32), np.empty((nq, self._k), np.int64)
        similarity = self._scanner.metric.larger_is_closer
        assert compiled.scanning is not None
        compiled.scanning.lowest(
            self._k, similarity, kept.best, kept.places, kept.counts, distances, places
        )
        return distances, places


def _parts(
    entries: Int64, starts: Int64, cost: Int64, count: int, code_size: int
) -> list[tuple[Int64, Int64]]:
    """Cut entries (4, n) into about ``count`` runs of equal cost, within a list where need be.

    Returns
    -------
    list of (entries, starts)
        As a scan takes them; a list that is cut is an entry of both runs.
    """
    stops = np.cumsum(cost)
    bounds = stops[-1] * np.arange(1, count) // count
    cut = np.searchsorted(stops, bounds, side="right")
    each = cost[cut] // np.maximum(entries[2, cut], 1)  # cost of one code
    row = (bounds - (stops[cut] - cost[cut])) // np.maximum(each, 1)
    edges = [(0, 0), *zip(cut.tolist(), row.tolist(), strict=True), (entries.shape[1] - 1, -1)]
    parts = []
    for (first, low), (last, high) in pairwise(edges):
        part = entries[:, first : last + 1].copy()
        if high >= 0:
            part[2, -1] = high
        part[1, 0] += low
        part[2, 0] -= low
        part[3, 0] += low * code_size
        if part[2].any():
            parts.append((part, starts[first : last + 2]))
    return parts
