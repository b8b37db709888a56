"""Sketches: short codes of residuals that estimate a distance within a bound.

A sketch of ``bits`` a dimension holds a grid point y whose direction is near that of the residual
``r = x - c``, and two factors, ``f = |r|^2 / <y, r>`` and ``n = |r|^2``. Then
``<r, v> ~ f <y, v>`` for any v, without bias over random rotations, and

- l2: ``|q - x|^2 ~ |q - c|^2 + n - 2 f <y, q - c>``
- inner product: ``<q, x> ~ <q, c> + f <y, q>``

``f y`` is r plus a vector at right angles to r, of squared length ``f^2 |y|^2 - n`` and random
direction. The error of ``f <y, v>`` therefore has the standard deviation
``|v| sqrt((f^2 |y|^2 - n) / (d - 1))``; the bound is ``EPSILON`` times that.

A view v is rounded to 8 bits a dimension, scaled by its largest value. Products are then whole
numbers, whose sums are the same in any order. For a rotated v of 96 dimensions, rounding adds a
2,000th to the variance of the error with 2 bits, and less with 1.

With 1 bit, y is the sign of r in every dimension. With 2 bits, y has values -3/2, -1/2, 1/2 and
3/2. It is the grid point with the smallest angle to r. Sorting finds it: the m dimensions with the
largest |r_i| take 3/2, for the best m.

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
from teravec.kernels.lists_in_memory import ListsInMemory
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
"""Standard deviations of a bound, RaBitQ's epsilon_0: it fails once in 35 times on either side."""

PRUNING = 1.2
"""Standard deviations between an estimate and its bounds when candidates are pruned.

A candidate is dropped if its lower bound is above the k-th smallest upper bound. Measured on
synthetic vectors (1,000,000 x 96, 512 lists, k = 10, 2 bits, 300 candidates): 1.0 leaves 38 codes
to refine and costs 0.001 of recall, 1.5 leaves 75 and costs less than 0.0005, 1.9 leaves 114.
"""

CANDIDATE = np.dtype([("estimate", "<f4"), ("error", "<f4"), ("place", "<i8")])
"""An entry of ``Candidates``. Lower estimates are closer: similarities are negated."""

_FACTOR_BYTES = 4
_ENCODE_ROWS = 1 << 12


def sketch_size(d: int, bits: int) -> int:
    """Return the bytes of a sketch of d dimensions."""
    return bits * -(-d // 8) + _FACTOR_BYTES


# ---------------------------------------------------------------------- encoding


def encode_sketches(residuals: Float32, bits: int, threads: int) -> Bytes:
    """Encode residuals as sketches; a row's sketch depends on the row alone.

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
    """Return the least |r_i| of each row that takes 3/2, so that the angle of y and r is least.

    If the m largest are raised from 1/2 to 3/2, the product is sum(|r|) / 2 plus the sum of the m
    largest, and the squared length is d / 4 + 2 m. The best m has the best ratio.
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
    """Round positive numbers to the upper 16 of float32's 31 bits without sign.

    With eight bits each of exponent and mantissa, the error is at most 0.2 % over the whole range
    of float32.
    """
    bits = np.minimum(values, np.finfo(np.float32).max / 2).astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 14)) >> np.uint32(15)).astype(np.uint16)


def _unpacked(packed: npt.NDArray[np.uint16]) -> Float32:
    return (packed.astype(np.uint32) << np.uint32(15)).view(np.float32)


# ---------------------------------------------------------------------- scanning


@dataclass(frozen=True)
class Candidates:
    """The ``capacity`` vectors with the lowest estimates so far, for each of some queries.

    Parameters
    ----------
    room : ndarray of shape (nq, 2 * capacity), CANDIDATE
        The first ``counts[i]`` entries of row i are filled, unordered; a scan uses the rest.
    counts : ndarray of shape (nq,), int64
        At most capacity.
    limits : ndarray of shape (nq,), float32
        Largest estimate that may still enter.
    """

    room: npt.NDArray[Any]
    counts: Int64
    limits: Float32

    @classmethod
    def none(cls, nq: int, capacity: int) -> Candidates:
        """Make empty candidates for nq queries."""
        room = np.empty((nq, 2 * capacity), CANDIDATE)
        return cls(room, np.zeros(nq, np.int64), np.full(nq, np.inf, np.float32))

    @property
    def capacity(self) -> int:
        """Most candidates per query."""
        return int(self.room.shape[1]) // 2

    @property
    def entries(self) -> npt.NDArray[Any]:
        """A view of the candidates' entries, (nq, capacity)."""
        return self.room[:, : self.capacity]

    def worth_refining(self, k: int) -> tuple[Int64, Int64]:
        """Return queries and places of candidates that may be among the k nearest, as two arrays.

        Their lower bound is at most the k-th smallest upper bound. Both bounds are ``PRUNING``
        standard deviations from the estimate.
        """
        return refining.choose(k, np.float32(PRUNING / EPSILON), self.room, self.counts)

    def every(self) -> tuple[Int64, Int64]:
        """Queries and places of all candidates, as two arrays."""
        queries, at = np.nonzero(np.arange(self.capacity) < self.counts[:, None])
        return np.ascontiguousarray(queries), self.entries["place"][queries, at]


