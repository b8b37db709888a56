"""Candidates of sketches: choosing what to refine, and the best of what was refined."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.native import extensions

__all__ = ["best_k", "choose"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def choose(k: int, slack: np.float32, room: npt.NDArray[Any], counts: Int64) -> tuple[Int64, Int64]:
    """Choose candidates that may be among the k nearest of their query.

    These have a lower bound of at most the k-th smallest upper bound. If a query has no more than
    k candidates, all are chosen.

    Parameters
    ----------
    k : int
    slack : float32
        Factor of the errors in these bounds.
    room : ndarray of shape (nq, 2 * capacity), ``kernels.sketch.CANDIDATE``
        The first ``counts[i]`` of row i are candidates.
    counts : ndarray of shape (nq,), int64
        At most capacity.

    Returns
    -------
    queries, places : ndarray of shape (n,), int64
        Query by query, in the order of ``room``.
    """
    capacity = room.shape[1] // 2
    if extensions.refining is not None:
        owners = np.empty(len(counts) * capacity + 1, np.int64)
        places = np.empty_like(owners)
        chosen = extensions.refining.choose(
            k, capacity, slack, room.view(np.uint8), counts, owners, places
        )
        return owners[:chosen], places[:chosen]
    entries = room[:, :capacity]
    filled = np.arange(capacity) < counts[:, None]
    if capacity > k:
        # Entries that no candidate has filled hold whatever the memory held before.
        estimate = np.where(filled, entries["estimate"], np.inf)
        error = slack * np.where(filled, entries["error"], 0)
        limit = np.partition(estimate + error, k - 1, axis=1)[:, k - 1 : k]
        filled &= estimate - error <= limit
    queries, at = np.nonzero(filled)
    return np.ascontiguousarray(queries), entries["place"][queries, at]


def best_k(
    nq: int, k: int, owners: Int64, distances: Float32, ids: Int64, similarity: bool
) -> tuple[Float32, Int64]:
    """Find the k best results of each query.

    Parameters
    ----------
    nq, k : int
    owners, distances, ids : ndarray of shape (n,)
        The query of each result, in any order; equal distances go by id.
    similarity : bool
        Larger is better.

    Returns
    -------
    distances : ndarray of shape (nq, k), float32
        Best first; the worst possible value for none.
    ids : ndarray of shape (nq, k), int64
        -1 for none.
    """
    if extensions.refining is not None:
        best, best_ids = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
        arrays = (np.ascontiguousarray(array) for array in (owners, distances, ids))
        extensions.refining.best(similarity, k, *arrays, best, best_ids)
        return best, best_ids
    sign = -1.0 if similarity else 1.0
    best = np.full((nq, k), sign * np.inf, np.float32)
    best_ids = np.full((nq, k), -1, np.int64)
    order = np.lexsort((ids, sign * distances, owners))
    counts = np.bincount(owners, minlength=nq)
    rank = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    query, kept = np.repeat(np.arange(nq), counts), rank < k
    best[query[kept], rank[kept]] = distances[order][kept]
    best_ids[query[kept], rank[kept]] = ids[order][kept]
    return best, best_ids
