"""Small indexes made by Faiss, and Faiss's own answers to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

import teravec

D, N, NLIST = 24, 900, 12
NPROBES = (1, 5, NLIST)


def vectors(n: int = N, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def ivf_of(index: Any) -> Any:
    """The IVF index inside of others."""
    while hasattr(index, "chain") or hasattr(index, "id_map"):
        index = faiss.downcast_index(index.index)
    return index


def make(factory: str, metric: int, ids: np.ndarray | None = None, base: Any = None) -> Any:
    """Train and fill an index."""
    base = vectors() if base is None else base
    index = faiss.index_factory(base.shape[1], factory, metric)
    ivf = ivf_of(index)
    ivf.cp.min_points_per_centroid = 1
    if hasattr(ivf, "pq"):
        ivf.pq.cp.min_points_per_centroid = 1
    index.train(base)
    if ids is None:
        index.add(base)
    else:
        index.add_with_ids(base, ids)
    return index


def search(index: Any, queries: np.ndarray, k: int, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
    """Faiss's own answer, queries in full precision where Faiss would quantize them."""
    ivf = ivf_of(index)
    ivf.nprobe = nprobe
    if hasattr(ivf, "qb"):
        ivf.qb = 0
    found: tuple[np.ndarray, np.ndarray] = index.search(queries, k)
    return found


def assert_same(index: Any, path: Path, queries: np.ndarray, k: int = 10) -> None:
    """Compare ids and distances at several nprobe; equal distances may come in any order."""
    with teravec.open(path, threads=1) as ours:
        for nprobe in NPROBES:
            expected, expected_ids = search(index, queries, k, nprobe)
            distances, ids = ours.search(queries, k=k, nprobe=nprobe)
            missing = expected_ids < 0
            assert (missing == (ids < 0)).all()
            np.testing.assert_allclose(
                distances[~missing], expected[~missing], rtol=1e-4, atol=2e-4
            )
            differ = ids != expected_ids
            near = np.abs(np.diff(expected, axis=1)) <= 4e-4
            tied = np.pad(near, ((0, 0), (0, 1)), constant_values=True) | np.pad(
                near, ((0, 0), (1, 0))
            )
            assert not (differ & ~tied).any(), nprobe
