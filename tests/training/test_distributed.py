"""k-means on several workers: the bytes of one process, whatever their number and memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teravec.engines.block_sizes import BlockSizes
from teravec.engines.local import LocalEngine
from teravec.errors import InvalidSource, MemoryLimitTooSmall
from teravec.model.transform import Moments, Transform, TransformKind, train_transform
from teravec.native import extensions as compiled
from teravec.progress import NoBar, NoProgress
from teravec.storage.jsonfile import read_json
from teravec.training.distributed import distributed_passes, part_bytes
from teravec.training.kmeans import KMeansState, kmeans
from teravec.training.options import KMeansOptions
from teravec.training.sums import Sums
from teravec.training.training_set import TrainingSet
from teravec.training.weights import SampleWeights
from tests.conftest import clustered
from tests.stopping import Stopped, StopsAfter
from tests.training.sets import training_set

OPTIONS = KMeansOptions(nlist=40, niter=5, seed=3, spherical=False, threads=2)
ROWS = 6000
SMALL = BlockSizes(training_block_bytes=4 * 12 * 500, sum_bytes=1500, least_sum_bytes=500)
native_only = pytest.mark.skipif(
    compiled.native is None, reason="without the compiled kernels, sums differ in their last bits"
)


class Several(LocalEngine):
    """Actors of this process, as many as a cluster's workers would be."""

    in_process = False

    def __init__(self, workers: int, memory_bytes: int = 1 << 30) -> None:
        super().__init__(1, memory_bytes)
        self._workers = workers

    @property
    def workers(self) -> int:
        return self._workers


def small_set(directory: Path, x: np.ndarray, transform: Transform | None = None) -> TrainingSet:
    """A training set of twelve blocks, whose sums are in many pieces."""
    return training_set(directory, x, transform, SMALL)


def run(
    directory: Path, x: np.ndarray, options: KMeansOptions, engine: LocalEngine | None
) -> KMeansState:
    return kmeans(small_set(directory, x), options, directory, NoProgress(), engine)


def vectors(kind: str, spherical: bool) -> np.ndarray:
    x = clustered(ROWS, 12)
    if kind == "half the same":
        x[::2] = x[0]
    if spherical:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


@native_only
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("kind", ["clustered", "half the same"])
@pytest.mark.parametrize("nlist", [1, 40, 300])
def test_any_number_of_workers_gives_the_bytes_of_one_process(
    tmp_path: Path, nlist: int, kind: str, spherical: bool
) -> None:
    x = vectors(kind, spherical)
    options = replace(OPTIONS, nlist=nlist, spherical=spherical)
    whole = run(tmp_path / "whole", x, options, None)
    if kind == "half the same" and nlist > 1:
        assert whole.history[0]["empty"] > 0  # so that repairs are compared too
    for workers in (1, 2, 5, 12, 30):
        state = run(tmp_path / str(workers), x, options, Several(workers))
        assert state.centroids.tobytes() == whole.centroids.tobytes()
        assert state.history == whole.history


def test_objective_without_the_compiled_kernels_too(tmp_path: Path) -> None:
    """What is promised wherever it runs: within 1e-4."""
    x = vectors("clustered", False)
    objectives = [
        run(tmp_path / str(n), x, OPTIONS, Several(n)).history[-1]["objective"] for n in (1, 2, 5)
    ]
    np.testing.assert_allclose(objectives, objectives[0], rtol=1e-4)


@native_only
@pytest.mark.parametrize("niter", [2, 5])
def test_weights_on_any_number_of_workers(tmp_path: Path, niter: int) -> None:
    x, options = vectors("half the same", False), replace(OPTIONS, niter=niter)
    weights = np.random.default_rng(2).exponential(size=ROWS).astype(np.float32)
    weights[::5] = 0
    weights.tofile(tmp_path / "weights.f32")
    states = [
        kmeans(
            replace(
                small_set(tmp_path / str(n), x),
                weights=SampleWeights(tmp_path / "weights.f32", "these"),
            ),
            options,
            tmp_path / str(n),
            NoProgress(),
            Several(n) if n else None,
        )
        for n in (0, 1, 2, 5)
    ]
    assert {state.centroids.tobytes() for state in states} == {states[0].centroids.tobytes()}
    assert all(state.history == states[0].history for state in states)


@native_only
def test_a_part_beyond_memory_is_read_again(tmp_path: Path) -> None:
    x = vectors("clustered", False)
    whole = run(tmp_path / "whole", x, OPTIONS, None)
    own = replace(OPTIONS, threads=1)
    least = part_bytes(own, 12, ROWS // 2, SMALL)
    state = run(tmp_path / "least", x, OPTIONS, Several(2, least))
    assert state.centroids.tobytes() == whole.centroids.tobytes()
    with pytest.raises(MemoryLimitTooSmall, match="a worker's part of 40 lists"):
        run(tmp_path / "less", x, OPTIONS, Several(2, least - 1))


@native_only
def test_transformed_sample(tmp_path: Path) -> None:
    x = vectors("clustered", False)
    rotation = train_transform(
        TransformKind.parse("rotation"), 12, lambda: Moments.none(12), centered=True, seed=1
    )
    states = [
        kmeans(
            small_set(tmp_path / name, x, rotation), OPTIONS, tmp_path / name, NoProgress(), engine
        )
        for name, engine in (("one", None), ("three", Several(3)))
    ]
    assert states[0].centroids.tobytes() == states[1].centroids.tobytes()


@native_only
def test_engines_may_change_between_iterations(tmp_path: Path) -> None:
    """The checkpoint is the same: a run begun in process goes on on a cluster, and back."""
    x = vectors("half the same", False)
    whole = run(tmp_path / "whole", x, OPTIONS, None)
    for done, engine in ((2, None), (4, Several(3))):
        mixed = small_set(tmp_path / "mixed", x)
        with pytest.raises(Stopped):  # two whole passes of twelve blocks, and some of the third
            kmeans(mixed, OPTIONS, tmp_path / "mixed", StopsAfter(blocks=28), engine)
        content = read_json(tmp_path / "mixed" / "kmeans.json", "teravec-kmeans", 1)
        assert len(content["history"]) == done
    state = run(tmp_path / "mixed", x, OPTIONS, None)
    assert state.centroids.tobytes() == whole.centroids.tobytes()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_vectors_too_long_to_square(tmp_path: Path) -> None:
    x = (clustered(ROWS, 12) * np.float32(1e30)).astype(np.float32)
    with pytest.raises(InvalidSource, match="so long"):
        run(tmp_path, x, OPTIONS, Several(3))


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_bytes_of_a_worker_do_not_grow_with_the_workers(tmp_path: Path, workers: int) -> None:
    x = vectors("clustered", False)
    with distributed_passes(small_set(tmp_path, x), OPTIONS, Several(workers)) as make_pass:
        for number in range(3):
            make_pass(x[:40].copy(), number, NoBar())
        traffic = make_pass.report()
    centroids, sums = x[:40].nbytes, Sums.zeros(40, 12).nbytes
    assert len(traffic) == workers
    for number, each in enumerate(traffic):
        assert each.sent_bytes == 3 * sums
        assert each.received_bytes == 3 * (centroids + (sums if number else 0))
        assert each.sent_bytes + each.received_bytes <= 3 * 2.5 * (centroids + sums)
