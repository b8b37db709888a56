"""Scanning lists by our compiled kernel: each code is unpacked once for all queries.

Faiss's scanners take one query at a time, and unpack every code again for each. For codes of 6
bits that is most of their work. So where a batch's queries share lists, this is several times
as quick; and for one query alone the kernel has fewer instructions a code.
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

_SPARE = 12  # values kept beside twice k: for small k, the limit is found anew less often
_FINITE = np.finfo(np.float32).max  # what no distance that counts is above


_knows = either("scanning", Decoding.knows, lambda name: False)


class _Kept:
    """What threads keep of each query, each for itself: see _scan.c.

    Attributes
    ----------
    best, places : ndarray of shape (threads, nq, room)
        Values and their vectors, in no order; room for twice k and some.
    counts : ndarray of shape (threads, nq), int32
        How many are kept.
    limits : ndarray of shape (nq,), float32
        What a value must not be above.
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
        """Begin to look for the k best of each query (nq, d)."""
        return CompiledScan(self, queries, k, threads)


class CompiledScan:
    """The k best codes so far, for a batch of queries.

    Each thread keeps results of its own, so that none waits for another.
    """

    def __init__(self, scanner: CompiledScanner, queries: Float32, k: int, threads: int) -> None:
        self._scanner, self._k = scanner, k
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._kept = _Kept(threads, len(queries), k)

    def add(self, lists: ListsInMemory, pairs: Pairs) -> None:
        """Scan lists for the queries that want them; ``pairs`` names the same lists.

        Each query's nearest list comes first: what is found there keeps most other codes out of
        what is kept, which would else take as long as the distances.
        """
        scanner, decoding, kept = self._scanner, self._scanner.decoding, self._kept
        similarity = scanner.metric.larger_is_closer
        residuals = decoding.centroids is not None
        compiled.scanning.scan(
            compiled.level, decoding.number, similarity, self._queries.shape[1], self._k,
            lists.row_start, lists.buffer, lists.list_nos, lists.sizes, lists.offsets,
            pairs.starts, pairs.queries, pairs.nearest,
            pairs.distances if similarity and residuals else None,
            self._queries, decoding.centroids, decoding.low, decoding.step,
            kept.best, kept.places, kept.counts, kept.limits,
        )  # fmt: skip

    def result(self) -> tuple[Float32, Int64]:
        """Distances (nq, k), best first, in the metric's own sign, and places, -1 for none.

        Of equal distances those of lowest place.
        """
        nq, kept = len(self._queries), self._kept
        distances, places = np.empty((nq, self._k), np.float32), np.empty((nq, self._k), np.int64)
        similarity = self._scanner.metric.larger_is_closer
        compiled.scanning.lowest(
            self._k, similarity, kept.best, kept.places, kept.counts, distances, places
        )
        return distances, places
