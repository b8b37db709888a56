"""Scanning lists by our compiled kernel: each code is unpacked once for all queries.

Faiss's scanners take one query at a time, and unpack every code again for each. For codes of 6
bits that is most of their work. So where a batch's queries share lists, this is several times
as quick; and for one query alone the kernel has fewer instructions a code.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import on_threads
from teravec.kernels import native as compiled
from teravec.kernels.codec import Codec
from teravec.kernels.decoding import Decoding
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.kernels.metric import Metric
from teravec.kernels.nearest import smallest_k
from teravec.kernels.pairs import Pairs

__all__ = ["CompiledScan", "CompiledScanner"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_UNPACK = 3  # unpacking a code takes about as long as comparing it with three queries
_ALONE = 1 << 15  # comparisons on one thread where waking another takes as long
_SPARE = 12  # values kept beside twice k: for small k, the limit is found anew less often
_FINITE = np.finfo(np.float32).max  # what no distance that counts is above
_PARTS = 4  # of the work for each thread: the last ones even out what the first took longer


@dataclass(frozen=True)
class _Kept:
    """What one thread keeps for each query: see _scan.c.

    ``best`` and ``places`` (nq, room), ``counts`` of what is kept and ``limits`` (nq,).
    """

    best: Float32
    places: Int64
    counts: npt.NDArray[np.int32]
    limits: Float32

    @classmethod
    def none(cls, nq: int, k: int) -> _Kept:
        """Nothing kept yet."""
        shape = (nq, 2 * k + _SPARE)
        return cls(
            np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64),
            np.zeros(nq, np.int32), np.full(nq, _FINITE, np.float32),
        )  # fmt: skip


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
        self._kept: list[_Kept] = []
        self._free: queue.SimpleQueue[_Kept] = queue.SimpleQueue()

    def add(self, lists: ListsInMemory, pairs: Pairs) -> None:
        """Scan lists for the queries that want them; ``pairs`` names the same lists.

        Each query's nearest list comes first: what is found there keeps most other codes out of
        what is kept, which would else take as long as the distances.
        """
        if len(self._queries) == 1:  # a pair for each list: one scan of them in that order
            order = np.argsort(~pairs.nearest, kind="stable")
            self._add(lists.where(order), pairs.reordered(order))
        elif len(lists.list_nos) > 1:
            for chosen in (pairs.nearest, ~pairs.nearest):
                part = pairs.where(chosen)
                wanted = part.counts > 0
                self._add(lists.where(wanted), part.of_lists(part.list_nos[wanted]))
        else:
            self._add(lists, pairs)

    def _add(self, lists: ListsInMemory, pairs: Pairs) -> None:
        cost = lists.sizes * (pairs.counts + _UNPACK)
        threads = self._threads if int(cost.sum()) > _ALONE else 1
        while len(self._kept) < threads:
            self._kept.append(_Kept.none(len(self._queries), self._k))
            self._free.put(self._kept[-1])
        entries = np.stack(
            [lists.list_nos, np.full_like(lists.sizes, lists.row_start), lists.sizes, lists.offsets]
        )
        if threads == 1:
            self._scan(lists, entries, pairs.starts, pairs)
            return
        code_size = self._scanner.decoding.code_size
        parts = _parts(entries, pairs.starts, cost, threads * _PARTS, code_size)
        on_threads(lambda part: self._scan(lists, *part, pairs), parts, threads=threads)

    def _scan(self, lists: ListsInMemory, entries: Int64, starts: Int64, pairs: Pairs) -> None:
        scanner, decoding = self._scanner, self._scanner.decoding
        part = slice(int(starts[0]), int(starts[-1]))
        similarity = scanner.metric.larger_is_closer
        coarse = pairs.distances[part] if similarity and decoding.centroids is not None else None
        kept = self._free.get()
        try:
            assert compiled.scanning is not None
            compiled.scanning.scan(
                compiled.level, decoding.number, similarity, self._queries.shape[1], self._k,
                lists.buffer, entries, starts - starts[0], pairs.queries[part], coarse,
                self._queries, decoding.centroids, decoding.low, decoding.step,
                kept.best, kept.places, kept.counts, kept.limits,
            )  # fmt: skip
        finally:
            self._free.put(kept)

    def result(self) -> tuple[Float32, Int64]:
        """Distances (nq, k), best first, in the metric's own sign, and places, -1 for none."""
        shape = (len(self._queries), self._k)
        if not self._kept:
            return np.full(shape, self._scanner.metric.worst, np.float32), np.full(shape, -1)
        best = np.concatenate([kept.best for kept in self._kept], axis=1)
        places = np.concatenate([kept.places for kept in self._kept], axis=1)
        order, lowest = smallest_k(best, self._k, threads=self._threads)
        found = np.take_along_axis(places, order.astype(np.int64), 1)
        for row in _ties(best, lowest):  # of equal ones, those of lowest place
            at = np.lexsort((places[row], best[row]))[: self._k]
            lowest[row], found[row] = best[row, at], places[row, at]
        if self._scanner.metric.larger_is_closer:
            np.negative(lowest, out=lowest)
        return lowest, found


def _ties(values: Float32, lowest: Float32) -> Int64:
    """Rows of which more values equal the last of the lowest than are among these."""
    last = lowest[:, -1:]
    more = (values == last).sum(axis=1) > (lowest == last).sum(axis=1)
    return np.flatnonzero(more & np.isfinite(last[:, 0]))


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
