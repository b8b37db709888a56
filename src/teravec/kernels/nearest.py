"""The nprobe nearest centroids of queries, and the k smallest values of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.kernels.blocks import over_blocks
from teravec.kernels.centre import common_centre, seen_from
from teravec.kernels.metric import Metric
from teravec.kernels.panels import half_norms, pack_panels
from teravec.native import extensions as compiled
from teravec.native.extensions import either, panel_places

__all__ = ["ExactQuantizer", "smallest_k"]

Floats = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_SCORE_FLOATS = 1 << 23  # scores at a time in the fallback: 32 MiB
_KEY_FLOATS = 1 << 21  # scores turned into keys at a time in the fallback: 16 MiB of keys
_BYTES_FROM = 1 << 20  # floats of centroids, 4 MiB, from which on copies in bytes are used
_BYTE_PLACES = 16  # as in _native.c
_THREAD_FLOATS = 1 << 17  # with fewer scores, waking a thread takes too long


@dataclass(frozen=True)
class _Bytes:
    """Centroids as bytes, a quarter of their size as floats, for a first look by a lone query.

    If centroids do not fit in a processor's own cache, reading them is most of a single query's
    work. The error of the bytes is bounded, so only few centroids need a second look in float32,
    and the result is the same.

    Parameters
    ----------
    packed : ndarray of uint8
        int8 values: panels of 16 centroids, in each pair after pair of elements.
    bounds : ndarray of shape (4,), float32
        Unit of the bytes; largest ``|c - unit * bytes|``, ``|unit * bytes|`` and half-norm.
    """

    packed: npt.NDArray[np.uint8]
    bounds: Floats

    @classmethod
    def of(cls, centroids: Floats, half: Floats) -> _Bytes:
        """Pack centroids (nlist, d) and their half-norms, infinite at unused places."""
        d = centroids.shape[1]
        npanels, pairs = -(-half.size // _BYTE_PLACES), -(-d // 2)
        packed = np.zeros((npanels, pairs, _BYTE_PLACES, 2), np.int8)
        most = max(float(centroids.max()), -float(centroids.min()))
        unit = np.float32(most / 127 if most > 0 else 1)
        missed = longest = 0.0
        for start in range(0, npanels, 64):
            rows = centroids[start * _BYTE_PLACES : (start + 64) * _BYTE_PLACES]
            codes = np.zeros((-(-len(rows) // _BYTE_PLACES) * _BYTE_PLACES, 2 * pairs), np.int8)
            codes[: len(rows), :d] = np.rint(rows / unit)
            panels = codes.reshape(-1, _BYTE_PLACES, pairs, 2).transpose(0, 2, 1, 3)
            packed[start : start + len(panels)] = panels
            near = unit * codes[: len(rows), :d].astype(np.float64)
            missed = max(missed, float(np.linalg.norm(rows - near, axis=1).max(initial=0)))
            longest = max(longest, float(np.linalg.norm(near, axis=1).max(initial=0)))
        half = half[np.isfinite(half)]
        bounds = [unit, missed, longest, half.max(initial=0)]
        upwards = np.nextafter(np.array(bounds[1:], np.float32), np.float32(np.inf))
        return cls(packed.view(np.uint8), np.concatenate([[unit], upwards]).astype(np.float32))


class ExactQuantizer:
    """The coarse quantizer that compares a query with every centroid.

    Scores are ``|c|**2 / 2 - q.c`` for l2 and ``-q.c`` for inner products, in float32. With
    the compiled kernels a query's result depends on the query alone, not on the batch or
    the threads, and no BLAS threads spin during the scan that follows.

    For l2, centroids far from the origin and their queries are taken relative to a common centre
    (centre.py). Inner products do not need it: their error grows with lengths, not with squares.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
        Copied into panels.
    metric : Metric
    bytes_from : int
        Floats of centroids from which on copies in bytes are used, where they can be.
    score_floats : int
        Scores in memory at a time, where nothing is compiled.
    """

    def __init__(
        self,
        centroids: Floats,
        metric: Metric,
        *,
        bytes_from: int = _BYTES_FROM,
        score_floats: int = _SCORE_FLOATS,
    ) -> None:
        self.nlist, self.d = centroids.shape
        similarity = metric.larger_is_closer
        self._centre = None if similarity else common_centre(centroids)
        centroids = seen_from(self._centre, centroids)
        half = np.zeros(self.nlist, np.float32) if similarity else half_norms(centroids)
        # No bytes are made of moved centroids: a second look would take one more copy of them.
        few = centroids.size < bytes_from or self._centre is not None
        self._comparison = _compare_with(centroids, half, similarity, not few, score_floats)

    def search(self, queries: Floats, nprobe: int, *, threads: int) -> tuple[Int64, Floats]:
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
        if self._centre is not None:
            q = q - self._centre
        list_no = np.empty((len(q), nprobe), np.int64)
        distance = np.empty((len(q), nprobe), np.float32)
        self._comparison.search(q, list_no, distance, threads)
        return list_no, distance


class _Comparison(Protocol):
    """Writes the nearest lists of queries, and their distances."""

    def search(self, q: Floats, list_no: Int64, distance: Floats, threads: int) -> None: ...


class _ByPanels:
    """Compiled.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
    half : ndarray of shape (nlist,), float32
        Their half-norms, or zeros for inner products.
    similarity : bool
    by_bytes : bool
        Compare lone queries with copies in bytes first, at the levels that can.
    score_floats : int
        Of no interest here.
    """

    def __init__(
        self, centroids: Floats, half: Floats, similarity: bool, by_bytes: bool, score_floats: int
    ) -> None:
        one = np.array([0, len(centroids)])
        order = np.arange(len(centroids))
        panels = pack_panels(centroids, half, order, one, panel_places())
        self._packed, self._half = panels.packed, panels.half
        self._similarity = similarity
        self._by_bytes: tuple[Any, Any, Any] = (None, None, None)
        if compiled.level and by_bytes:
            coded = _Bytes.of(centroids, panels.half)
            self._by_bytes = centroids, coded.packed, coded.bounds

    def search(self, q: Floats, list_no: Int64, distance: Floats, threads: int) -> None:
        by_bytes = self._by_bytes if len(q) == 1 else (None, None, None)
        compiled.native.nearest(
            compiled.level,
            q.shape[1],
            list_no.shape[1],
            self._similarity,
            threads,
            q,
            self._packed,
            self._half,
            *by_bytes,
            list_no,
            distance,
        )


class _ByProduct:
    """On NumPy; parameters as for ``_ByPanels``."""

    def __init__(
        self, centroids: Floats, half: Floats, similarity: bool, by_bytes: bool, score_floats: int
    ) -> None:
        self._centroids, self._half, self._similarity = centroids, half, similarity
        self._score_floats = score_floats

    def search(self, q: Floats, list_no: Int64, distance: Floats, threads: int) -> None:
        step = max(1, self._score_floats // len(self._centroids))
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


_compare_with: Callable[[Floats, Floats, bool, bool, int], _Comparison]
_compare_with = either("native", _ByPanels, _ByProduct)


def smallest_k(scores: Floats, k: int, *, threads: int = 1) -> tuple[Int32, Floats]:
    """Find the k smallest values of every row.

    Parameters
    ----------
    scores : ndarray of shape (n, m), float32
        Infinities are ordered like other values; NaN comes after +inf.
    k : int
        1 to m.
    threads : int
        Threads divide the rows if there are many scores.

    Returns
    -------
    index : ndarray of shape (n, k), int32
        Columns; among equal values the lower column comes first.
    value : ndarray of shape (n, k), float32
        Ascending.
    """
    data = np.require(scores, np.float32, ["C", "A"])
    if data.ndim != 2 or not 1 <= k <= data.shape[1] < 2**31:
        raise InvalidArgument(f"k is {k}, scores have shape {data.shape}")
    n, m = data.shape
    index = np.empty((n, k), np.int32)
    value = np.empty((n, k), np.float32)

    def block(start: int, stop: int) -> None:
        part = slice(start, stop)
        _smallest_k(data[part], k, index[part], value[part])

    rows = max(1, _THREAD_FLOATS // m, -(-n // max(1, threads)))
    over_blocks(block, n, rows=rows, threads=threads, even=False)
    return index, value


def _smallest_k_compiled(scores: Floats, k: int, index: Int32, value: Floats) -> None:
    compiled.native.smallest_k(compiled.level, scores.shape[1], k, scores, index, value)


def _smallest_k_in_numpy(scores: Floats, k: int, index: Int32, value: Floats) -> None:
    step = max(1, _KEY_FLOATS // scores.shape[1])
    for i in range(0, len(scores), step):
        part = slice(i, i + step)
        _smallest_keys(scores[part], k, index[part], value[part])


_smallest_k = either("native", _smallest_k_compiled, _smallest_k_in_numpy)


def _smallest_keys(scores: Floats, k: int, index: Int32, value: Floats) -> None:
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
