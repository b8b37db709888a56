"""The vectors of a self-test: some of the user's or synthetic ones, and a hard set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, storage_errors
from teravec.sources import Data, open_data

__all__ = ["draw_vectors", "make_hard", "make_vectors", "write_npy"]

Float32 = npt.NDArray[np.float32]

_ROWS, _LATENT = 40_000, 10
_FEWEST = 2_000


def make_vectors(seed: int, n: int = _ROWS, d: int = 64) -> Float32:
    """Make synthetic vectors (n, d) of intrinsic dimension 10, like Faiss's SyntheticDataset."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, _LATENT)) @ rng.random((_LATENT, d))
    return np.sin(x * (rng.random(d) * 4 + 0.1)).astype(np.float32)


def draw_vectors(data: Data, seed: int, format: str | None = None) -> Float32:
    """Draw at most 40,000 of the user's vectors uniformly."""
    source = open_data(data, format=format)
    if source.ntotal < _FEWEST:
        raise InvalidArgument(f"{source.ntotal:,} vectors; at least {_FEWEST:,} expected")
    rows = np.random.default_rng(seed).choice(
        source.ntotal, min(_ROWS, source.ntotal), replace=False, shuffle=False
    )
    return source.take(np.sort(rows))


def make_hard(vectors: Float32) -> Float32:
    """Make every second vector a copy of the first: k-means must then repair empty lists."""
    result = vectors.copy()
    result[::2] = vectors[0]
    return result


def write_npy(path: Path, vectors: Float32) -> Path:
    """Write vectors to a file that every route reads."""
    with storage_errors(path, "write"):
        np.save(path, vectors, allow_pickle=False)
    return path
