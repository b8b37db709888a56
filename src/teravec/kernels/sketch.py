"""Sketches: short codes of residuals, from which a distance is estimated within a bound.

A sketch of ``bits`` a dimension holds a point y of a grid that points like the residual
``r = x - c``, and two factors, ``f = |r|^2 / <y, r>`` and ``n = |r|^2``. Then
``<r, v> ~ f <y, v>`` for any v, without bias over random rotations, and

- l2: ``|q - x|^2 ~ |q - c|^2 + n - 2 f <y, q - c>``
- inner product: ``<q, x> ~ <q, c> + f <y, q>``

``f y`` is r plus a part at right angles to it, of squared length ``f^2 |y|^2 - n``, whose
direction is random. So the error of ``f <y, v>`` has a standard deviation of
``|v| sqrt((f^2 |y|^2 - n) / (d - 1))``, and the bound given is ``EPSILON`` times that.

A view v is rounded to 8 bits a dimension, by its largest value, so that products are of whole
numbers, and sums the same in any order. Of a rotated v of 96 dimensions, that adds a 2,000th to the
variance of the error with 2 bits, and less with 1.

With 1 bit, y is the sign of r in every dimension. With 2 bits, y has values of -3/2, -1/2,
1/2 and 3/2, and is the one of all such grid points whose angle to r is least, found by
sorting: the m dimensions of the largest |r_i| take 3/2, for the best m.

References
----------
Gao, Long, RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for
Approximate Nearest Neighbor Search, 2024.
Gao, Gou, Xu, Yang, Long, Wong, Practical and Asymptotically Optimal Quantization of
High-Dimensional Vectors in Euclidean Space for Approximate Nearest Neighbor Search, 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.kernels.blocks import over_blocks
from teravec.kernels.lists_in_memory import PLACE_BITS, ListsInMemory
from teravec.kernels.metric import Metric
from teravec.kernels.pairs import Pairs
from teravec.native import extensions as compiled
from teravec.native import refining
from teravec.native.extensions import either

__all__ = [
    "CANDIDATE",
    "EPSILON",
    "PRUNING",
    "Candidates",
    "SketchScanner",
    "encode_sketches",
    "sketch_size",
]

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

EPSILON = 1.9
"""Standard deviations of a bound: RaBitQ's epsilon_0, which fails once in 35 on either side."""

PRUNING = 1.2
"""Standard deviations by which a candidate's estimate is lowered, and the k-th best's raised.

Measured on synthetic vectors (1,000,000 x 96, 512 lists, k = 10, 2 bits, 300 candidates): 1.0
leaves 38 codes to refine and costs 0.001 of recall, 1.5 leaves 75 and costs less than 0.0005,
1.9 leaves 114.
"""

CANDIDATE = np.dtype([("estimate", "<f4"), ("error", "<f4"), ("place", "<i8")])
"""An entry of ``Candidates``. Lower estimates are closer: similarities are negated."""

_FACTOR_BYTES = 4
_ENCODE_ROWS = 1 << 12


