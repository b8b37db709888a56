"""Rotations and eigenvectors: as LAPACK's, and the same bits at every level and in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from teravec.kernels.exact_products import PRODUCT_ROWS, sum_of_squares
from teravec.kernels.orthogonal import orthogonal_of, principal_directions
from teravec.native import extensions as compiled

LEVELS = [-1] if compiled.linear is None else [-1, *range(compiled.native.best_level() + 1)]


def use(patch: pytest.MonkeyPatch, level: int) -> None:
    if level < 0:
        patch.setattr(compiled, "linear", None)
    else:
        patch.setattr(compiled, "level", level)


def covariance_of(d: int, *, equal: bool) -> np.ndarray:
    """A covariance with eigenvalues over four powers of ten; ``equal``: several are the same."""
    rng = np.random.default_rng(d)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    values = 10.0 ** rng.uniform(-2, 2, d)
    if equal:
        values[d // 3 :] = values[0]
    found = np.asarray((axes * values) @ axes.T)
    return np.asarray((found + found.T) / 2)


@pytest.mark.parametrize("d", [1, 2, 3, 31, 32, 33, 100])
def test_the_factor_is_that_of_qr(d: int) -> None:
    matrix = np.random.default_rng(d).standard_normal((d, d))
    found = orthogonal_of(matrix)
    q, r = np.linalg.qr(matrix)
    np.testing.assert_allclose(found, q * np.sign(np.diag(r)), atol=1e-12)
    np.testing.assert_allclose(found @ found.T, np.eye(d), atol=1e-13)


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3, 33, 100])
def test_directions_are_eigenvectors(d: int, equal: bool) -> None:
    covariance = covariance_of(d, equal=equal)
    count = max(1, d // 2)
    found = principal_directions(covariance.copy(), count)
    values = np.linalg.eigvalsh(covariance)[::-1][:count]
    np.testing.assert_allclose(found @ found.T, np.eye(count), atol=1e-12)
    np.testing.assert_allclose(found @ covariance, values[:, None] * found, atol=1e-10)
    assert (found[np.arange(count), np.abs(found).argmax(1)] > 0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-70, 1e70])
def test_constant_dimensions_and_extreme_scales(scale: float) -> None:
    covariance = covariance_of(20, equal=False) * scale
    covariance[5] = covariance[:, 5] = 0
    found = principal_directions(covariance.copy(), 20)
    np.testing.assert_allclose(found @ found.T, np.eye(20), atol=1e-12)
    apart = found @ covariance @ found.T
    np.testing.assert_allclose(apart, np.diag(np.diag(apart)), atol=1e-12 * np.abs(apart).max())


@pytest.mark.parametrize("d", [1, 2, 5, 40, 129])
def test_every_level_gives_the_same_bits(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, covariance = (
        np.random.default_rng(1).standard_normal((d, d)),
        covariance_of(d, equal=d > 5),
    )
    found = set()
    for level in LEVELS:
        with monkeypatch.context() as patch:
            use(patch, level)
            directions = principal_directions(covariance.copy(), d)
            found.add((orthogonal_of(matrix).tobytes(), directions.tobytes()))
    assert len(found) == 1


@pytest.mark.parametrize("n", [1, 100, PRODUCT_ROWS + 3])
def test_sums_of_squares_have_no_order(n: int) -> None:
    rng = np.random.default_rng(n)
    x = (rng.standard_normal((n, 9)) * 10.0 ** np.arange(-6, 3)).astype(np.float32)
    x[:, 4] = 0
    found, wide = sum_of_squares(x), x.astype(np.float64)
    scale = np.sqrt(np.outer((wide**2).sum(0), (wide**2).sum(0)))
    assert (np.abs(found - wide.T @ wide) <= 1e-9 * scale).all()
    if n <= PRODUCT_ROWS:
        mixed = rng.permutation(n)
        np.testing.assert_array_equal(sum_of_squares(x[mixed]), found)


@pytest.mark.skipif(compiled.linear is None, reason="needs the compiled kernels")
def test_bad_arguments() -> None:
    linear, square, row = compiled.linear, np.zeros((4, 4)), np.zeros(4)
    strip = np.zeros((4, 32))
    for first, last, shift in ((-1, 2, 0), (0, 5, 0), (3, 2, 0), (0, 1, -1)):
        with pytest.raises(ValueError, match="vectors"):
            linear.reflect(0, 4, first, last, shift, False, square, strip)
    with pytest.raises(ValueError, match="strip"):
        linear.reflect(0, 4, 0, 4, 0, False, square, strip[:3].copy())
    for start in (-1, 5):
        with pytest.raises(ValueError, match="start"):
            linear.deflate(0, 4, start, square, row, row)
        with pytest.raises(ValueError, match="start"):
            linear.product(0, 4, start, square, row, row)
    with pytest.raises(ValueError, match="v has"):
        linear.product(0, 4, 0, square, row[:3].copy(), row)
    with pytest.raises(ValueError, match="beside"):
        linear.solve(0, row, row[:3].copy(), square)
    with pytest.raises(ValueError, match="rows"):
        linear.solve(0, row, row, strip)
