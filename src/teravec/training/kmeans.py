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

import heapq
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile, InvalidSource
from teravec.kernels.assignment import ITERATION_AGREEMENT, CentroidAssigner, accumulate
from teravec.kernels.metric import normalized
from teravec.progress import Progress
from teravec.storage.arrays import read_array, write_array
from teravec.storage.files import remove
from teravec.storage.jsonfile import read_json, write_json
from teravec.training.training_set import TrainingSet

__all__ = ["KMeansOptions", "KMeansState", "imbalance", "kmeans"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_CHECKPOINT_FORMAT = "teravec-kmeans"
_PROBE_PART = 4  # an iteration checks its assignment on a quarter of the probe, for speed
_NUDGE = 1 / 1024  # shift that parts two copies of a centroid, relative as in Faiss


@dataclass(frozen=True)
class KMeansOptions:
    """Options of k-means.

    Parameters
    ----------
    nlist, niter, seed : int
    spherical : bool
        Scale centroids to unit length, for cosine.
    threads : int
    """

    nlist: int
    niter: int
    seed: int
    spherical: bool
    threads: int


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


@dataclass
class _Sums:
    """What one pass over the sample gathers, for each list."""

    vectors: Float64
    counts: Int64
    errors: Float64


def imbalance(sizes: Int64) -> float:
    """n sum(size^2) / (sum size)^2: 1 for lists of equal size, 2 doubles a scan's cost."""
    sizes = sizes.astype(np.float64)
    total = float(sizes.sum())
    return float(len(sizes) * (sizes**2).sum() / total**2) if total else 1.0


def kmeans(
    vectors: TrainingSet, options: KMeansOptions, directory: Path, progress: Progress
) -> KMeansState:
    """Cluster the training vectors, from the last checkpoint in ``directory`` if there is one.

    Parameters
    ----------
    vectors : TrainingSet
        n vectors of d dimensions, n >= options.nlist.
    directory : Path
        Holds the checkpoint; the caller removes it when the model is sealed.
    """
    state = _restore(directory, options, vectors.d) or KMeansState(
        _first_centroids(vectors, options)
    )
    with progress.stage("k-means", options.niter * vectors.n, "vectors") as bar:
        bar.advance(len(state.history) * vectors.n)
        while len(state.history) < options.niter:
            assigner = CentroidAssigner.auto(
                state.centroids,
                vectors.probe(_PROBE_PART),
                seed=options.seed,
                threads=options.threads,
                min_agreement=ITERATION_AGREEMENT,
            )
            sums = _Sums(
                np.zeros(state.centroids.shape), np.zeros(options.nlist, np.int64),
                np.zeros(options.nlist),
            )  # fmt: skip
            for block in vectors.blocks():
                _add_block(block, assigner, sums, options)
                bar.advance(len(block))
            if not np.isfinite(sums.errors).all():
                raise InvalidSource(
                    "vectors are so long that their squared distances are beyond float32"
                )
            state.centroids, empty = _next_centroids(
                state.centroids, sums, options, len(state.history)
            )
            entry = {
                "objective": float(sums.errors.sum()),
                "imbalance": imbalance(sums.counts),
                "empty": empty,
                "agreement": assigner.agreement,
            }
            state.history.append(entry)
            log.info(
                "k-means %d/%d: objective %.6g, imbalance %.3f, %d empty lists repaired, "
                "%.2f %% assigned as exact",
                len(state.history), options.niter, entry["objective"], entry["imbalance"],
                empty, 100 * entry["agreement"],
            )  # fmt: skip
            _checkpoint(directory, options, state)
    return state


def _first_centroids(vectors: TrainingSet, options: KMeansOptions) -> Float32:
    rng = np.random.default_rng([options.seed, 2])
    rows = rng.choice(vectors.n, options.nlist, replace=False, shuffle=False)
    return vectors.take(np.sort(rows))


def _add_block(
    block: Float32, assigner: CentroidAssigner, sums: _Sums, options: KMeansOptions
) -> None:
    list_nos, distances = assigner.assign(block, threads=options.threads)
    if options.spherical:  # a vector of zeros is as far from any direction: no split helps it
        distances[~block.any(axis=1)] = 0
    accumulate(block, list_nos, sums.vectors, sums.counts, threads=options.threads)
    sums.errors += np.bincount(list_nos, weights=distances, minlength=options.nlist)


def _next_centroids(
    centroids: Float32, sums: _Sums, options: KMeansOptions, iteration: int
) -> tuple[Float32, int]:
    """Means of the lists; an empty list takes half of the list with the largest error.

    By error and not by size, as Faiss does: many copies of one vector make a large list
    that no split improves.
    """
    rng = np.random.default_rng([options.seed, 3, iteration])
    filled = sums.counts > 0
    means = centroids.astype(np.float64)
    means[filled] = sums.vectors[filled] / sums.counts[filled, None]
    empty = np.flatnonzero(~filled).tolist()
    worst = [(-error, list_no) for list_no, error in enumerate(sums.errors.tolist()) if error > 0]
    heapq.heapify(worst)
    repaired = 0
    for list_no in empty:
        if not worst:
            break
        error, donor = heapq.heappop(worst)
        spread = np.sqrt(sums.errors[donor] / max(1, sums.counts[donor]) / means.shape[1])
        shift = _NUDGE * np.maximum(np.abs(means[donor]), spread)
        shift *= rng.choice([-1.0, 1.0], len(shift))  # else halving again stays on one line
        means[list_no], means[donor] = means[donor] + shift, means[donor] - shift
        for half in (list_no, donor):
            heapq.heappush(worst, (error / 2, half))
        repaired += 1
    result = means.astype(np.float32)
    return (normalized(result) if options.spherical else result), repaired


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
