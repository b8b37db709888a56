"""Product quantizers: their training, and encoding by them, with the compiled kernels.

Faiss does both by BLAS products, whose rounding depends on the processor and the threads, and
picks the nearest centroid by sums whose order depends on the instruction set. Both are kept in an
index. The assigner of lists has no such dependence.

References
----------
Jegou, Douze, Schmid, Product Quantization for Nearest Neighbor Search, 2011.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from teravec.kernels.accumulation import accumulate
from teravec.kernels.assignment import CentroidAssigner

__all__ = ["ProductCodes", "train_product"]

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_ITERATIONS = 25  # as Faiss
_MOST_VECTORS = 256  # that train a centroid, as Faiss
_SEED = 1234
_ROWS = 4096  # encoded at a time


def train_product(
    residuals: Float32, m: int, bits: int, threads: int, advance: Callable[[int], None]
) -> Float32:
    """Train the centroids of a product quantizer by k-means in each part of the dimensions.

    Parameters
    ----------
    residuals : ndarray of shape (n, d), float32
        n is at least ``2**bits``, and d a multiple of m.
    m, bits : int
    threads : int
    advance : callable
        Called with 1 after each of the m parts.

    Returns
    -------
    ndarray of shape (m * 2**bits * d / m,), float32
    """
    rng = np.random.default_rng(_SEED)
    count, width = 1 << bits, residuals.shape[1] // m
    if len(residuals) > _MOST_VECTORS * count:
        some = rng.choice(len(residuals), _MOST_VECTORS * count, replace=False)
        residuals = residuals[np.sort(some)]
    trained = []
    for part in range(m):
        columns = np.ascontiguousarray(residuals[:, part * width : (part + 1) * width])
        first = np.sort(rng.choice(len(columns), count, replace=False))
        trained.append(_cluster(columns, columns[first], threads))
        advance(1)
    return np.concatenate(trained).ravel()


def _cluster(x: Float32, centroids: Float32, threads: int) -> Float32:
    for number in range(_ITERATIONS):
        nearest, distances = CentroidAssigner.exact(centroids).assign(x, threads=threads)
        sums, counts = np.zeros(centroids.shape), np.zeros(len(centroids), np.int64)
        accumulate(x, nearest, sums, counts, threads=threads)
        used = counts > 0
        centroids = centroids.copy()
        centroids[used] = (sums[used] / counts[used, None]).astype(np.float32)
        if number < _ITERATIONS - 1:
            _fill(centroids, np.flatnonzero(~used), x, distances)
    return centroids


def _fill(centroids: Float32, empty: npt.NDArray[np.int64], x: Float32, distances: Float32) -> None:
    """Move centroids without vectors to the vectors that are farthest from theirs."""
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    farthest = farthest[distances[farthest] > 0]
    centroids[empty[: len(farthest)]] = x[farthest]


class ProductCodes:
    """Encodes residuals by a trained product quantizer; a row's code depends on the row alone.

    Parameters
    ----------
    centroids : ndarray of shape (m, 2**bits, d / m), float32
    bits : int
    """

    def __init__(self, centroids: Float32, bits: int) -> None:
        self._centroids, self._bits = centroids, bits

    @cached_property
    def _assigners(self) -> list[CentroidAssigner]:
        return [CentroidAssigner.exact(part) for part in self._centroids]

    def encode(self, residuals: Float32, threads: int) -> Bytes:
        """Encode residuals (n, d) as Faiss packs them: the lowest bit first."""
        m, _, width = self._centroids.shape
        codes = np.empty((len(residuals), -(-m * self._bits // 8)), np.uint8)
        for start in range(0, len(residuals), _ROWS * threads):
            block = residuals[start : start + _ROWS * threads]
            numbers = np.empty((len(block), m), np.int32)
            for part, assigner in enumerate(self._assigners):
                columns = block[:, part * width : (part + 1) * width]
                numbers[:, part], _ = assigner.assign(columns, threads=threads)
            codes[start : start + len(block)] = self._packed(numbers)
        return codes

    def _packed(self, numbers: npt.NDArray[np.int32]) -> Bytes:
        if self._bits == 8:
            return numbers.astype(np.uint8)
        each = (numbers[:, :, None] >> np.arange(self._bits)) & 1
        return np.packbits(each.reshape(len(numbers), -1), axis=1, bitorder="little")
