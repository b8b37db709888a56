"""Sums per list over a pass through the sample, and the next centroids that follow from them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.engines.options import CPU
from teravec.errors import InvalidSource
from teravec.kernels.accumulation import accumulate
from teravec.kernels.assignment import ITERATION_AGREEMENT, CentroidAssigner
from teravec.kernels.centre import common_centre
from teravec.kernels.metric import normalized
from teravec.training.options import KMeansOptions
from teravec.training.training_set import TrainingSet

__all__ = [
    "PROBE_PART",
    "Gathered",
    "Sums",
    "assign_block",
    "check_errors",
    "iteration_assigner",
    "next_centroids",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

PROBE_PART = 4  # an iteration checks its assignment on a quarter of the probe only, for speed
_NUDGE = 1 / 1024  # relative shift that separates two copies of a centroid, as in Faiss


@dataclass
class Sums:
    """Sums over the vectors of some lists, in float64: 10^9 vectors may be added.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float64
        Sum of the vectors times their weights.
    counts : ndarray of shape (n,), float64
        Sum of the weights; without weights, the number of vectors.
    errors : ndarray of shape (n,), float64
        Sum of weighted squared distances to the centroids at the start of the pass.
    """

    vectors: Float64
    counts: Float64
    errors: Float64

    @classmethod
    def zeros(cls, n: int, d: int) -> Sums:
        """Return empty sums for n lists."""
        return cls(np.zeros((n, d)), np.zeros(n), np.zeros(n))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.vectors.nbytes + self.counts.nbytes + self.errors.nbytes

    def copy(self) -> Sums:
        """Return a writable copy."""
        return Sums(self.vectors.copy(), self.counts.copy(), self.errors.copy())

    def add(
        self,
        block: Float32,
        weights: Float32 | None,
        places: Int32,
        distances: Float32,
        *,
        threads: int,
    ) -> None:
        """Add vectors, in order, to the lists at ``places``."""
        accumulate(block, places, self.vectors, None, threads=threads, weights=weights)
        n = len(self.counts)
        errors = distances if weights is None else weights.astype(np.float64) * distances
        self.counts += np.bincount(places, weights=weights, minlength=n)
        self.errors += np.bincount(places, weights=errors, minlength=n)


@dataclass
class Gathered:
    """The result of a pass over the whole sample.

    Parameters
    ----------
    counts, errors
        As in `Sums`, of every list.
    agreement : float
        Share of vectors assigned as by exact search.
    means : ndarray of shape (nlist, d), float32
        Mean of every list; an empty list has its old centroid.
    exact_means : callable
        Returns the means of given, non-empty lists in float64.
    """

    counts: Float64
    errors: Float64
    agreement: float
    means: Float32
    exact_means: Callable[[Int64], Float64]


def iteration_assigner(
    centroids: Float32, vectors: TrainingSet, options: KMeansOptions
) -> CentroidAssigner:
    """Make the assigner of one iteration, less strict than the sealed model's."""
    probe = vectors.probe(PROBE_PART)
    if options.device != CPU:
        return CentroidAssigner.on_device(centroids, probe, options.device, threads=options.threads)
    return CentroidAssigner.auto(
        centroids,
        probe,
        seed=options.seed,
        threads=options.threads,
        min_agreement=ITERATION_AGREEMENT,
    )


def assign_block(
    block: Float32, assigner: CentroidAssigner, *, spherical: bool, threads: int
) -> tuple[Int32, Float32]:
    """Return each vector's list number and squared distance to that list's centroid."""
    list_nos, distances = assigner.assign(block, threads=threads)
    if spherical:  # a zero vector is equally far from all directions: splitting cannot help
        distances[~block.any(axis=1)] = 0
    return list_nos, distances


def check_errors(errors: Float64) -> None:
    """Raise InvalidSource if a squared distance exceeds float32."""
    if not np.isfinite(errors).all():
        raise InvalidSource("vectors are so long that their squared distances are beyond float32")


def next_centroids(
    gathered: Gathered, *, spherical: bool, seed: int, iteration: int
) -> tuple[Float32, int]:
    """Compute the means of the lists; an empty list takes half of the list of largest error.

    Faiss chooses the donor by size. Error is better: many copies of one vector make a large list
    that no split improves.

    Returns
    -------
    centroids : ndarray of shape (nlist, d), float32
    repaired : int
        Number of empty lists that received half of another.
    """
    counts, errors, result = gathered.counts, gathered.errors, gathered.means
    rng = np.random.default_rng([seed, 3, iteration])
    splits = _plan_splits(counts, errors)
    donors = np.unique([donor for _, donor in splits if counts[donor] > 0]).astype(np.int64)
    means = dict(zip(donors.tolist(), gathered.exact_means(donors), strict=True))
    centre = common_centre(result) if splits else None
    origin = 0.0 if centre is None else centre
    for list_no, donor in splits:
        spread = np.sqrt(errors[donor] / (counts[donor] or 1) / result.shape[1])
        shift = _NUDGE * np.maximum(np.abs(means[donor] - origin), spread)
        if centre is not None:  # float32 must not round both halves to the same centroid
            shift = np.maximum(shift, np.spacing(np.abs(centre)))
        shift *= rng.choice([-1.0, 1.0], len(shift))  # repeated halves must not lie on one line
        means[list_no], means[donor] = means[donor] + shift, means[donor] - shift
    for list_no, mean in means.items():
        result[list_no] = mean
    return (normalized(result) if spherical else result), len(splits)


def _plan_splits(counts: Float64, errors: Float64) -> list[tuple[int, int]]:
    """Choose for each empty list, in order, the list that it takes half of."""
    worst = [(-error, list_no) for list_no, error in enumerate(errors.tolist()) if error > 0]
    heapq.heapify(worst)
    splits = []
    for list_no in np.flatnonzero(counts == 0).tolist():
        if not worst:
            break
        error, donor = heapq.heappop(worst)
        for half in (list_no, donor):
            heapq.heappush(worst, (error / 2, half))
        splits.append((list_no, donor))
    return splits
