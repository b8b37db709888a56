"""K-means over the vectors of one list, to split it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.kernels.accumulation import accumulate
from teravec.kernels.assignment import CentroidAssigner
from teravec.kernels.metric import normalized

__all__ = ["small_kmeans"]

Float32 = npt.NDArray[np.float32]

_STEPS = 8  # iterations


def small_kmeans(
    members: Float32, parts: int, rng: np.random.Generator, *, spherical: bool, threads: int
) -> Float32:
    """Find the centroids of a list's parts; parts without vectors are dropped.

    Parameters
    ----------
    members : ndarray of shape (n, d), float32
        Vectors of the list.
    parts : int
    rng : numpy.random.Generator
        Chooses the vectors to begin with.
    spherical : bool
        Scale centroids to unit length, for cosine.
    threads : int

    Returns
    -------
    ndarray of shape (at most parts, d), float32
        Fewer than two if all vectors are equal: the list cannot be split.
    """
    distinct = np.unique(members, axis=0)
    if len(distinct) < 2:
        return distinct
    picked = rng.choice(len(distinct), min(parts, len(distinct)), replace=False)
    centroids: Float32 = distinct[np.sort(picked)]
    for _ in range(_STEPS):
        list_nos, _ = CentroidAssigner.exact(centroids).assign(members, threads=threads)
        sums, counts = np.zeros(centroids.shape), np.zeros(len(centroids), np.int64)
        accumulate(members, list_nos, sums, counts, threads=threads)
        used = counts > 0
        centroids = (sums[used] / counts[used, None]).astype(np.float32)
        if spherical:
            centroids = normalized(centroids)
    return centroids
