"""Choosing between two stages: which candidates of the sketches are refined, and the k best.

These are functions of what all of a query's lists have, wherever that was found: in this
process, or on several servers whose candidates were put together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric
from teravec.kernels.sketch import Candidates
from teravec.native import refining

__all__ = ["best_k", "candidates_kept", "chosen", "without"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def candidates_kept(k: int, most: int, ntotal: int) -> int:
    """Candidates that sketches keep for a query; ``most`` as in ``Effort.candidates``."""
    return min(max(k, most), max(1, ntotal))


def chosen(candidates: Candidates, k: int, ntotal: int) -> tuple[Int64, Int64]:
    """Queries and places of candidates to refine, as two arrays.

    Those that may be among the k nearest; all, where all vectors were kept.
    """
    if candidates.capacity >= ntotal:
        return candidates.every()
    return candidates.worth_refining(k)


def without(candidates: Candidates, owners: Int64, places: Int64) -> Candidates:
    """Candidates as a scan keeps them that has room for one less, and does not meet some vectors.

    Parameters
    ----------
    candidates : Candidates
    owners, places : ndarray of shape (n,)
        Of some queries, the place of a vector that is not to count. Of the others the highest
        estimate goes, where the room is full.
    """
    entries, capacity = candidates.entries, candidates.capacity
    kept = np.arange(capacity) < candidates.counts[:, None]
    gone = np.full(len(entries), -1, np.int64)
    gone[owners] = places
    kept &= entries["place"] != gone[:, None]
    full = np.flatnonzero(kept.all(axis=1))
    kept[full, entries["estimate"][full].argmax(axis=1)] = False
    left = Candidates.none(len(entries), capacity - 1)
    left.counts[:] = kept.sum(axis=1)
    left.entries[np.arange(capacity - 1) < left.counts[:, None]] = entries[kept]
    return left


def best_k(
    nq: int, k: int, owners: Int64, distances: Float32, ids: Int64, metric: Metric
) -> tuple[Float32, Int64]:
    """The k best of each query: distances (nq, k), best first, and ids, -1 for none.

    Parameters
    ----------
    nq, k : int
    owners, distances, ids : ndarray of shape (n,)
        The query of each result, in any order; equal distances go by id.
    metric : Metric
    """
    return refining.best_k(nq, k, owners, distances, ids, metric.larger_is_closer)
