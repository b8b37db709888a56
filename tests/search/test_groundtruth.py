"""Exact neighbours: the given ground truth, and brute force in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teravec.engines.resources import Resources
from teravec.errors import MemoryLimitTooSmall, OutputExists
from teravec.kernels.metric import Metric
from teravec.progress import Progress
from teravec.search.checkpoint import remove_checkpoint
from teravec.search.groundtruth import groundtruth
from teravec.search.results import read_neighbors
from teravec.sources import open_source
from tests.conftest import RealSet, clustered
from tests.stopping import Stopped, StopsAfter


def run(
    path: Path, queries: np.ndarray, k: int, *, memory_bytes: int = 1 << 28,
    progress: Progress | None = None, **options: Any,
) -> tuple:  # fmt: skip
    """Call groundtruth with what a test does not care for filled in."""
    resources = Resources(memory_bytes, 2, progress)
    defaults = {"metric": Metric.L2, "resources": resources}
    return groundtruth(open_source(path), queries, k, **{**defaults, **options})


@pytest.mark.parametrize("name", ["sift", "minilm"])
def test_reproduces_the_given_truth(name: str, request: pytest.FixtureRequest) -> None:
    real: RealSet = request.getfixturevalue(name)
    truth = read_neighbors(real.truth)
    distances, ids = run(real.base, open_source(real.query).read(0, 300), 100)
    np.testing.assert_array_equal(ids, truth.ids[:300])
    np.testing.assert_array_equal(distances, truth.distances[:300])  # type: ignore[index]


def exact(base: np.ndarray, queries: np.ndarray, metric: Metric) -> np.ndarray:
    """Values that ascend from best to worst, float64 (nq, n)."""
    xb, xq = base.astype(np.float64), queries.astype(np.float64)
    if metric is Metric.L2:
        return np.asarray(((xq[:, None] - xb[None]) ** 2).sum(2))
    if metric is Metric.COSINE:
        xb = xb / np.linalg.norm(xb, axis=1, keepdims=True)
        xq = xq / np.linalg.norm(xq, axis=1, keepdims=True)
    return np.asarray(-(xq[:, None] * xb[None]).sum(2))


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", ["plain", "copies", "far away", "one dimension"])
def test_equals_brute_force(kind: str, metric: Metric, tmp_path: Path) -> None:
    base, queries = clustered(700, 6), clustered(9, 6, seed=1)
    if kind == "copies":
        base[100:500] = base[7]
    elif kind == "far away":  # tiny differences of huge vectors: float32 products are noise
        base, queries = base * 0.01 + 4096, queries * 0.01 + 4096
    elif kind == "one dimension":
        base, queries = base[:, :1].copy(), queries[:, :1].copy()
    np.save(tmp_path / "x.npy", base)
    values = exact(base, queries, metric)
    for k in (1, 20, 700):
        found, ids = run(tmp_path / "x.npy", queries, k, metric=metric)
        best = np.sort(values, axis=1)[:, :k]
        np.testing.assert_allclose(
            found if metric is Metric.L2 else -found, best, rtol=1e-5, atol=1e-6
        )
        # Equal values go by id, so the order is the one of a stable sort, rounding aside.
        mine = np.take_along_axis(values, ids, axis=1)
        np.testing.assert_allclose(mine, best, rtol=1e-12, atol=1e-13)
        assert all(len(set(row)) == k for row in ids.tolist())


def test_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", clustered(30_000, 8))
    queries, checkpoint = clustered(5, 8, seed=1), tmp_path / "gt.partial"
    expected = run(tmp_path / "x.npy", queries, 10)
    options: dict = {"checkpoint": checkpoint, "checkpoint_every_s": 0, "memory_bytes": 7 << 20}
    with pytest.raises(Stopped):
        run(tmp_path / "x.npy", queries, 10, progress=StopsAfter(units=15_000), **options)
    assert (checkpoint / "state.json").exists()
    with pytest.raises(OutputExists, match="another ground truth"):
        run(tmp_path / "x.npy", queries, 11, **options)
    # The rest alone is left: fewer rows are counted than there are.
    resumed = run(tmp_path / "x.npy", queries, 10, **options)
    for one, other in zip(resumed, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    remove_checkpoint(checkpoint)
    assert not checkpoint.exists()


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", clustered(1000, 8))
    with pytest.raises(MemoryLimitTooSmall, match="needs"):
        run(tmp_path / "x.npy", clustered(100, 8), 100, memory_bytes=10_000)