class SketchScanner:
    """Scans sketches of lists in memory for many queries at once.

    A query's results depend on that query and its lists alone, not on other queries, the order of
    the lists or the threads.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
    bits : {1, 2}
    metric : Metric
    """

    def __init__(self, centroids: Float32, bits: int, metric: Metric) -> None:
        self._centroids = centroids
        self._bits, self._similarity = bits, metric.larger_is_closer
        self.code_size = sketch_size(centroids.shape[1], bits)

    def _scan_compiled(
        self,
        queries: Float32,
        lists: ListsInMemory,
        pairs: Pairs,
        candidates: Candidates,
        threads: int,
    ) -> None:
        """Add vectors of the lists with low enough estimates to ``candidates``.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), float32
        lists : ListsInMemory
        pairs : Pairs
            The queries that visit each entry of ``lists``.
        candidates : Candidates
            Candidates of the same queries.
        threads : int
        """
        compiled.sketching.scan(
            compiled.level,
            queries.shape[1],
            self._bits,
            self._similarity,
            EPSILON,
            candidates.capacity,
            threads,
            lists.row_start,
            np.ascontiguousarray(queries),
            self._centroids,
            pairs.starts,
            pairs.queries,
            pairs.nearest,
            pairs.distances,
            lists.list_nos,
            lists.sizes,
            lists.offsets,
            lists.buffer,
            candidates.room.view(np.uint8),
            candidates.counts,
            candidates.limits,
            *lists.kernel_arguments,
        )

    def _scan_in_numpy(
        self,
        queries: Float32,
        lists: ListsInMemory,
        pairs: Pairs,
        candidates: Candidates,
        threads: int,
    ) -> None:
        entries, counts = candidates.entries, candidates.counts
        capacity = entries.shape[1]
        for i, position, distance in zip(*_columns(pairs), strict=True):
            codes, rows = self._visible(lists, position)
            list_no, new = lists.list_nos[position], np.empty(len(codes), CANDIDATE)
            new["estimate"], new["error"] = self.estimates(queries[i], list_no, distance, codes)
            new["place"] = lists.places(position, rows)
            both = np.concatenate([entries[i, : counts[i]], new])
            kept = both[np.lexsort((both["place"], both["estimate"]))[:capacity]]
            counts[i] = len(kept)
            entries[i, : len(kept)] = kept

    scan = either("sketching", _scan_compiled, _scan_in_numpy)

    def within(
        self, queries: Float32, lists: ListsInMemory, pairs: Pairs, radius: float, threads: int
    ) -> tuple[Int64, Int64]:
        """Find queries and places of all vectors whose lower bound is within the radius.

        Parameters as for ``scan``; ``radius`` in the index's metric.
        """
        query, at, coarse = _columns(pairs)
        limit = -radius if self._similarity else radius
        found: list[tuple[Int64, Int64]] = [(query[:0], at[:0])] * len(query)

        def block(start: int, stop: int) -> None:
            for i in range(start, stop):
                codes, rows = self._visible(lists, at[i])
                list_no = lists.list_nos[at[i]]
                estimate, error = self.estimates(queries[query[i]], list_no, coarse[i], codes)
                rows = rows[estimate - error < limit]
                found[i] = np.full(len(rows), query[i]), lists.places(at[i], rows)

        rows = max(1, -(-len(query) // (4 * max(1, threads))))
        over_blocks(block, len(query), rows=rows, threads=threads, even=False)
        owners, places = zip(*found, strict=True) if found else ([query], [at])
        return np.concatenate(owners), np.concatenate(places)

    def _estimates_compiled(
        self, query: Float32, list_no: int, distance: float, codes: Bytes
    ) -> tuple[Float32, Float32]:
        """Compute estimates and their error bounds, for one query and sketches of one list.

        Parameters
        ----------
        query : ndarray of shape (d,), float32
        list_no : int
        distance : float
            The query's distance to the list's centroid, in the index's metric.
        codes : ndarray of shape (n, sketch_size), uint8

        Returns
        -------
        estimate, error : ndarray of shape (n,), float32
            Lower is closer: similarities are negated.
        """
        estimate, error = np.empty(len(codes), np.float32), np.empty(len(codes), np.float32)
        compiled.sketching.estimates(
            compiled.level,
            len(query),
            self._bits,
            self._similarity,
            EPSILON,
            float(distance),
            np.ascontiguousarray(query),
            self._centroids[list_no],
            codes,
            estimate,
            error,
        )
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

    def _visible(self, lists: ListsInMemory, entry: int) -> tuple[Bytes, Int64]:
        """Return the codes of an entry that may be found, and their rows in memory."""
        codes = lists.codes(entry, self.code_size)
        rows = lists.visible_rows(entry, 0, len(codes))
        return (codes, np.arange(len(codes))) if rows is None else (codes[rows], rows)


def _in_8_bits(view: Float32) -> tuple[Float32, np.float32]:
    """Round a view (d,) to whole numbers from -127 to 127; return them and their unit."""
    unit = np.float32(np.abs(view).max(initial=0)) / np.float32(127)
    inverse = np.float32(1) / unit if unit > 0 else np.float32(0)
    if not np.isfinite(inverse):
        inverse = np.float32(0)
    return np.rint(view * inverse), unit


def _columns(pairs: Pairs) -> tuple[Int64, Int64, Float32]:
    """Return query, position of the list, and distance of each pair."""
    at = np.repeat(np.arange(len(pairs.list_nos)), pairs.counts)
    return pairs.queries.astype(np.int64), at, pairs.distances
