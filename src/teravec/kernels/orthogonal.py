"""Rotations and eigenvectors in float64, with the same bits on every processor.

LAPACK's results depend on the processor's instruction set and on the number of threads. They
differ in the last bits of float64, and where eigenvalues are equal, as those of constant
dimensions are, in everything. Here every sum has a fixed order and no operation is fused, compiled
or in NumPy. Only additions, products, quotients and square roots occur, which IEEE 754 defines to
the bit.

References
----------
Golub, Van Loan, Matrix Computations, 4th edition, 2013, sections 5.2 (Householder's QR) and 8.3
(tridiagonal form and implicit QL).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import TeravecError
from teravec.native import extensions as compiled
from teravec.native.extensions import either

__all__ = ["orthogonal_of", "principal_directions"]

Float64 = npt.NDArray[np.float64]

_STRIP = 32  # columns that are worked on together; _linear.c has it too
_EPSILON = 2.0**-52
_MOST_SWEEPS = 60  # of one eigenvalue; two are usual


def orthogonal_of(matrix: Float64) -> Float64:
    """Return the orthogonal factor of a matrix (d, d), for a triangle of positive diagonal.

    Takes about 8 d^3 / 3 operations on one thread.
    """
    d = len(matrix)
    vectors, signs = np.zeros((d, d)), np.empty(d)
    for start in range(0, d, _STRIP):
        strip = _strip(matrix, start)
        _reflect(vectors, 0, start, 0, False, strip)
        for column in range(start, min(d, start + _STRIP)):
            vector, end = _reflector(strip[column:, column - start])
            vectors[column, column:], signs[column] = vector, np.copysign(1.0, end)
            _reflect(vectors, column, column + 1, 0, False, strip)
    return _reflected(vectors, 0, np.eye(d)) * signs


def principal_directions(covariance: Float64, count: int) -> Float64:
    """Return unit eigenvectors of the largest eigenvalues, (count, d), the largest first.

    The largest coordinate of each is positive. Takes about 10 d^3 operations on one thread.

    Parameters
    ----------
    covariance : ndarray of shape (d, d), float64
        Symmetric; overwritten.
    count : int
    """
    d = len(covariance)
    _, exponent = np.frexp(np.abs(covariance).max(initial=0))
    np.ldexp(covariance, -int(exponent), out=covariance)
    diagonal, beside = _tridiagonalize(covariance)
    rows = np.eye(d)
    if not _solve(diagonal, beside, rows):
        raise TeravecError(f"a PCA of {d} dimensions did not converge")
    first = np.argsort(-diagonal, kind="stable")[:count]
    directions: Float64 = _reflected(covariance, 1, rows[first].T).T
    largest = np.abs(directions).argmax(1)
    signs: Float64 = np.sign(directions[np.arange(count), largest])
    return directions * signs[:, None]


def _strip(matrix: Float64, start: int) -> Float64:
    """Copy some columns; zeros stand for columns after the last."""
    strip = np.zeros((len(matrix), _STRIP))
    columns = matrix[:, start : start + _STRIP]
    strip[:, : columns.shape[1]] = columns
    return strip


def _reflector(column: Float64) -> tuple[Float64, float]:
    """Return v of squared length 2, and a, such that I - v v' maps the column to (a, 0, ...)."""
    end = -np.copysign(_length(column), column[0])
    vector = column.copy()
    vector[0] -= end
    size = _length(vector)
    if size:
        vector *= np.sqrt(2.0) / size
    return vector, float(end)


def _length(vector: Float64) -> float:
    most = float(np.abs(vector).max(initial=0))
    return most * float(np.sqrt(np.square(vector / most).sum())) if most else 0.0


def _reflected(vectors: Float64, shift: int, matrix: Float64) -> Float64:
    """Apply the reflections of all vectors (d, d), the last first, to a matrix (d, n)."""
    d, out = len(vectors), np.empty(matrix.shape)
    for start in range(0, matrix.shape[1], _STRIP):
        strip = _strip(matrix, start)
        _reflect(vectors, 0, d, shift, True, strip)
        out[:, start : start + _STRIP] = strip[:, : matrix.shape[1] - start]
    return out


def _tridiagonalize(matrix: Float64) -> tuple[Float64, Float64]:
    """Return diagonal and numbers beside it, (d,), of a similar matrix; the last number is 0.

    The reflections' vectors replace the matrix. Vector k is zero up to dimension k.
    """
    d = len(matrix)
    diagonal, beside = np.zeros(d), np.zeros(d)
    v, w = np.zeros(d), np.zeros(d)
    for k in range(d):
        diagonal[k] = matrix[k, k]
        row = matrix[k, k + 1 :].copy()
        matrix[k] = 0
        if k == d - 2:
            beside[k] = row[0]
        if k >= d - 2 or not row.any():
            continue
        v[k + 1 :], beside[k] = _reflector(row)
        _product(matrix, k + 1, v, w)
        w[k + 1 :] -= 0.5 * (v[k + 1 :] * w[k + 1 :]).sum() * v[k + 1 :]
        _deflate(matrix, k + 1, v, w)
        matrix[k, k + 1 :] = v[k + 1 :]
    return diagonal, beside


