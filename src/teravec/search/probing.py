"""Adaptive probing: which of the nearest lists a query visits. Pure functions.

A list's *gap* is how much farther its centroid is than the query's nearest one: the difference
of squared distances, or of similarities of the query scaled to unit length. With the lists in
order of distance, a query visits its i-th list (i from 1) if

    i * exp(prune * gap_i) <= nprobe.

The nearest list's gap is 0, so it is always visited; nprobe is the most that any query visits;
prune = 0 is a search of nprobe lists. A query between many centroids has small gaps and visits
nearly nprobe lists, one beside a centroid has large ones and stops early. Gap and rank both
grow with i, so what is visited is a prefix, known before anything is read. It depends on the
query alone.

Why this rule: the share of a query's neighbours that its i-th list holds was fitted by logistic
regression, on held-out vectors of three data sets, each with two nlist (benchmarks/recall.py).
Visiting the lists of highest predicted share costs least for a mean recall. log(i) and the gap
predict nearly as well as twelve features did. The best weight of the gap was, in all six, 1.5
to 3 times the inverse of the mean gap at the rank where a recall of 0.9 is reached. Known
rules did worse than a fixed nprobe on the same sets, by up to a half: the ratio of a list's
distance to the nearest's (SPANN), and the distance to the hyperplane that bisects both
centroids over the radius of the neighbours (Quake): they ignore the rank.

References
----------
Chen et al., SPANN: Highly-efficient Billion-scale Approximate Nearest Neighbor Search,
NeurIPS 2021, section 3.3 (query-aware dynamic pruning).
Mohoney et al., Quake: Adaptive Indexing for Vector Search, OSDI 2025 (adaptive partition
scanning).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric
from teravec.native import lists

__all__ = ["list_gaps", "prune_lists", "prune_weight", "worth_visiting"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

# Where a gap is typical: a recall of 0.9 took 8 to 54 lists on the sets above.
_TYPICAL_RANK = 32
# Times the inverse of a typical gap. From 1 to 4 the cost hardly changes; but nprobe, to which
# the coarse step's work and memory are proportional, grows with it.
_WEIGHT = 1.5


def list_gaps(distances: Float32, queries: Float32, metric: Metric) -> Float32:
    """How much farther each list's centroid is than the query's nearest.

    Parameters
    ----------
    distances : ndarray of shape (nq, n), float32
        Squared distances to centroids (l2), or inner products; best first.
    queries : ndarray of shape (nq, d_index), float32
        As they were compared with the centroids.
    metric : Metric

    Returns
    -------
    ndarray of shape (nq, n), float32
        At least 0; inner products are divided by the query's length.
    """
    return lists.list_gaps(distances, _lengths(queries) if metric.larger_is_closer else None)


def _lengths(queries: Float32) -> Float32:
    """Of queries (nq, d); 1 where it is 0."""
    lengths: Float32 = np.sqrt(np.einsum("ij,ij->i", queries, queries))
    lengths[lengths == 0] = 1.0
    return lengths


def worth_visiting(gaps: Float32, nprobe: int, prune: float) -> npt.NDArray[np.bool_]:
    """Which of the nearest lists each query visits, by the rule above.

    Parameters
    ----------
    gaps : ndarray of shape (nq, n), float32
        Of the nearest lists, best first.
    nprobe : int
    prune : float
        At least 0.

    Returns
    -------
    ndarray of shape (nq, n), bool
        The first column is True.
    """
    return np.asarray(np.float32(prune) * gaps <= _allowed(nprobe, gaps.shape[1]))


@lru_cache(16)
def _allowed(nprobe: int, ranks: int) -> Float32:
    """What ``prune * gap`` is at most, for each rank."""
    return np.asarray(np.log(nprobe / np.arange(1, ranks + 1)), np.float32)


def prune_lists(
    list_nos: Int64, distances: Float32, queries: Float32, metric: Metric, prune: float
) -> tuple[Int64, Float32]:
    """Drop lists that are not worth a visit.

    Parameters
    ----------
    list_nos, distances : ndarray of shape (nq, nprobe)
        The nearest lists of each query, best first.
    queries : ndarray of shape (nq, d_index), float32
    metric : Metric
    prune : float

    Returns
    -------
    list_nos, distances : ndarray of shape (nq, at most nprobe)
        Dropped lists are -1; columns that no query needs are left out.
    """
    nq, nprobe = list_nos.shape
    lengths = _lengths(queries) if metric.larger_is_closer else None
    counts, most = lists.count_worth_visiting(prune, distances, _allowed(nprobe, nprobe), lengths)
    if most < nprobe:
        list_nos, distances = list_nos[:, :most], distances[:, :most]
    if nq > 1:
        list_nos = np.where(np.arange(most) < counts[:, None], list_nos, -1)
    return np.ascontiguousarray(list_nos), np.ascontiguousarray(distances)


def prune_weight(gaps: Float32) -> float:
    """The weight of gaps for an index, from those of some queries.

    Parameters
    ----------
    gaps : ndarray of shape (nq, n), float32
        The first 33 lists, best first, or all.

    Returns
    -------
    float
        0 where gaps say nothing: one list, or centroids that are all as far.
    """
    typical = float(gaps[:, min(_TYPICAL_RANK, gaps.shape[1] - 1)].mean(dtype=np.float64))
    return _WEIGHT / typical if typical > 0 else 0.0
