"""Which lists are worth a visit: the rule by hand, its limits, and independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teravec.kernels.metric import Metric
from teravec.search.probing import list_gaps, prune_lists, prune_weight, worth_visiting
from tests.conftest import clustered


def nearest(nq: int, n: int, metric: Metric, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Queries and the n nearest of 60 centroids: list numbers and distances, best first."""
    queries, centroids = clustered(nq, 8, seed + 1), clustered(60, 8, seed)
    if metric.larger_is_closer:
        values = -(queries @ centroids.T)
    else:
        values = ((queries[:, None] - centroids) ** 2).sum(2)
    order = np.argsort(values, axis=1)[:, :n]
    best = np.take_along_axis(values, order, 1)
    return queries, order, -best if metric.larger_is_closer else best


def test_the_rule_by_hand() -> None:
    gaps = np.array([[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0.5, 100]], np.float32)
    assert worth_visiting(gaps, 4, 0.0).all()
    # i * exp(gap) <= 4: 1, 2 e = 5.4 is too much; 1, 2, 3 e^0.5 = 4.9 is.
    assert worth_visiting(gaps, 4, 1.0).sum(1).tolist() == [4, 1, 2]
    assert worth_visiting(gaps, 6, 1.0).sum(1).tolist() == [4, 2, 3]


def test_gaps_are_differences_of_distances_or_of_unit_similarities() -> None:
    distances = np.array([[1, 3], [2, 2]], np.float32)
    queries = np.array([[3, 4], [0, 0]], np.float32)
    assert list_gaps(distances, queries, Metric.L2).tolist() == [[0, 2], [0, 0]]
    similarities = np.array([[10, 5], [0, 0]], np.float32)
    assert list_gaps(similarities, queries, Metric.IP).tolist() == [[0, 1], [0, 0]]


@given(
    metric=st.sampled_from(list(Metric)),
    nprobe=st.integers(1, 60),
    prune=st.floats(0, 10, width=32),
    seed=st.integers(0, 9),
)
def test_a_prefix_is_visited_that_depends_on_the_query_alone(
    metric: Metric, nprobe: int, prune: float, seed: int
) -> None:
    queries, list_nos, distances = nearest(7, nprobe, metric, seed)
    kept, values = prune_lists(list_nos, distances, queries, metric, prune)
    assert kept.shape == values.shape
    visited = (kept >= 0).sum(axis=1)
    assert (visited >= 1).all()
    assert visited.max() == kept.shape[1]  # no column is empty
    for row, count in enumerate(visited):
        np.testing.assert_array_equal(kept[row, :count], list_nos[row, :count])
        assert (kept[row, count:] == -1).all()
        alone, _ = prune_lists(
            list_nos[row : row + 1], distances[row : row + 1], queries[row : row + 1], metric, prune
        )
        assert alone.shape[1] == count
    if prune == 0:
        assert (visited == nprobe).all()


@given(seed=st.integers(0, 9), nprobe=st.integers(1, 59), prune=st.floats(0.01, 5))
def test_more_effort_visits_no_less(seed: int, nprobe: int, prune: float) -> None:
    queries, _, distances = nearest(9, 60, Metric.L2, seed)
    gaps = list_gaps(distances, queries, Metric.L2)
    less = worth_visiting(gaps, nprobe, prune)
    assert (less <= worth_visiting(gaps, nprobe + 1, prune)).all()
    assert (less <= worth_visiting(gaps, nprobe, prune / 2)).all()


def test_the_weight_is_the_inverse_of_a_typical_gap() -> None:
    gaps = np.tile(np.arange(40, dtype=np.float32), (3, 1))
    assert prune_weight(gaps) == pytest.approx(1.5 / 32)
    assert prune_weight(gaps[:, :11]) == pytest.approx(1.5 / 10)
    assert prune_weight(gaps[:, :1]) == 0
    assert prune_weight(np.zeros((3, 40), np.float32)) == 0
