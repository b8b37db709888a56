"""Vectors scaled to unit length."""

from __future__ import annotations

import numpy as np
import pytest

from teravec.kernels.metric import normalized


@pytest.mark.parametrize("length", [1e-43, 1e-39, 1e-20, 1.0, 1e20, 1e38])
def test_every_length_becomes_one(length: float) -> None:
    # 1 / length is infinite in float32 for vectors of denormals, and a denormal for the longest.
    vectors = np.random.default_rng(1).uniform(-1, 1, (20, 7)).astype(np.float32)
    scaled = (vectors * length).astype(np.float32)
    expected = scaled.astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(normalized(scaled), expected, rtol=1e-6)


def test_zeros_stay_zeros() -> None:
    vectors = np.array([[0, 0], [3, 4]], np.float32)
    np.testing.assert_array_equal(normalized(vectors), np.array([[0, 0], [0.6, 0.8]], np.float32))
