"""Sums of products without any rounding, by BLAS, and so the same on every machine.

A product of matrices of whole numbers is exact in float64 as long as no sum exceeds ``2**53``. Then
neither the order of additions matters, nor fused operations, threads or kernels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["PRODUCT_ROWS", "sum_of_squares"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

PRODUCT_ROWS = 4096
"""Rows multiplied at a time, 2**12; each takes three times its size in float64."""

_BITS = 18  # of each half of a number: 2 * 18 + 12 is less than 53


def sum_of_squares(vectors: Float32) -> Float64:
    """Return the sum of each vector's outer product with itself, (d, d).

    A value is rounded to 36 bits of its column's largest in up to PRODUCT_ROWS rows. That is
    exact for a value of more than a 4,096th of the largest.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
        Finite.
    """
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(vectors), PRODUCT_ROWS):
        total += _sum_of_squares(vectors[start : start + PRODUCT_ROWS])
    return total


def _sum_of_squares(vectors: Float32) -> Float64:
    _, exponents = np.frexp(np.abs(vectors).max(axis=0))
    scales = np.ldexp(1.0, exponents - _BITS)
    high, low = _halves(vectors, scales)
    total: Float64 = (low.T @ low) * 2.0 ** (-2 * _BITS)
    middle = high.T @ low
    total += (middle + middle.T) * 2.0**-_BITS
    total += high.T @ high
    total *= scales
    total *= scales[:, None]
    return total


def _halves(vectors: Float32, scales: Float64) -> tuple[Float64, Float64]:
    """Return whole numbers h and l: vectors are ``(h + l / 2**18) * scales``, powers of two."""
    low = vectors * (1 / scales)
    high = np.rint(low)
    low -= high
    low *= 2.0**_BITS
    return high, np.rint(low, out=low)
