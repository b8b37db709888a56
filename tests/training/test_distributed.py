"""k-means on several workers: the bytes of one process, whatever their number and memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teravec.engines.local import LocalEngine
from teravec.errors import InvalidSource, MemoryLimitTooSmall
from teravec.kernels import native as compiled
from teravec.progress import NoProgress
from teravec.training import distributed as distributed_module
from teravec.training import training_set as set_module
from teravec.training.distributed import distributed_passes, part_bytes
from teravec.training.kmeans import KMeansOptions, KMeansState, kmeans
from teravec.training.sums import Sums
from teravec.training.transform import Moments, TransformKind, train_transform
from tests.conftest import clustered
from tests.training.sets import training_set

OPTIONS = KMeansOptions(nlist=40, niter=5, seed=3, spherical=False, threads=2)
ROWS = 6000
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


@pytest.fixture(autouse=True)
def small_blocks_and_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_module, "BLOCK_BYTES", 4 * 12 * 500)  # twelve blocks
    monkeypatch.setattr(distributed_module, "_PIECE_BYTES", 1500)  # many pieces
    monkeypatch.setattr(distributed_module, "_SMALLEST_PIECE_BYTES", 500)


def run(
    directory: Path, x: np.ndarray, options: KMeansOptions, engine: LocalEngine | None
) -> KMeansState:
    return kmeans(training_set(directory, x), options, directory, NoProgress(), engine)


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
def test_a_part_beyond_memory_is_read_again(tmp_path: Path) -> None:
    x = vectors("clustered", False)
    whole = run(tmp_path / "whole", x, OPTIONS, None)
    own = replace(OPTIONS, threads=1)
    least = part_bytes(own, 12, ROWS // 2)
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
        kmeans(training_set(tmp_path / name, x, rotation), OPTIONS, tmp_path / name,
               NoProgress(), engine)
        for name, engine in (("one", None), ("three", Several(3)))
    ]  # fmt: skip
    assert states[0].centroids.tobytes() == states[1].centroids.tobytes()


@native_only
def test_engines_may_change_between_iterations(tmp_path: Path) -> None:
    """The checkpoint is the same: a run begun in process goes on on a cluster, and back."""
    x = vectors("half the same", False)
    whole = run(tmp_path / "whole", x, OPTIONS, None)
    for niter, engine in ((2, None), (4, Several(3)), (5, None)):
        options = replace(OPTIONS, niter=niter)
        path = tmp_path / "mixed" / "kmeans.json"
        if path.exists():
            _pretend_niter(path, niter)
        state = run(tmp_path / "mixed", x, options, engine)
    assert state.centroids.tobytes() == whole.centroids.tobytes()


def _pretend_niter(path: Path, niter: int) -> None:
    from teravec.storage.jsonfile import read_json, write_json

    content = read_json(path, "teravec-kmeans", 1)
    content["options"]["niter"] = niter
    write_json(path, content)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_vectors_too_long_to_square(tmp_path: Path) -> None:
    x = (clustered(ROWS, 12) * np.float32(1e30)).astype(np.float32)
    with pytest.raises(InvalidSource, match="so long"):
        run(tmp_path, x, OPTIONS, Several(3))


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_bytes_of_a_worker_do_not_grow_with_the_workers(tmp_path: Path, workers: int) -> None:
    x = vectors("clustered", False)
    with distributed_passes(training_set(tmp_path, x), OPTIONS, Several(workers)) as make_pass:
        for number in range(3):
            make_pass(x[:40].copy(), number, _Bar())
        traffic = make_pass.report()
    centroids, sums = x[:40].nbytes, Sums.zeros(40, 12).nbytes
    assert len(traffic) == workers
    for number, each in enumerate(traffic):
        assert each.sent_bytes == 3 * sums
        assert each.received_bytes == 3 * (centroids + (sums if number else 0))
        assert each.sent_bytes + each.received_bytes <= 3 * 2.5 * (centroids + sums)


class _Bar:
    def advance(self, amount: int) -> None:
        pass
