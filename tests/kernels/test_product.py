"""Affine maps: right, and the same for a row wherever it stands."""

from __future__ import annotations

import numpy as np
import pytest

from teravec.kernels.product import AffineMap


@pytest.mark.parametrize(("n", "d", "m"), [(0, 3, 3), (1, 1, 1), (7, 96, 96), (9000, 40, 17)])
def test_equals_float64(level: int, n: int, d: int, m: int) -> None:
    rng = np.random.default_rng(0)
    x, a = rng.standard_normal((n, d), np.float32), rng.standard_normal((m, d), np.float32)
    b = rng.standard_normal(m, np.float32)
    expected = x.astype(np.float64) @ a.T.astype(np.float64) + b
    found = AffineMap(a, b).apply(x, 2)
    assert found.dtype == np.float32
    assert found.shape == (n, m)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_see_its_block(level: int) -> None:
    if level < 0:
        pytest.skip("BLAS rounds a row by its place in the block")
    rng = np.random.default_rng(1)
    x, a = rng.standard_normal((9001, 40), np.float32), rng.standard_normal((33, 40), np.float32)
    mapped = AffineMap(a, np.ones(33, np.float32))
    whole = mapped.apply(x, 3)
    np.testing.assert_array_equal(mapped.apply(x[4321:8765], 1), whole[4321:8765])
    for row in (0, 5, 4091, 4092, 9000):
        np.testing.assert_array_equal(mapped.apply(x[row : row + 1], 1)[0], whole[row])
