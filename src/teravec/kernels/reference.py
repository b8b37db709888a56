"""k-means by plain Faiss, as the reference of the self-test."""

from __future__ import annotations

import time

import faiss
import numpy as np
import numpy.typing as npt

from teravec.kernels.faiss_threads import faiss_threads

__all__ = ["faiss_kmeans"]

Float32 = npt.NDArray[np.float32]


def faiss_kmeans(
    vectors: Float32, nlist: int, *, niter: int, seed: int, threads: int
) -> tuple[Float32, float]:
    """Cluster vectors (n, d), using all; return centroids (nlist, d) and seconds per iteration."""
    clustering = faiss.Kmeans(
        vectors.shape[1],
        nlist,
        niter=niter,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=1 + len(vectors) // nlist,
    )
    started = time.perf_counter()
    with faiss_threads(threads):
        clustering.train(vectors)
    return np.asarray(clustering.centroids, np.float32), (time.perf_counter() - started) / niter
