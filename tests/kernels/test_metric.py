"""Vectors scaled to unit length, and how long the longest is."""

from __future__ import annotations

import numpy as np
import pytest

from teravec.kernels.metric import longest_square, normalized


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


def test_the_longest_of_rows() -> None:
    vectors = np.array([[3, 4, 0, 0, 1], [0, 0, 1e19, 0, 0], [0, 0, 0, 0, 0]], np.float32)
    squares = np.square(vectors.astype(np.float64)).sum(1)
    assert longest_square(vectors) == squares.max()
    assert longest_square(vectors[::2]) == 26
    assert longest_square(vectors[:0]) == 0
    moved = np.frombuffer(b"." + vectors.tobytes(), np.uint8)[1:].view(np.float32).reshape(3, 5)
    assert longest_square(moved) == squares.max()  # at no float's boundary
    assert longest_square(moved[:0]) == 0
    assert longest_square(np.full((1, 5), np.finfo(np.float32).max, np.float32)) < np.inf
    for wrong in (np.nan, np.inf, -np.inf):
        for row in range(3):
            vectors[row, 4], before = wrong, vectors[row, 4]
            assert longest_square(vectors) == np.inf
            vectors[row, 4] = before
