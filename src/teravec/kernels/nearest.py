"""The nprobe nearest centroids of queries, and the k smallest values of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.kernels.blocks import over_blocks
from teravec.kernels.centre import common_centre, seen_from
from teravec.kernels.metric import Metric
from teravec.kernels.panels import Panels, half_norms, pack_panels
from teravec.native import extensions as compiled

__all__ = ["ExactQuantizer", "smallest_k"]

Floats = npt.NDArray[np.float32]

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
    """

    def __init__(self, centroids: Floats, metric: Metric) -> None:
        self.nlist, self.d = centroids.shape
        self._similarity = metric.larger_is_closer
        self._centre = None if self._similarity else common_centre(centroids)
        centroids = seen_from(self._centre, centroids)
        half = np.zeros(self.nlist, np.float32) if self._similarity else half_norms(centroids)
        self._panels: Panels | None = None
        self._bytes: _Bytes | None = None
        if compiled.native is not None:
            places = compiled.native.panel_places(compiled.level)
            one = np.array([0, self.nlist])
            self._panels = pack_panels(centroids, half, np.arange(self.nlist), one, places)
            # Without a centre only: the second look would need another copy less the centre.
            if compiled.level and centroids.size >= _BYTES_FROM and self._centre is None:
                self._bytes = _Bytes.of(centroids, self._panels.half)
            if self._centre is not None:
                centroids, half = centroids[:0], half[:0]  # only the panels are used
        self._centroids, self._half = centroids, half

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
        if self._centre is not None:
            q = q - self._centre
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
        by_bytes: tuple[Any, Any, Any] = (None, None, None)
        if len(q) == 1 and self._bytes is not None:
            by_bytes = self._centroids, self._bytes.packed, self._bytes.bounds

        native.nearest(
            compiled.level, self.d, k, self._similarity, threads, q, panels.packed, panels.half,
            *by_bytes, list_no, distance,
        )  # fmt: skip

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
    """Select by integer keys ordered as (value, column), so that ties go as in the kernel."""
    bits = np.where(np.isnan(scores), np.float32(np.nan), scores + np.float32(0)).view(np.uint32)
    bits ^= np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    keys = bits.astype(np.uint64) << np.uint64(32)
    keys |= np.arange(scores.shape[1], dtype=np.uint64)
    if k < scores.shape[1]:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    keys.sort(axis=1)
    index[:] = keys & np.uint64(0xFFFFFFFF)
    value[:] = np.take_along_axis(scores, index, axis=1)
