"""The nprobe nearest centroids of queries, and the k smallest values of rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.kernels import native as compiled
from teravec.kernels.blocks import over_blocks
from teravec.kernels.metric import Metric
from teravec.kernels.native import half_norms, pack_panels

__all__ = ["ExactQuantizer", "smallest_k"]

Floats = npt.NDArray[np.float32]

_SCORE_FLOATS = 1 << 23  # the fallback's scores at a time: 32 MiB
_KEY_FLOATS = 1 << 21  # scores that the fallback turns into keys at a time: 16 MiB of them
_THREAD_FLOATS = 1 << 17  # fewer scores than this are not worth waking a thread for


class ExactQuantizer:
    """The coarse quantizer that compares a query with every centroid.

    Scores are ``|c|**2 / 2 - q.c`` for l2 and ``-q.c`` for inner products, in float32. With
    the compiled kernels a query's result depends on the query alone, not on the batch or
    the threads; and no BLAS threads spin on beside the scan that follows.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
        Packed into another copy.
    metric : Metric
    """

    def __init__(self, centroids: Floats, metric: Metric) -> None:
        self.nlist, self.d = centroids.shape
        self._similarity = metric.larger_is_closer
        half = np.zeros(self.nlist, np.float32) if self._similarity else half_norms(centroids)
        self._centroids, self._half = centroids, half
        self._panels = None
        if compiled.native is not None:
            places = compiled.native.panel_places(compiled.level)
            one = np.array([0, self.nlist])
            self._panels = pack_panels(centroids, half, np.arange(self.nlist), one, places)

    def search(
        self, queries: Floats, nprobe: int, *, threads: int
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """Find each query's nearest centroids. Ties go to the lower list.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), float32
        nprobe : int
            1 to nlist.
        threads : int

        Returns
        -------
        list_no : ndarray of shape (nq, nprobe), int64
            Best first.
        distance : ndarray of shape (nq, nprobe), float32
            Squared L2, ascending and at least 0, or inner products, descending.

        Raises
        ------
        InvalidArgument
            The shape does not fit the centroids, or nprobe is out of range.
        """
        q = queries
        if q.dtype != np.float32 or not (q.flags.c_contiguous and q.flags.aligned):
            q = np.require(q, np.float32, ["C", "A"])
        if q.ndim != 2 or q.shape[1] != self.d:
            raise InvalidArgument(f"queries {q.shape} do not fit {self.d} dimensions")
        if not 1 <= nprobe <= self.nlist:
            raise InvalidArgument(f"nprobe is {nprobe}, expected 1 to {self.nlist}")
        list_no = np.empty((len(q), nprobe), np.int64)
        distance = np.empty((len(q), nprobe), np.float32)
        if self._panels is not None:
            self._search_panels(q, list_no, distance, threads)
        else:
            self._search_product(q, list_no, distance, threads)
        return list_no, distance

    def _search_panels(
        self, q: Floats, list_no: npt.NDArray[np.int64], distance: Floats, threads: int
    ) -> None:
        native, panels, k = compiled.native, self._panels, list_no.shape[1]
        assert native is not None
        assert panels is not None

        def block(start: int, stop: int) -> None:
            part = slice(start, stop)
            native.nearest(
                compiled.level, self.d, k, self._similarity, q[part], panels.packed, panels.half,
                list_no[part], distance[part],
            )  # fmt: skip

        rows = max(24, -(-len(q) // max(1, threads)))
        over_blocks(block, len(q), rows=rows, threads=threads, even=False)

    def _search_product(
        self, q: Floats, list_no: npt.NDArray[np.int64], distance: Floats, threads: int
    ) -> None:
        step = max(1, _SCORE_FLOATS // self.nlist)
        for i in range(0, len(q), step):
            part = slice(i, i + step)
            scores = self._half - q[part] @ self._centroids.T
            list_no[part], distance[part] = smallest_k(scores, list_no.shape[1], threads=threads)
        if self._similarity:
            np.negative(distance, out=distance)
        else:
            distance *= 2
            distance += np.einsum("ij,ij->i", q, q)[:, None]
            np.maximum(distance, 0, out=distance)


def smallest_k(scores: Floats, k: int, *, threads: int = 1) -> tuple[npt.NDArray[np.int32], Floats]:
    """Find the k smallest values of every row.

    Parameters
    ----------
    scores : ndarray of shape (n, m), float32
        Infinities count like other values; NaN comes after +inf.
    k : int
        1 to m.
    threads : int
        Rows are shared out among them where there are many scores.

    Returns
    -------
    index : ndarray of shape (n, k), int32
        Columns; of equal values the lower column comes first.
    value : ndarray of shape (n, k), float32
        Ascending.
    """
    data = np.require(scores, np.float32, ["C", "A"])
    if data.ndim != 2 or not 1 <= k <= data.shape[1] < 2**31:
        raise InvalidArgument(f"k is {k}, scores have shape {data.shape}")
    n, m = data.shape
    index = np.empty((n, k), np.int32)
    value = np.empty((n, k), np.float32)
    native, level = compiled.native, compiled.level

    def block(start: int, stop: int) -> None:
        part = slice(start, stop)
        if native is not None:
            native.smallest_k(level, m, k, data[part], index[part], value[part])
        else:
            _smallest_k(data[part], k, index[part], value[part])

    rows = max(1, _THREAD_FLOATS // m, -(-n // max(1, threads)))
    if native is None:
        rows = min(rows, max(1, _KEY_FLOATS // m))
    over_blocks(block, n, rows=rows, threads=threads, even=False)
    return index, value


def _smallest_k(scores: Floats, k: int, index: npt.NDArray[np.int32], value: Floats) -> None:
    """By integers that order as (value, column), so that ties are settled as compiled."""
    bits = np.where(np.isnan(scores), np.float32(np.nan), scores + np.float32(0)).view(np.uint32)
    bits ^= np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    keys = bits.astype(np.uint64) << np.uint64(32)
    keys |= np.arange(scores.shape[1], dtype=np.uint64)
    if k < scores.shape[1]:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    keys.sort(axis=1)
    index[:] = keys & np.uint64(0xFFFFFFFF)
    value[:] = np.take_along_axis(scores, index, axis=1)