def sketch_size(d: int, bits: int) -> int:
    """Bytes of a sketch of d dimensions."""
    return bits * -(-d // 8) + _FACTOR_BYTES


# ---------------------------------------------------------------------- encoding


def encode_sketches(residuals: Float32, bits: int, threads: int) -> Bytes:
    """Sketches of residuals.

    A row's sketch depends on the row alone.

    Parameters
    ----------
    residuals : ndarray of shape (n, d), float32
        In a randomly rotated space.
    bits : {1, 2}
        A dimension.
    threads : int

    Returns
    -------
    ndarray of shape (n, sketch_size(d, bits)), uint8
        Planes of bits, the lowest first; then f and n, 16 bits each.
    """
    n, d = residuals.shape
    codes = np.empty((n, sketch_size(d, bits)), np.uint8)

    def block(start: int, stop: int) -> None:
        _encode(residuals[start:stop], bits, codes[start:stop])

    over_blocks(block, n, rows=_ENCODE_ROWS, threads=threads, even=True)
    return codes


def _encode(residuals: Float32, bits: int, codes: Bytes) -> None:
    d, size = residuals.shape[1], np.abs(residuals)
    planes = [residuals >= 0]
    if bits == 2:
        # u is 0, 1, 2, 3 for y of -3/2 to 3/2: the high bit is the sign, the low bit is that
        # bit where |y| is 3/2, and its opposite where |y| is 1/2.
        sign = planes[0]
        planes = [sign == (size >= _threshold(size)[:, None]), sign]
    grid = sum((np.float32(2**j) * p for j, p in enumerate(planes)), np.float32(0.5 - 2**bits / 2))
    product = np.einsum("ij,ij->i", grid, residuals, dtype=np.float64)
    square = np.einsum("ij,ij->i", residuals, residuals, dtype=np.float64)
    factor = np.divide(square, product, out=np.zeros_like(square), where=product > 0)
    width = -(-d // 8)
    for j, plane in enumerate(planes):
        codes[:, j * width : (j + 1) * width] = np.packbits(plane, axis=1, bitorder="little")
    factors = np.stack([_packed(factor), _packed(square)], axis=1)
    codes[:, -_FACTOR_BYTES:] = factors.view(np.uint8)


def _threshold(size: Float32) -> Float32:
    """The least |r_i| of each row that takes 3/2, so that the angle of y and r is least.

    Raising the m largest from 1/2 to 3/2 gives a product of sum(|r|) / 2 + (sum of the m
    largest), and a squared length of d / 4 + 2 m; the best m is the one of the best ratio.
    """
    largest = -np.sort(-size, axis=1)
    raised = np.cumsum(largest, axis=1, dtype=np.float64)
    length = 0.25 * size.shape[1] + 2.0 * np.arange(1, size.shape[1] + 1)
    cosine = (0.5 * raised[:, -1:] + raised) / np.sqrt(length)
    best = cosine.argmax(axis=1)
    threshold = np.take_along_axis(largest, best[:, None], axis=1)[:, 0]
    none = 0.5 * raised[:, -1] / np.sqrt(0.25 * size.shape[1]) >= cosine.max(axis=1)
    return np.where(none, np.float32(np.inf), threshold).astype(np.float32)


def _packed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Positive numbers as the upper 16 of float32's 31 bits without sign, rounded.

    Eight bits of exponent and eight of mantissa: an error of at most 0.2 %, with the whole
    range of float32.
    """
    bits = np.minimum(values, np.finfo(np.float32).max / 2).astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 14)) >> np.uint32(15)).astype(np.uint16)


def _unpacked(packed: npt.NDArray[np.uint16]) -> Float32:
    return (packed.astype(np.uint32) << np.uint32(15)).view(np.float32)


# ---------------------------------------------------------------------- scanning


@dataclass(frozen=True)
class Candidates:
    """The ``capacity`` vectors of lowest estimate found so far, for each of some queries.

    Parameters
    ----------
    room : ndarray of shape (nq, 2 * capacity), CANDIDATE
        The first ``counts[i]`` of row i are filled, in no order; a scan uses the rest.
    counts : ndarray of shape (nq,), int64
        At most capacity.
    limits : ndarray of shape (nq,), float32
        Greatest estimate that may still enter.
    """

    room: npt.NDArray[Any]
    counts: Int64
    limits: Float32

    @classmethod
    def none(cls, nq: int, capacity: int) -> Candidates:
        """Nothing found yet."""
        room = np.empty((nq, 2 * capacity), CANDIDATE)
        return cls(room, np.zeros(nq, np.int64), np.full(nq, np.inf, np.float32))

    @property
    def capacity(self) -> int:
        """Most candidates of a query."""
        return int(self.room.shape[1]) // 2

    @property
    def entries(self) -> npt.NDArray[Any]:
        """A view of the places for candidates, (nq, capacity)."""
        return self.room[:, : self.capacity]

    def worth_refining(self, k: int) -> tuple[Int64, Int64]:
        """Queries and places of candidates that may be among the k nearest, as two arrays.

        Those whose lower bound is at most the k-th smallest upper bound, where both lie
        ``PRUNING`` standard deviations from the estimate.
        """
        return refining.choose(k, np.float32(PRUNING / EPSILON), self.room, self.counts)

    def every(self) -> tuple[Int64, Int64]:
        """Queries and places of all candidates, as two arrays."""
        queries, at = np.nonzero(np.arange(self.capacity) < self.counts[:, None])
        return np.ascontiguousarray(queries), self.entries["place"][queries, at]


class SketchScanner:
    """Scans sketches of lists in memory for many queries at once.

    What it finds for a query depends on that query and its lists, not on the others, the
    order of the lists or the threads.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
    bits : {1, 2}
    metric : Metric
    """

    def __init__(self, centroids: Float32, bits: int, metric: Metric) -> None:
        self._centroids = centroids
        self._bits, self._similarity = bits, metric.larger_is_closer
        self._size = sketch_size(centroids.shape[1], bits)

    def _scan_compiled(
        self, queries: Float32, lists: ListsInMemory, pairs: Pairs, candidates: Candidates,
        threads: int,
    ) -> None:  # fmt: skip
        """Put into ``candidates`` what the lists have of lower estimate.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), float32
        lists : ListsInMemory
        pairs : Pairs
            Of the same lists, with the queries that want them.
        candidates : Candidates
            Of the same queries.
        threads : int
        """
        compiled.sketching.scan(
            compiled.level, queries.shape[1], self._bits, self._similarity, EPSILON,
            candidates.capacity, threads, lists.row_start, np.ascontiguousarray(queries),
            self._centroids, pairs.starts, pairs.queries, pairs.nearest, pairs.distances,
            lists.list_nos, lists.sizes, lists.offsets, lists.buffer,
            candidates.room.view(np.uint8), candidates.counts, candidates.limits,
        )  # fmt: skip

    def _scan_in_numpy(
        self, queries: Float32, lists: ListsInMemory, pairs: Pairs, candidates: Candidates,
        threads: int,
    ) -> None:  # fmt: skip
        entries, counts = candidates.entries, candidates.counts
        capacity = entries.shape[1]
        for i, position, distance in zip(*_columns(pairs), strict=True):
            codes, list_no = self._codes(lists, position), lists.list_nos[position]
            new = np.empty(len(codes), CANDIDATE)
            new["estimate"], new["error"] = self.estimates(queries[i], list_no, distance, codes)
            new["place"] = (int(list_no) << PLACE_BITS) + lists.row_start + np.arange(len(codes))
            both = np.concatenate([entries[i, : counts[i]], new])
            kept = both[np.lexsort((both["place"], both["estimate"]))[:capacity]]
            counts[i] = len(kept)
            entries[i, : len(kept)] = kept

    scan = either("sketching", _scan_compiled, _scan_in_numpy)

    def within(
        self, queries: Float32, lists: ListsInMemory, pairs: Pairs, radius: float, threads: int
    ) -> tuple[Int64, Int64]:
        """Queries and places of all vectors whose lower bound is within the radius.

        Parameters as for ``scan``; ``radius`` in the index's metric.
        """
        query, at, coarse = _columns(pairs)
        limit = -radius if self._similarity else radius
        found: list[tuple[Int64, Int64]] = [(query[:0], at[:0])] * len(query)

        def block(start: int, stop: int) -> None:
            for i in range(start, stop):
                codes = self._codes(lists, at[i])
                list_no = lists.list_nos[at[i]]
                estimate, error = self.estimates(queries[query[i]], list_no, coarse[i], codes)
                rows = np.flatnonzero(estimate - error < limit)
                places = (int(list_no) << PLACE_BITS) + lists.row_start + rows
                found[i] = np.full(len(rows), query[i]), places

        rows = max(1, -(-len(query) // (4 * max(1, threads))))
        over_blocks(block, len(query), rows=rows, threads=threads, even=False)
        owners, places = zip(*found, strict=True) if found else ([query], [at])
        return np.concatenate(owners), np.concatenate(places)

    def _estimates_compiled(
        self, query: Float32, list_no: int, distance: float, codes: Bytes
    ) -> tuple[Float32, Float32]:
        """Estimates and their error bounds, for one query and sketches of one list.

        Parameters
        ----------
        query : ndarray of shape (d,), float32
        list_no : int
        distance : float
            Of the query to the list's centroid, in the index's metric.
        codes : ndarray of shape (n, sketch_size), uint8

        Returns
        -------
        estimate, error : ndarray of shape (n,), float32
            Lower is closer: similarities are negated.
        """
        estimate, error = np.empty(len(codes), np.float32), np.empty(len(codes), np.float32)
        compiled.sketching.estimates(
            compiled.level, len(query), self._bits, self._similarity, EPSILON, float(distance),
            np.ascontiguousarray(query), self._centroids[list_no], codes, estimate, error,
        )  # fmt: skip
        return estimate, error

    def _estimates_in_numpy(
        self, query: Float32, list_no: int, distance: float, codes: Bytes
    ) -> tuple[Float32, Float32]:
        d, bits = len(query), self._bits
        view = query if self._similarity else query - self._centroids[list_no]
        values, unit = _in_8_bits(view)
        planes = codes[:, :-_FACTOR_BYTES].reshape(len(codes), bits, -(-d // 8))
        ones = np.unpackbits(planes, axis=2, count=d, bitorder="little")
        weights = (2.0 ** np.arange(bits)).astype(np.float32)
        grid = np.einsum("nbd,b->nd", ones, weights) + np.float32(0.5 - 2**bits / 2)
        dots = np.einsum("nd,d->n", grid, values, dtype=np.float64).astype(np.float32)
        factors = np.ascontiguousarray(codes[:, -_FACTOR_BYTES:]).view("<u2")
        f, n = _unpacked(factors[:, 0]), _unpacked(factors[:, 1])
        product = f * unit * dots
        missed = f.astype(np.float64) ** 2 * np.einsum("nd,nd->n", grid, grid) - n
        deviation = np.sqrt(np.maximum(missed, 0) / max(1, d - 1))
        bound = EPSILON * np.linalg.norm(view.astype(np.float64)) * deviation
        if self._similarity:
            return -(np.float32(distance) + product), bound.astype(np.float32)
        return np.float32(distance) + n - 2 * product, (2 * bound).astype(np.float32)

    estimates = either("sketching", _estimates_compiled, _estimates_in_numpy)

    def _codes(self, lists: ListsInMemory, at: int) -> Bytes:
        start, size = int(lists.offsets[at]), int(lists.sizes[at])
        return lists.buffer[start : start + size * self._size].reshape(size, self._size)


def _in_8_bits(view: Float32) -> tuple[Float32, np.float32]:
    """Whole numbers of -127 to 127, and the unit by which they are about a view (d,)."""
    unit = np.float32(np.abs(view).max(initial=0)) / np.float32(127)
    inverse = np.float32(1) / unit if unit > 0 else np.float32(0)
    if not np.isfinite(inverse):
        inverse = np.float32(0)
    return np.rint(view * inverse), unit


def _columns(pairs: Pairs) -> tuple[Int64, Int64, Float32]:
    """Query, position of the list and distance of each pair."""
    at = np.repeat(np.arange(len(pairs.list_nos)), pairs.counts)
    return pairs.queries.astype(np.int64), at, pairs.distances
