"""k-means over the sample: Lloyd's iterations with a checkpoint after each.

The assignment goes through groups of centroids (``kernels.assignment``), checked against
an exact one on some vectors in every iteration. Sums are kept in float64.

References
----------
Lloyd, Least squares quantization in PCM, 1982.
Dhillon, Modha, Concept decompositions for large sparse text data using clustering, 2001
(the spherical variant, for cosine).
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.engines.engine import Engine
from teravec.errors import CorruptFile
from teravec.progress import Bar, Progress
from teravec.storage.arrays import read_array, write_array
from teravec.storage.files import remove
from teravec.storage.jsonfile import read_json, write_json
from teravec.training.distributed import Pass, distributed_passes
from teravec.training.options import KMeansOptions
from teravec.training.sums import (
    Gathered,
    Sums,
    assign_block,
    check_errors,
    iteration_assigner,
    next_centroids,
)
from teravec.training.training_set import TrainingSet

__all__ = ["KMeansOptions", "KMeansState", "imbalance", "kmeans"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_CHECKPOINT_FORMAT = "teravec-kmeans"


@dataclass
class KMeansState:
    """Where k-means stands: what a checkpoint holds.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
    history : list of dict
        One for each iteration done: ``objective`` (sum of squared distances to the
        centroids that the iteration began with), ``imbalance``, ``empty`` (lists repaired),
        ``agreement`` (share assigned as exact).
    """

    centroids: Float32
    history: list[dict[str, float]] = field(default_factory=list)


def imbalance(sizes: Int64) -> float:
    """n sum(size^2) / (sum size)^2: 1 for lists of equal size, 2 doubles a scan's cost."""
    sizes = sizes.astype(np.float64)
    total = float(sizes.sum())
    return float(len(sizes) * (sizes**2).sum() / total**2) if total else 1.0


def kmeans(
    vectors: TrainingSet, options: KMeansOptions, directory: Path, progress: Progress,
    engine: Engine | None = None,
) -> KMeansState:  # fmt: skip
    """Cluster the training vectors, from the last checkpoint in ``directory`` if there is one.

    Parameters
    ----------
    vectors : TrainingSet
        n vectors of d dimensions, n >= options.nlist.
    directory : Path
        Holds the checkpoint; the caller removes it when the model is sealed.
    engine : Engine, optional
        Whose workers share the vectors; with the compiled kernels their number changes no
        byte. Not given: this process.
    """
    state = _restore(directory, options, vectors.d) or KMeansState(
        _first_centroids(vectors, options)
    )
    if len(state.history) == options.niter:
        return state
    with (
        _passes(vectors, options, engine) as make_pass,
        progress.stage("k-means", options.niter * vectors.n, "vectors") as bar,
    ):
        bar.advance(len(state.history) * vectors.n)
        while len(state.history) < options.niter:
            gathered = make_pass(state.centroids, len(state.history), bar)
            state.centroids, empty = next_centroids(
                gathered, spherical=options.spherical, seed=options.seed,
                iteration=len(state.history),
            )  # fmt: skip
            _record(state, gathered, empty, options)
            _checkpoint(directory, options, state)
    return state


def _passes(
    vectors: TrainingSet, options: KMeansOptions, engine: Engine | None
) -> AbstractContextManager[Pass]:
    if engine is None or engine.in_process:
        return nullcontext(partial(_whole_pass, vectors, options))
    return distributed_passes(vectors, options, engine)


def _whole_pass(
    vectors: TrainingSet, options: KMeansOptions, centroids: Float32, _: int, bar: Bar
) -> Gathered:
    """Assign and sum the whole sample in this process, in one pass over it."""
    assigner = iteration_assigner(centroids, vectors, seed=options.seed, threads=options.threads)
    sums = Sums.zeros(*centroids.shape)
    for block in vectors.blocks():
        list_nos, distances = assign_block(
            block, assigner, spherical=options.spherical, threads=options.threads
        )
        sums.add(block, list_nos, distances, threads=options.threads)
        bar.advance(len(block))
    check_errors(sums.errors)
    means = centroids.astype(np.float64)
    filled = sums.counts > 0
    means[filled] = sums.vectors[filled] / sums.counts[filled, None]
    return Gathered(
        sums.counts, sums.errors, assigner.agreement, means.astype(np.float32),
        means.__getitem__,
    )  # fmt: skip


def _record(state: KMeansState, gathered: Gathered, empty: int, options: KMeansOptions) -> None:
    entry = {
        "objective": float(gathered.errors.sum()),
        "imbalance": imbalance(gathered.counts),
        "empty": empty,
        "agreement": gathered.agreement,
    }
    state.history.append(entry)
    log.info(
        "k-means %d/%d: objective %.6g, imbalance %.3f, %d empty lists repaired, "
        "%.2f %% assigned as exact",
        len(state.history), options.niter, entry["objective"], entry["imbalance"],
        empty, 100 * entry["agreement"],
    )  # fmt: skip


def _first_centroids(vectors: TrainingSet, options: KMeansOptions) -> Float32:
    rng = np.random.default_rng([options.seed, 2])
    rows = rng.choice(vectors.n, options.nlist, replace=False, shuffle=False)
    return vectors.take(np.sort(rows))


def _centroids_path(directory: Path, iteration: int) -> Path:
    return directory / f"centroids-{iteration:04d}.npy"


def _checkpoint(directory: Path, options: KMeansOptions, state: KMeansState) -> None:
    iteration = len(state.history)
    described = write_array(_centroids_path(directory, iteration), state.centroids)
    content = {"format": _CHECKPOINT_FORMAT, "version": 1, "options": _identity(options)}
    write_json(
        directory / "kmeans.json", {**content, "history": state.history, "centroids": described}
    )
    remove(_centroids_path(directory, iteration - 1))


def _identity(options: KMeansOptions) -> dict[str, int | bool]:
    identity = asdict(options)
    del identity["threads"]
    return identity


def _restore(directory: Path, options: KMeansOptions, d: int) -> KMeansState | None:
    path = directory / "kmeans.json"
    if not path.exists():
        return None
    content = read_json(path, _CHECKPOINT_FORMAT, 1)
    if content["options"] != _identity(options):
        raise CorruptFile(
            f"{path}: a checkpoint of {content['options']} found, {_identity(options)} expected"
        )
    history = content["history"]
    centroids = read_array(
        _centroids_path(directory, len(history)), content["centroids"], (options.nlist, d)
    )
    log.info("k-means resumes after iteration %d", len(history))
    return KMeansState(centroids, history)
