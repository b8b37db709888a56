"""Exact neighbours: the given ground truth, and brute force in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teravec.bulk.results import read_neighbors
from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument, InvalidSource, MemoryLimitTooSmall, OutputExists
from teravec.evaluation.checkpoint import remove_checkpoint
from teravec.evaluation.groundtruth import groundtruth
from teravec.kernels.metric import Metric
from teravec.progress import Progress
from teravec.sources import open_source
from tests.conftest import RealSet, clustered
from tests.stopping import Stopped, StopsAfter


def run(
    path: Path,
    queries: np.ndarray,
    k: int,
    *,
    memory_bytes: int = 1 << 28,
    progress: Progress | None = None,
    sizes: BlockSizes = USUAL_SIZES,
    **options: Any,
) -> tuple:
    """Call groundtruth with what a test does not care for filled in; checkpoint every block."""
    resources = Resources(memory_bytes, 2, progress, sizes=sizes, checkpoint_s=0)
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
    options: dict = {"checkpoint": checkpoint, "memory_bytes": 7 << 20}
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


# ---------------------------------------------------------------------- beyond float32


def written(path: Path, vectors: np.ndarray) -> Path:
    if path.suffix == ".ivecs":
        prefix = np.full((len(vectors), 1), vectors.shape[1], "<i4")
        np.hstack([prefix, vectors.astype("<i4")]).tofile(path)
    elif path.suffix == ".parquet":
        rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        pq.write_table(pa.table({"v": rows}), path, row_group_size=100)
    else:
        np.save(path, vectors)
    return path


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("name", ["far.npy", "far.parquet", "whole.ivecs", "two places.npy"])
def test_vectors_that_float32_would_round_are_exact(
    name: str, metric: Metric, tmp_path: Path
) -> None:
    base, queries = clustered(700, 5).astype(float), clustered(9, 5, seed=1).astype(float)
    if name == "whole.ivecs":
        base, queries = (2.0**29 + np.rint(8 * x) for x in (base, queries))
    else:
        base, queries = base + 3e8, queries + 3e8
    if name == "two places.npy":
        base[::2] -= 6e8
    # For cosine float64 itself has few digits of such vectors left: they are compared as it does.
    path = written(tmp_path / name, base)
    distances, ids = run(path, queries, 12, metric=metric, memory_bytes=64 << 20)
    values = exact(base, queries, metric)
    order = np.array([np.lexsort((np.arange(700), row))[:12] for row in values])
    if metric is Metric.L2:
        np.testing.assert_array_equal(ids, order)
        np.testing.assert_array_equal(
            distances, np.take_along_axis(values, order, 1).astype(np.float32)
        )
    else:
        found = np.take_along_axis(values, ids, 1)
        slack = 1e-15 * 8 * np.abs(values).max()
        assert (found <= np.take_along_axis(values, order, 1) + slack).all()


def test_float64_queries_of_float32_vectors(tmp_path: Path) -> None:
    base = clustered(500, 3)
    queries = base[:20].astype(np.float64)
    queries[:, 0] += 1e-9  # nothing in float32
    distances, ids = run(written(tmp_path / "x.npy", base), queries, 1)
    np.testing.assert_array_equal(ids[:, 0], np.arange(20))
    np.testing.assert_allclose(distances[:, 0], 1e-18, rtol=1e-3)


def test_cosine_of_any_float64(tmp_path: Path) -> None:
    base = clustered(400, 6).astype(float)
    _, wanted = run(written(tmp_path / "x.npy", base), base[:9], 8, metric=Metric.COSINE)
    for number, factor in enumerate((1e-180, 1e-300, 1e30)):
        scaled = written(tmp_path / f"{number}.npy", base * factor)
        _, ids = run(scaled, base[:9] * factor, 8, metric=Metric.COSINE)
        np.testing.assert_array_equal(ids, wanted)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize("size", [3e-24, 1e-30, 1e-170, 4e22])
def test_distances_beyond_float32_are_refused(size: float, metric: Metric, tmp_path: Path) -> None:
    base = clustered(300, 4).astype(float) * size
    with pytest.raises(InvalidSource, match=r"query \d+ .*scale"):
        run(written(tmp_path / "x.npy", base), base[:5], 3, metric=metric)


def test_equal_vectors_and_a_few_tiny_ones_are_not_refused(tmp_path: Path) -> None:
    base = clustered(300, 4)
    base[:100] = 0
    base[100:120] *= np.float32(1e-30)
    _, ids = run(written(tmp_path / "x.npy", base), base[98:140], 1)
    assert ids[:2, 0].tolist() == [0, 0]
    np.testing.assert_array_equal(ids[2:, 0], np.arange(100, 140))
    distances, _ = run(written(tmp_path / "y.npy", np.ones((50, 3))), np.ones((4, 3)), 5)
    assert not distances.any()


def test_whole_numbers_beyond_float64_are_refused_by_row(tmp_path: Path) -> None:
    base = np.arange(40, dtype=np.int64).reshape(20, 2)
    with pytest.raises(InvalidArgument, match=r"query 3 .*2\^53"):
        run(
            written(tmp_path / "x.npy", base.astype(float)), np.where(base == 7, 2**53 + 1, base), 1
        )


def test_a_checkpoint_of_rounded_vectors_is_another(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state"
    options: dict[str, Any] = {
        "checkpoint": checkpoint,
        "sizes": BlockSizes(truth_block_bytes=1 << 10),
    }
    base, queries = clustered(2000, 6).astype(float), clustered(4, 6, seed=1)
    run(written(tmp_path / "x.npy", base), queries, 3, **options)
    state = json.loads((checkpoint / "state.json").read_text())
    assert "float64" in state["arithmetic"]
    remove_checkpoint(checkpoint)
    run(written(tmp_path / "y.npy", base.astype(np.float32)), queries, 3, **options)
    assert "arithmetic" not in json.loads((checkpoint / "state.json").read_text())
