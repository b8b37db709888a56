"""Centroids far from the origin: assignment and coarse search, at every level and on NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from teravec.kernels.assignment import CentroidAssigner
from teravec.kernels.centre import common_centre
from teravec.kernels.metric import Metric
from teravec.kernels.nearest import ExactQuantizer
from teravec.native import extensions as compiled
from tests.kernels.test_assignment import clustered

D = 24
RNG = np.random.default_rng(3)
OFFSETS = {
    "all": np.full(D, 3e4),
    "one": np.eye(D)[5] * 2e5,
    "each another": RNG.uniform(-1e5, 1e5, D),
    "at float32's own end": np.full(D, 8e5),
}


def far(offset: np.ndarray, nlist: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, centroids, and squared distances in float64 of the two as float32 has them."""
    x = (clustered(1500, D, 1) + offset).astype(np.float32)
    centroids = (clustered(nlist, D, 2) + offset).astype(np.float32)
    wide = (x.astype(np.float64) - offset, centroids.astype(np.float64) - offset)
    return x, centroids, ((wide[0][:, None] - wide[1]) ** 2).sum(-1)


@pytest.mark.parametrize("name", list(OFFSETS))
def test_assignment_is_that_of_the_spread(level: int, name: str) -> None:
    x, centroids, true = far(OFFSETS[name], 300)
    nearest = true.argmin(1)
    exact = CentroidAssigner.exact(centroids)
    auto = CentroidAssigner.auto(centroids, x, seed=1, threads=2)
    grouped = CentroidAssigner.grouped(centroids, seed=1, threads=2, probes=12)
    for assigner, share in ((exact, 0.999), (auto, 0.99), (grouped, 0.95)):
        lists, distances = assigner.assign(x, threads=2)
        assert (lists == nearest).mean() >= share
        same = lists == nearest
        np.testing.assert_allclose(distances[same], true.min(1)[same], rtol=2e-3)


@pytest.mark.parametrize("name", list(OFFSETS))
def test_queries_find_the_lists_of_the_spread(level: int, name: str) -> None:
    x, centroids, true = far(OFFSETS[name], 300)
    quantizer = ExactQuantizer(centroids, Metric.L2)
    lists, distances = quantizer.search(x, 10, threads=2)
    order = np.argsort(true, axis=1)[:, :10]
    assert (lists == order).mean() > 0.999
    np.testing.assert_allclose(distances, np.take_along_axis(true, lists, 1), rtol=2e-3)
    alone = [quantizer.search(row[None], 10, threads=1)[0][0] for row in x[:50]]
    assert (np.array(alone) == order[:50]).mean() > 0.999


def test_one_query_among_many_numbers_of_centroids() -> None:
    # Where centroids are kept as bytes too, far ones are not.
    x, centroids, true = far(OFFSETS["each another"], 300)
    quantizer = ExactQuantizer(centroids, Metric.L2, bytes_from=1)
    for row, wanted in zip(x[:100], np.argsort(true[:100], axis=1)[:, :5], strict=True):
        assert set(quantizer.search(row[None], 5, threads=1)[0][0]) == set(wanted)


def test_ordinary_centroids_have_no_centre() -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((500, 32)).astype(np.float32)
    assert common_centre(normal) is None
    assert common_centre(rng.integers(0, 256, (500, 32)).astype(np.float32)) is None
    assert common_centre(normal + np.float32(10)) is None
    assert common_centre(normal[:1] + np.float32(1000)) is None  # one list: nothing to tell apart
    assert common_centre(np.ones((5, 3), np.float32)) is None
    centre = common_centre(normal + np.float32(1000))
    assert centre is not None
    np.testing.assert_allclose(centre, 1000, atol=0.2)


@pytest.mark.skipif(compiled.native is None, reason="installed without compiler")
def test_bytes_of_ordinary_results_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    x, centroids, _ = far(np.full(D, 12.0), 300)
    before = CentroidAssigner.exact(centroids).assign(x, threads=1)
    monkeypatch.setattr("teravec.kernels.assignment.common_centre", lambda _: None)
    after = CentroidAssigner.exact(centroids).assign(x, threads=1)
    for one, other in zip(before, after, strict=True):
        assert one.tobytes() == other.tobytes()
