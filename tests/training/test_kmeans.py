"""k-means: against Lloyd's iterations in float64; repairs, resumption, determinism."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.errors import CorruptFile, TeravecError
from teravec.model.list_sizes import imbalance
from teravec.progress import NoProgress, Progress
from teravec.training.kmeans import KMeansState, kmeans
from teravec.training.options import KMeansOptions
from teravec.training.schedule import count_assigned, pick_rows, stride_of
from teravec.training.training_set import TrainingSet
from teravec.training.weights import SampleWeights
from tests.conftest import clustered
from tests.stopping import Stopped, StopsAfter
from tests.storage.damage import flipped, truncated
from tests.training.sets import training_set

OPTIONS = KMeansOptions(nlist=20, niter=6, seed=3, spherical=False, threads=2)


def run(
    directory: Path,
    vectors: np.ndarray,
    options: KMeansOptions,
    progress: Progress | None = None,
    sizes: BlockSizes = USUAL_SIZES,
) -> KMeansState:
    trained = training_set(directory, vectors, sizes=sizes)
    return kmeans(trained, options, directory, progress or NoProgress())


def blocks_of(rows: int, d: int) -> BlockSizes:
    """Sizes for blocks of so many vectors."""
    return BlockSizes(training_block_bytes=4 * d * rows)


def unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms, norms, 1))


def squared(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    x, c = x.astype(np.float64), centroids.astype(np.float64)
    return np.asarray(((x[:, None] - c) ** 2).sum(-1))


def lloyd(
    all_x: np.ndarray,
    weights: np.ndarray,
    centroids: np.ndarray,
    options: KMeansOptions,
    block_rows: int,
) -> tuple[np.ndarray, list[float]]:
    """Lloyd's iterations in float64, on the schedule's vectors; no list may become empty."""
    centroids, history, n = centroids.astype(np.float64), [], len(all_x)
    spherical = options.spherical
    for number in range(options.niter):
        rows = np.concatenate(
            [
                np.arange(i, min(n, i + block_rows))[
                    pick_rows(options, n, number, i, min(n, i + block_rows))
                ]
                for i in range(0, n, block_rows)
            ]
        )
        assert len(rows) == count_assigned(options, n, number, block_rows)
        x, w = all_x[rows].astype(np.float64), weights[rows].astype(np.float64)
        distances = squared(x, centroids)
        lists = distances.argmin(1)
        history.append(float((w * distances.min(1)).sum()) * n / len(rows))
        members = [lists == i for i in range(len(centroids))]
        centroids = np.array([np.average(x[at], axis=0, weights=w[at]) for at in members])
        centroids = unit(centroids) if spherical else centroids
    return centroids, history


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize(("n", "d", "nlist"), [(2000, 8, 20), (1500, 3, 1), (3000, 33, 24)])
def test_equals_lloyd_in_float64(
    tmp_path: Path, spherical: bool, n: int, d: int, nlist: int
) -> None:
    sizes = blocks_of(300, d)
    x = clustered(n, d)
    x = unit(x).astype(np.float32) if spherical else x
    options = replace(OPTIONS, nlist=nlist, spherical=spherical)
    first = run(tmp_path / "first", x, replace(options, niter=0)).centroids
    assert {row.tobytes() for row in first} <= {row.tobytes() for row in x}
    state = run(tmp_path / "all", x, options, sizes=sizes)
    centroids, history = lloyd(x, np.ones(n), first, options, 300)
    assert [entry["empty"] for entry in state.history] == [0] * options.niter
    found = [entry["objective"] for entry in state.history]
    np.testing.assert_allclose(found, history, rtol=1e-4)
    scale = float(np.abs(centroids).max())
    np.testing.assert_allclose(state.centroids, centroids, rtol=1e-4, atol=1e-4 * scale)
    assert [entry["agreement"] for entry in state.history] == [1.0] * options.niter


def weighted(
    directory: Path, x: np.ndarray, weights: np.ndarray, sizes: BlockSizes = USUAL_SIZES
) -> TrainingSet:
    vectors = training_set(directory, x, sizes=sizes)
    path = directory / "weights.f32"
    weights.astype(np.float32).tofile(path)
    return replace(vectors, weights=SampleWeights(path, "of a test"))


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("niter", [2, 7])
def test_weights_equal_weighted_lloyd(tmp_path: Path, spherical: bool, niter: int) -> None:
    x = clustered(2000, 8)
    x = unit(x).astype(np.float32) if spherical else x
    weights = np.random.default_rng(1).exponential(size=2000).astype(np.float32)
    weights[::7] = 0
    options = replace(OPTIONS, niter=niter, spherical=spherical)
    first = run(tmp_path / "first", x, replace(options, niter=0)).centroids
    vectors = weighted(tmp_path / "all", x, weights, blocks_of(300, 8))
    state = kmeans(vectors, options, tmp_path / "all", NoProgress())
    centroids, history = lloyd(x, weights, first, options, 300)
    np.testing.assert_allclose([e["objective"] for e in state.history], history, rtol=1e-4)
    scale = float(np.abs(centroids).max())
    np.testing.assert_allclose(state.centroids, centroids, rtol=1e-4, atol=1e-4 * scale)
    plain = run(tmp_path / "plain", x, options)
    assert np.abs(plain.centroids - state.centroids).max() > 1e-2


def test_equal_weights_give_the_bytes_of_none(tmp_path: Path) -> None:
    x = clustered(3000, 8)
    plain = run(tmp_path / "plain", x, OPTIONS)
    vectors = weighted(tmp_path / "ones", x, np.ones(3000))
    state = kmeans(vectors, OPTIONS, tmp_path / "ones", NoProgress())
    assert state.centroids.tobytes() == plain.centroids.tobytes()
    assert state.history == plain.history


def test_a_list_without_weight_is_repaired(tmp_path: Path) -> None:
    """A few far vectors weigh nothing: no centroid stays with them."""
    x = clustered(2000, 8)
    x[:20] += 1e3
    weights = np.ones(2000)
    weights[:20] = 0
    options = replace(OPTIONS, nlist=200, niter=8)
    state = kmeans(weighted(tmp_path, x, weights), options, tmp_path, NoProgress())
    assert sum(e["empty"] for e in state.history) > 0
    assert np.abs(state.centroids).max() < 500


def test_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    x = clustered(500, 4)
    run(tmp_path, x, OPTIONS)
    with pytest.raises(CorruptFile, match="of a test"):
        kmeans(weighted(tmp_path, x, np.ones(500)), OPTIONS, tmp_path, NoProgress())


def test_iterations_look_at_more_and_more() -> None:
    options = replace(OPTIONS, nlist=100, niter=10)
    assert [stride_of(options, 6400, i) for i in range(10)] == [16, 8, 8, 4, 4, 2, 2, 1, 1, 1]
    assert [stride_of(options, 2400, i) for i in range(10)] == [8, 8, 8, 4, 4, 2, 2, 1, 1, 1]
    assert [stride_of(options, 1199, i) for i in range(10)] == [2] * 7 + [1] * 3
    assert {stride_of(options, 599, i) for i in range(10)} == {1}
    assert {stride_of(replace(options, niter=3), 10**6, i) for i in range(3)} == {1}
    assert stride_of(replace(options, niter=200), 10**6, 0) == 2048


@pytest.mark.parametrize(("start", "stop"), [(0, 1000), (1000, 1003), (2000, 2001)])
def test_one_of_each_stride_is_picked(start: int, stop: int) -> None:
    options, n = replace(OPTIONS, nlist=10, niter=9), 320
    seen = [
        np.arange(stop - start)[pick_rows(options, n, number, start, stop)] for number in (0, 1)
    ]
    for rows in seen:
        np.testing.assert_array_equal(rows // 8, np.arange(-(-(stop - start) // 8)))
    if stop - start > 100:
        assert (seen[0] != seen[1]).any()
        assert set((seen[0] % 2).tolist()) == {0, 1}  # whatever kinds alternate, both are seen


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("nlist", [20, 400])
def test_objective_falls(tmp_path: Path, nlist: int, spherical: bool) -> None:
    """With 400 lists the assignment goes through groups, and may be a little off."""
    x = clustered(6000, 12)
    x = unit(x).astype(np.float32) if spherical else x
    state = run(tmp_path, x, replace(OPTIONS, nlist=nlist, niter=8, spherical=spherical))
    objective = np.array([entry["objective"] for entry in state.history])
    assert (objective[1:] <= objective[:-1] * 1.001).all()
    assert objective[-1] < 0.95 * objective[0]
    assert min(entry["agreement"] for entry in state.history) >= 0.99
    final = squared(x[::10], state.centroids).min(1).sum() * 10
    assert final <= objective[-1] * 1.1
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(state.centroids, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("copy_of", ["a vector", "zero"])
@pytest.mark.parametrize("share", [2, 20])
def test_identical_vectors_leave_no_list_empty(
    tmp_path: Path, spherical: bool, copy_of: str, share: int
) -> None:
    """All but one of ``share`` vectors are the same; the others are enough for all lists."""
    x = clustered(4000, 8)
    x = unit(x).astype(np.float32) if spherical else x
    x[np.arange(4000) % share > 0] = x[0] if copy_of == "a vector" else 0
    state = run(tmp_path, x, replace(OPTIONS, nlist=64, niter=15, spherical=spherical))
    copies = 64 * (share - 1) / share
    assert state.history[0]["empty"] > 0.7 * copies  # all are repaired, whatever their number
    assert state.history[-1]["empty"] == 0
    assert np.isfinite(state.centroids).all()
    sizes = np.bincount(squared(x, state.centroids).argmin(1), minlength=64)
    assert (sizes > 0).all()
    assert len(np.unique(state.centroids, axis=0)) == 64


@pytest.mark.parametrize("value", [0.0, 1.5])
@pytest.mark.parametrize("spherical", [False, True])
def test_fewer_distinct_vectors_than_lists(tmp_path: Path, value: float, spherical: bool) -> None:
    """Nothing to split: it ends, with finite centroids."""
    x = np.full((100, 4), value, np.float32)
    x[:10] += 1
    x = unit(x).astype(np.float32) if spherical else x
    state = run(tmp_path, x, replace(OPTIONS, spherical=spherical))
    assert np.isfinite(state.centroids).all()
    assert all(np.isfinite(list(entry.values())).all() for entry in state.history)
    assert squared(x, state.centroids).min(1).sum() < 1e-3


def test_list_of_zero_mean_is_split(tmp_path: Path) -> None:
    v = np.array([[1, 2, 3, 4]], np.float32)
    x = np.repeat(np.concatenate([v, -v]), 50, axis=0)
    for seed in range(6):  # some begin with two copies of one vector
        options = replace(OPTIONS, nlist=2, niter=10, seed=seed)
        state = run(tmp_path / str(seed), x, options)
        assert state.history[-1]["objective"] == pytest.approx(0, abs=1e-3)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_huge_vectors_end_well_or_with_a_typed_error(tmp_path: Path) -> None:
    x = (clustered(200, 4) * 1e19).astype(np.float32)
    assert np.isfinite(x).all()
    try:
        state = run(tmp_path, x, replace(OPTIONS, nlist=4))
    except ValueError as error:
        if not isinstance(error, TeravecError):
            raise
    else:
        assert np.isfinite(state.centroids).all()


@pytest.mark.parametrize("nlist", [20, 300])
def test_resumed_run_equals_an_undisturbed_one(tmp_path: Path, nlist: int) -> None:
    x, sizes = clustered(3000, 8), blocks_of(1000, 8)  # three blocks an iteration
    options = replace(OPTIONS, nlist=nlist, niter=4)
    whole = run(tmp_path / "whole", x, options, sizes=sizes)
    for calls in (1, 4, 8, 12):  # within the first iteration, at a checkpoint, within the last
        directory = tmp_path / str(calls)
        with pytest.raises(Stopped):
            run(directory, x, options, StopsAfter(blocks=calls), sizes)
        assert (directory / "kmeans.json").exists() == (calls > 3)
        resumed = run(directory, x, replace(options, threads=1), sizes=sizes)
        assert resumed.centroids.tobytes() == whole.centroids.tobytes()
        assert resumed.history == whole.history
        files = {path.name for path in directory.iterdir()}
        assert files == {"vectors.f32", "kmeans.json", "centroids-0004.npy"}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    x = clustered(5000, 10)
    for nlist in (30, 300):
        options = replace(OPTIONS, nlist=nlist, niter=3)
        found = {
            (threads, seed): run(
                tmp_path / f"{nlist}-{threads}-{seed}",
                x,
                replace(options, threads=threads, seed=seed),
                sizes=blocks_of(2000, 10),
            ).centroids.tobytes()
            for threads, seed in ((1, 3), (2, 3), (5, 3), (1, 4))
        }
        assert found[1, 3] == found[2, 3] == found[5, 3]
        assert found[1, 3] != found[1, 4]


def test_finished_run_is_only_read(tmp_path: Path) -> None:
    x = clustered(500, 4)
    state = run(tmp_path, x, OPTIONS)
    again = run(tmp_path, x, OPTIONS, StopsAfter(blocks=1))
    assert again.centroids.tobytes() == state.centroids.tobytes()
    assert again.history == state.history


def test_damaged_checkpoint_is_corrupt(tmp_path: Path) -> None:
    x = clustered(60, 2)
    options = replace(OPTIONS, nlist=2, niter=2)
    run(tmp_path, x, options)
    for path in (tmp_path / "kmeans.json", tmp_path / "centroids-0002.npy"):
        for _ in flipped(path, flips=[0x04]):
            with pytest.raises(CorruptFile):
                run(tmp_path, x, options)
        for length in truncated(path):
            if length % 16 == 15:
                with pytest.raises(CorruptFile):
                    run(tmp_path, x, options)


@pytest.mark.parametrize("change", [{"nlist": 21}, {"niter": 7}, {"seed": 4}, {"spherical": True}])
def test_checkpoint_of_other_options_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    x = clustered(500, 4)
    run(tmp_path, x, OPTIONS)
    with pytest.raises(CorruptFile, match=r"a checkpoint of .* expected"):
        run(tmp_path, x, replace(OPTIONS, **change))


def test_crash_between_centroids_and_checkpoint(tmp_path: Path) -> None:
    """The next iteration's centroids are there, and the checkpoint names the one before."""
    x = clustered(500, 4)
    whole = run(tmp_path / "whole", x, replace(OPTIONS, niter=2))
    directory = tmp_path / "crashed"
    with pytest.raises(Stopped):
        run(directory, x, replace(OPTIONS, niter=2), StopsAfter(blocks=2))
    assert len(json.loads((directory / "kmeans.json").read_bytes())["history"]) == 1
    (directory / "centroids-0002.npy").write_bytes(b"of a crashed process")
    assert run(directory, x, replace(OPTIONS, niter=2)).centroids.tobytes() == (
        whole.centroids.tobytes()
    )


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_imbalance(sizes: list[int]) -> None:
    found = imbalance(np.array(sizes, np.int64))
    n, total = len(sizes), sum(sizes)
    assert 1 - 1e-9 <= found <= n + 1e-9
    if total:
        assert found == pytest.approx(n * sum(s * s for s in sizes) / total**2)
    assert imbalance(np.full(n, 7)) == pytest.approx(1)


@pytest.mark.parametrize("offset", [2e3, 1e6])
def test_far_from_the_origin_lists_are_as_good(tmp_path: Path, offset: float) -> None:
    """Repairs too: they move a centroid by a part of the spread, not of the distance to 0."""
    near = np.random.default_rng(8).standard_normal((3000, 16))
    near[:1500] = near[0]  # first centroids that are equal, so that there are empty lists
    options = replace(OPTIONS, nlist=40)
    states = [
        run(tmp_path / str(add), (near + add).astype(np.float32), options) for add in (0, offset)
    ]
    here, there = (state.history for state in states)
    assert here[0]["empty"] > 10
    assert there[-1]["objective"] < 1.03 * here[-1]["objective"] * (1 + 1e-9 * offset)
    assert there[-1]["empty"] <= here[-1]["empty"] + 2
    assert there[-1]["imbalance"] < 1.1 * here[-1]["imbalance"]
