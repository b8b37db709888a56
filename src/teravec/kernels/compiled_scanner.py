"""Scanning lists with the compiled kernel, which unpacks each code once for all queries.

Faiss's scanners take one query at a time, and unpack every code again for each query. For 6-bit
codes that is most of their work. If a batch's queries share lists, this scanner is several times as
fast. For a lone query it needs fewer instructions per code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.kernels.codec import Codec
from teravec.kernels.decoding import Decoding
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.kernels.metric import Metric
from teravec.kernels.pairs import Pairs
from teravec.native import extensions as compiled
from teravec.native.extensions import either

__all__ = ["CompiledScan", "CompiledScanner"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_SPARE = 12  # room in addition to twice k, so that small k updates its limit less often
_FINITE = np.finfo(np.float32).max  # larger distances do not count


_knows = either("scanning", Decoding.knows, lambda name: False)


class _Kept:
    """Each thread's own results for each query; see _scan.c.

    Attributes
    ----------
    best, places : ndarray of shape (threads, nq, room)
        Values and the places of their vectors, unordered; ``room`` is twice k and some spare.
    counts : ndarray of shape (threads, nq), int32
        Results so far.
    limits : ndarray of shape (nq,), float32
        A query's cutoff: larger values cannot be in the result.
    """

    def __init__(self, threads: int, nq: int, k: int) -> None:
        shape = (threads, nq, 2 * k + _SPARE)
        self.best, self.places = np.empty(shape, np.float32), np.empty(shape, np.int64)
        self.counts, self.limits = np.zeros(shape[:2], np.int32), np.empty(nq, np.float32)
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
        return _knows(codec.name)

    def top_k(self, queries: Float32, k: int, threads: int) -> CompiledScan:
        """Begin a scan for the k best of each query (nq, d)."""
        return CompiledScan(self, queries, k, threads)


class CompiledScan:
    """The k best codes so far, for a batch of queries.

    Each thread has its own results, so no thread waits for another.
    """

    def __init__(self, scanner: CompiledScanner, queries: Float32, k: int, threads: int) -> None:
        self._scanner, self._k = scanner, k
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._kept = _Kept(threads, len(queries), k)

    def add(self, lists: ListsInMemory, pairs: Pairs) -> None:
        """Scan lists for the queries that visit them; ``pairs`` names the same lists.

        Each query's nearest list is scanned first. Its results set a low cutoff, which excludes
        most other codes at once; otherwise storing results would take as long as the distances.
        """
        scanner, decoding, kept = self._scanner, self._scanner.decoding, self._kept
        similarity = scanner.metric.larger_is_closer
        residuals = decoding.centroids is not None
        compiled.scanning.scan(
            compiled.level,
            decoding.number,
            similarity,
            self._queries.shape[1],
            self._k,
            lists.row_start,
            lists.buffer,
            lists.list_nos,
            lists.sizes,
            lists.offsets,
            pairs.starts,
            pairs.queries,
            pairs.nearest,
            pairs.distances if similarity and residuals else None,
            self._queries,
            decoding.centroids,
            decoding.low,
            decoding.step,
            kept.best,
            kept.places,
            kept.counts,
            kept.limits,
            *lists.kernel_arguments,
        )

    def result(self) -> tuple[Float32, Int64]:
        """Return distances (nq, k), best first, in the metric's own sign, and places (-1: none).

        Among equal distances, the lowest places are returned.
        """
        nq, kept = len(self._queries), self._kept
        distances, places = np.empty((nq, self._k), np.float32), np.empty((nq, self._k), np.int64)
        similarity = self._scanner.metric.larger_is_closer
        compiled.scanning.lowest(
            self._k, similarity, kept.best, kept.places, kept.counts, distances, places
        )
        return distances, places
