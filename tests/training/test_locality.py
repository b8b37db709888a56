"""The order of lists: each once, near ones side by side, the same on any machine."""

from __future__ import annotations

import numpy as np
import pytest

from teravec.training.locality import locality_order


def _steps(centroids: np.ndarray, order: np.ndarray) -> float:
    """Mean distance from one list to the next, over that of two at random."""
    rng = np.random.default_rng(0)
    along = np.linalg.norm(np.diff(centroids[order], axis=0), axis=1).mean()
    pairs = centroids[rng.integers(0, len(centroids), (2, 2000))]
    return float(along / np.linalg.norm(pairs[0] - pairs[1], axis=1).mean())


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 1), (3, 5), (5, 2), (64, 8), (1001, 7)])
def test_each_once_and_always_the_same(n: int, d: int) -> None:
    centroids = np.random.default_rng(n).standard_normal((n, d), np.float32)
    order = locality_order(centroids)
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(locality_order(centroids.copy()), order)


def test_points_on_a_line_are_sorted() -> None:
    line = np.random.default_rng(1).permutation(500).astype(np.float32)
    order = locality_order(np.outer(line, [3, -1, 2]).astype(np.float32))
    assert np.diff(line[order]).tolist() in ([1] * 499, [-1] * 499)


def test_clusters_stay_together() -> None:
    rng = np.random.default_rng(2)
    cluster = rng.integers(0, 32, 2048)
    means = 10 * rng.standard_normal((32, 24))
    centroids = (means[cluster] + rng.standard_normal((2048, 24))).astype(np.float32)
    order = locality_order(centroids)
    assert np.count_nonzero(np.diff(cluster[order])) < 100  # 1,985 by chance
    assert _steps(centroids, order) < 0.25


def test_no_direction_differs() -> None:
    assert locality_order(np.ones((40, 6), np.float32)).tolist() == list(range(40))
    huge = np.full((9, 2), 1e30, np.float32)
    huge[::2] = -1e30
    assert np.count_nonzero(np.diff(huge[locality_order(huge), 0])) == 1
