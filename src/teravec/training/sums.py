"""What a pass over the sample gathers for each list, and the centroids that follow from it."""

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

PROBE_PART = 4  # an iteration checks its assignment on a quarter of the probe, for speed
_NUDGE = 1 / 1024  # shift that parts two copies of a centroid, relative as in Faiss


@dataclass
class Sums:
    """Sums over the vectors of some lists: float64, so that 10^9 of them may be added.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float64
        Each vector times its weight.
    counts : ndarray of shape (n,), float64
        Sums of weights: where no weights were given, numbers of vectors.
    errors : ndarray of shape (n,), float64
        Squared distances to the centroids that the pass began with, times weights.
    """

    vectors: Float64
    counts: Float64
    errors: Float64

    @classmethod
    def zeros(cls, n: int, d: int) -> Sums:
        """Sums of nothing, for n lists."""
        return cls(np.zeros((n, d)), np.zeros(n), np.zeros(n))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.vectors.nbytes + self.counts.nbytes + self.errors.nbytes

    def copy(self) -> Sums:
        """Sums that can be added to."""
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
        """Add vectors to the lists at ``places``, in their order."""
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
        Of every list, as in `Sums`.
    agreement : float
        Share of vectors assigned as by exact search.
    means : ndarray of shape (nlist, d), float32
        Of every list; its old centroid where it is empty.
    exact_means : callable
        Given list numbers of lists that are not empty, their means in float64.
    """

    counts: Float64
    errors: Float64
    agreement: float
    means: Float32
    exact_means: Callable[[Int64], Float64]


def iteration_assigner(
    centroids: Float32, vectors: TrainingSet, options: KMeansOptions
) -> CentroidAssigner:
    """What assigns vectors in one iteration: less strict than the sealed model's."""
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
    """List number and squared distance to its centroid of each vector."""
    list_nos, distances = assigner.assign(block, threads=threads)
    if spherical:  # a vector of zeros is as far from any direction: no split helps it
        distances[~block.any(axis=1)] = 0
    return list_nos, distances


def check_errors(errors: Float64) -> None:
    """Raise InvalidSource where a squared distance is beyond float32."""
    if not np.isfinite(errors).all():
        raise InvalidSource("vectors are so long that their squared distances are beyond float32")


def next_centroids(
    gathered: Gathered, *, spherical: bool, seed: int, iteration: int
) -> tuple[Float32, int]:
    """Means of the lists; an empty list takes half of the list with the largest error.

    By error and not by size, as Faiss does: many copies of one vector make a large list
    that no split improves.

    Returns
    -------
    centroids : ndarray of shape (nlist, d), float32
    repaired : int
        Empty lists that were given something.
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
        if centre is not None:  # else float32 might round both to one
            shift = np.maximum(shift, np.spacing(np.abs(centre)))
        shift *= rng.choice([-1.0, 1.0], len(shift))  # else halving again stays on one line
        means[list_no], means[donor] = means[donor] + shift, means[donor] - shift
    for list_no, mean in means.items():
        result[list_no] = mean
    return (normalized(result) if spherical else result), len(splits)


def _plan_splits(counts: Float64, errors: Float64) -> list[tuple[int, int]]:
    """For each empty list, in order, the list that it takes half of."""
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