# ---------------------------------------------------------------------- compiled, or in NumPy


def _reflect_compiled(
    vectors: Float64, first: int, last: int, shift: int, backward: bool, strip: Float64
) -> None:
    compiled.linear.reflect(
        compiled.level, len(strip), first, last, shift, backward, vectors, strip
    )


def _reflect_in_numpy(
    vectors: Float64, first: int, last: int, shift: int, backward: bool, strip: Float64
) -> None:
    order = range(first, last)
    for k in reversed(order) if backward else order:
        v, part = vectors[k, k + shift :, None], strip[k + shift :]
        part -= v * (v * part).sum(axis=0)


def _product_compiled(matrix: Float64, start: int, v: Float64, out: Float64) -> None:
    compiled.linear.product(compiled.level, len(v), start, matrix, v, out)


def _product_in_numpy(matrix: Float64, start: int, v: Float64, out: Float64) -> None:
    out[start:] = (v[start:, None] * matrix[start:, start:]).sum(axis=0)


def _deflate_compiled(matrix: Float64, start: int, v: Float64, w: Float64) -> None:
    compiled.linear.deflate(compiled.level, len(v), start, matrix, v, w)


def _deflate_in_numpy(matrix: Float64, start: int, v: Float64, w: Float64) -> None:
    v, w = v[start:], w[start:]
    matrix[start:, start:] -= v[:, None] * w + w[:, None] * v


def _solve_compiled(diagonal: Float64, beside: Float64, rows: Float64) -> bool:
    return bool(compiled.linear.solve(compiled.level, diagonal, beside, rows))


def _solve_in_numpy(diagonal: Float64, beside: Float64, rows: Float64) -> bool:
    """Find eigenvalues and eigenvectors of a tridiagonal matrix; see ``solve`` in _linear.c."""
    n, d, e = len(diagonal), diagonal.tolist(), beside.tolist()
    shifted = most = 0.0
    for low in range(n):
        most = max(most, abs(d[low]) + abs(e[low]))
        high = low
        while high + 1 < n and abs(e[high]) > _EPSILON * most:
            high += 1
        sweeps = 0
        while high > low and abs(e[low]) > _EPSILON * most:
            if sweeps == _MOST_SWEEPS:
                return False
            shifted += _sweep(d, e, low, high, rows)
            sweeps += 1
        d[low] += shifted
        e[low] = 0.0
    diagonal[:] = d
    return True


def _sweep(d: list[float], e: list[float], low: int, high: int, rows: Float64) -> float:
    """Do one sweep of QL with implicit shift over a block; return the shift."""
    before, half = d[low], (d[low + 1] - d[low]) / (2 * e[low])
    size = -_hypotenuse(half, 1.0) if half < 0 else _hypotenuse(half, 1.0)
    d[low], d[low + 1] = e[low] / (half + size), e[low] * (half + size)
    following, shift, ahead = d[low + 1], before - d[low], e[low + 1]
    for i in range(low + 2, len(d)):
        d[i] -= shift
    p, c, c2, c3, s, s2 = d[high], 1.0, 1.0, 1.0, 0.0, 0.0
    for i in range(high - 1, low - 1, -1):
        c3, c2, s2 = c2, c, s
        ce, cp, size = c * e[i], c * p, _hypotenuse(p, e[i])
        e[i + 1] = s * size
        s, c = (e[i] / size, p / size) if size > 0 else (0.0, 1.0)
        p = c * d[i] - s * ce
        d[i + 1] = cp + s * (c * ce + s * d[i])
        one, other = rows[i].copy(), rows[i + 1]
        rows[i], rows[i + 1] = c * one - s * other, s * one + c * other
    p = -s * s2 * c3 * ahead * e[low] / following
    e[low], d[low] = s * p, c * p
    return shift


def _hypotenuse(a: float, b: float) -> float:
    small, large = sorted((abs(a), abs(b)))
    ratio = small / large if large else 0.0
    return large * math.sqrt(1 + ratio * ratio)


_reflect: Any = either("linear", _reflect_compiled, _reflect_in_numpy)
_product: Any = either("linear", _product_compiled, _product_in_numpy)
_deflate: Any = either("linear", _deflate_compiled, _deflate_in_numpy)
_solve: Any = either("linear", _solve_compiled, _solve_in_numpy)
