"""k-means over the sample: Lloyd's iterations, with a checkpoint after each.

The assignment goes through groups of centroids (``kernels.assignment``). Every iteration checks
it against an exact assignment of some vectors. Sums are in float64. Early iterations assign only
a part of the sample (``schedule``).

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
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.engines.engine import Engine
from teravec.errors import CorruptFile
from teravec.model.list_sizes import imbalance
from teravec.progress import Bar, Progress
from teravec.storage.arrays import read_array, write_array
from teravec.storage.jsonfile import read_json, write_json
from teravec.storage.local_store import AnyPath, stored
from teravec.training.distributed import Pass, distributed_passes
from teravec.training.options import KMeansOptions
from teravec.training.schedule import count_assigned, pick_rows
from teravec.training.sums import (
    Gathered,
    Sums,
    assign_block,
    check_errors,
    iteration_assigner,
    next_centroids,
)
from teravec.training.training_set import TrainingSet

__all__ = ["KMeansState", "kmeans"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_CHECKPOINT_FORMAT = "teravec-kmeans"


@dataclass
class KMeansState:
    """The state of k-means, which a checkpoint holds.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
    history : list of dict
        One for each finished iteration: ``vectors`` (number of vectors assigned), ``objective``
        (sum of squared distances to the centroids at the iteration's start, scaled from these
        vectors to all), ``imbalance`` (of these vectors' lists), ``empty`` (lists repaired),
        ``agreement`` (share assigned as by exact search). With weights, sums are weighted.
    """

    centroids: Float32
    history: list[dict[str, float]] = field(default_factory=list)


def kmeans(
    vectors: TrainingSet,
    options: KMeansOptions,
    directory: AnyPath,
    progress: Progress,
    engine: Engine | None = None,
) -> KMeansState:
    """Cluster the training vectors, continuing from a checkpoint in ``directory`` if it exists.

    Parameters
    ----------
    vectors : TrainingSet
        n vectors of d dimensions, n >= options.nlist.
    directory : StorePath or Path
        Directory of the checkpoint; the caller removes it once the model is sealed.
    engine : Engine, optional
        Its workers divide the vectors. With the compiled kernels, their number does not change
        the result. Not given: this process does everything.
    """
    state = _restore(directory, options, vectors) or KMeansState(_draw_centroids(vectors, options))
    if len(state.history) == options.niter:
        return state
    looks = [
        count_assigned(options, vectors.n, i, vectors.block_rows) for i in range(options.niter)
    ]
    with (
        _open_passes(vectors, options, engine) as make_pass,
        progress.stage(f"k-means, {options.niter} iterations", sum(looks), "assignments") as bar,
    ):
        bar.advance(sum(looks[: len(state.history)]))
        while len(state.history) < options.niter:
            gathered = make_pass(state.centroids, len(state.history), bar)
            state.centroids, empty = next_centroids(
                gathered,
                spherical=options.spherical,
                seed=options.seed,
                iteration=len(state.history),
            )
            _record(state, gathered, empty, looks[len(state.history)], vectors.n)
            log.info("k-means %d/%d: %s", len(state.history), options.niter, _format_last(state))
            _checkpoint(directory, _identity(options, vectors), state)
    return state


def _open_passes(
    vectors: TrainingSet, options: KMeansOptions, engine: Engine | None
) -> AbstractContextManager[Pass]:
    if engine is None or engine.in_process:
        return nullcontext(partial(_whole_pass, vectors, options))
    return distributed_passes(vectors, options, engine)


def _whole_pass(
    vectors: TrainingSet, options: KMeansOptions, centroids: Float32, number: int, bar: Bar
) -> Gathered:
    """Assign and sum one pass's rows of the whole sample in this process."""
    assigner = iteration_assigner(centroids, vectors, options)
    sums = Sums.zeros(*centroids.shape)
    start = 0
    for whole in vectors.blocks():
        stop = start + len(whole)
        part = pick_rows(options, vectors.n, number, start, stop)
        weights = vectors.weights_of(start, stop)
        block = whole[part]
        list_nos, distances = assign_block(
            block, assigner, spherical=options.spherical, threads=options.threads
        )
        sums.add(
            block,
            None if weights is None else weights[part],
            list_nos,
            distances,
            threads=options.threads,
        )
        bar.advance(len(block))
        start = stop
    check_errors(sums.errors)
    means = centroids.astype(np.float64)
    filled = sums.counts > 0
    means[filled] = sums.vectors[filled] / sums.counts[filled, None]
    return Gathered(
        sums.counts, sums.errors, assigner.agreement, means.astype(np.float32), means.__getitem__
    )


def _record(state: KMeansState, gathered: Gathered, empty: int, looked: int, n: int) -> None:
    entry = {
        "vectors": looked,
        "objective": float(gathered.errors.sum()) * (n / looked),
        "imbalance": imbalance(gathered.counts),
        "empty": empty,
        "agreement": gathered.agreement,
    }
    state.history.append(entry)


def _format_last(state: KMeansState) -> str:
    return (
        "{vectors} vectors, objective {objective:.6g}, imbalance {imbalance:.3f}, "
        "{empty} empty lists repaired, {agreement:.2%} assigned as exact"
    ).format(**state.history[-1])


def _draw_centroids(vectors: TrainingSet, options: KMeansOptions) -> Float32:
    rng = np.random.default_rng([options.seed, 2])
    rows = rng.choice(vectors.n, options.nlist, replace=False, shuffle=False)
    return vectors.take(np.sort(rows))


def _centroids_path(directory: AnyPath, iteration: int) -> AnyPath:
    return directory / f"centroids-{iteration:04d}.npy"


def _checkpoint(directory: AnyPath, identity: dict[str, Any], state: KMeansState) -> None:
    iteration = len(state.history)
    described = write_array(_centroids_path(directory, iteration), state.centroids)
    content = {"format": _CHECKPOINT_FORMAT, "version": 1, "options": identity}
    write_json(
        directory / "kmeans.json", {**content, "history": state.history, "centroids": described}
    )
    stored(_centroids_path(directory, iteration - 1)).remove()


def _identity(options: KMeansOptions, vectors: TrainingSet) -> dict[str, Any]:
    identity: dict[str, Any] = asdict(options)
    del identity["threads"], identity["device"]
    if vectors.weights is not None:
        identity["weights"] = vectors.weights.checksum
    return identity


def _restore(
    directory: AnyPath, options: KMeansOptions, vectors: TrainingSet
) -> KMeansState | None:
    path = directory / "kmeans.json"
    if not path.exists():
        return None
    content, identity = read_json(path, _CHECKPOINT_FORMAT, 1), _identity(options, vectors)
    if content["options"] != identity:
        raise CorruptFile(
            f"{path}: a checkpoint of {content['options']} found, {identity} expected"
        )
    history = content["history"]
    centroids = read_array(
        _centroids_path(directory, len(history)), content["centroids"], (options.nlist, vectors.d)
    )
    log.info("k-means resumes after iteration %d", len(history))
    return KMeansState(centroids, history)
