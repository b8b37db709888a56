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

A calibration of today also measures *hardness*. Gaps are divided by ``sqrt(near + d1)``, with d1
the squared distance to the nearest centroid, because the distances of a list's vectors spread in
proportion to the query's own distance; so a query far from all vectors is served like others. A
query's *crowding* is ``log(sum(exp(-sharpness gap_i)))`` over its 64 nearest lists: how many lists
share its neighbours. ``nprobe`` grows with ``exp(slope (crowding - usual))``, and more steeply for
queries more crowded than nine tenths of the calibration's: queries that are unlike the data, as
between lists, or far and in no direction. What is visited is a prefix as before. Similarities of
unit vectors count as squared distances (``2 - 2 s``); those of other vectors have no d1.

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

from collections.abc import Callable
from functools import lru_cache
from math import log, sqrt

import numpy as np
import numpy.typing as npt

from teravec.index.hardness import MOST_HARDER, Hardness
from teravec.kernels.metric import Metric
from teravec.native import lists

__all__ = [
    "CROWD",
    "choose_lists",
    "list_gaps",
    "measure_hardness",
    "prune_lists",
    "prune_weight",
    "worth_visiting",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Nearest = Callable[[Float32, int], tuple[Int64, Float32]]
"""Given prepared queries and n, returns the n nearest lists and their distances, best first."""

CROWD = 64
"""Nearest lists whose gaps say how crowded a query is."""

# Where a gap is typical: a recall of 0.9 took 8 to 54 lists on the sets above.
_TYPICAL_RANK = 32
# Times the inverse of a typical gap. From 1 to 4 the cost hardly changes; but nprobe, to which
# the coarse step's work and memory are proportional, grows with it.
_WEIGHT = 1.5
# Of hardness. Shares of neighbours fall with exp(-6 gap / typical gap), by maximum likelihood on
# held-out vectors of the sets above. A slope of 1.3 would give all queries the same recall and cost
# 10 to 20 % more lists; with half of it a recall costs as many lists as without hardness.
_SHARPNESS = 4.0 * _WEIGHT
_NEAR = 0.5  # times the mean squared distance to the nearest centroid
_MOST_MORE = log(MOST_HARDER)
_ONE = np.ones(1, np.float32)
_TINY = 1e-300  # a divisor that is not 0
_SLOPE, _STEEPER, _HARD = 0.5, 1.0, 0.9


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
    nprobe = list_nos.shape[1]
    lengths = _lengths(queries) if metric.larger_is_closer else None
    counts, most = lists.count_worth_visiting(prune, distances, _allowed(nprobe, nprobe), lengths)
    return _first_lists(list_nos, distances, counts, most)


def prune_weight(gaps: Float32 | Float64) -> float:
    """The weight of gaps for an index, from those of some queries.

    Parameters
    ----------
    gaps : ndarray of shape (nq, n)
        The first 33 lists, best first, or all.

    Returns
    -------
    float
        0 where gaps say nothing: one list, or centroids that are all as far.
    """
    typical = float(gaps[:, min(_TYPICAL_RANK, gaps.shape[1] - 1)].mean(dtype=np.float64))
    return _WEIGHT / typical if typical > 0 else 0.0


def measure_hardness(
    distances: Float32, queries: Float32, metric: Metric
) -> tuple[float, Hardness | None]:
    """Derive the weight of gaps, and the coefficients of hardness, from a calibration's queries.

    Parameters
    ----------
    distances : ndarray of shape (nq, n), float32
        Of the ``CROWD`` nearest lists, best first, or all.
    queries : ndarray of shape (nq, d_index), float32
    metric : Metric

    Returns
    -------
    prune : float
    hardness : Hardness or None
        None where gaps say nothing: one list, or centroids that are all as far.
    """
    squares = _squares(distances, metric)
    near = _NEAR * float(np.maximum(squares[:, 0], 0).mean(dtype=np.float64))
    if metric is Metric.IP:
        near = 0.0
    scale = _scales(distances, queries, metric, near)
    weight = prune_weight(_away(distances[:, :1], distances, metric) * scale[:, None])
    if weight == 0:
        return 0.0, None
    sharpness = weight * _SHARPNESS / _WEIGHT
    crowding = np.array(_crowding(distances, scale, sharpness, metric))
    usual, hard = float(crowding.mean()), float(np.quantile(crowding, _HARD, method="lower"))
    return weight, Hardness(near, sharpness, usual, hard, _SLOPE, _STEEPER)


def choose_lists(
    nearest: Nearest,
    queries: Float32,
    metric: Metric,
    hardness: Hardness,
    *,
    usual: int,
    prune: float,
    most: int,
) -> tuple[Int64, Float32]:
    """Find the lists that each query visits, by its hardness.

    Parameters
    ----------
    nearest : callable
    queries : ndarray of shape (nq, d_index), float32
        Prepared.
    metric : Metric
    hardness : Hardness
    usual : int
        nprobe of a query of usual hardness.
    prune : float
    most : int
        Lists that a query may visit.

    Returns
    -------
    list_nos, distances : ndarray of shape (nq, at most most)
        Dropped lists are -1; columns that no query needs are left out.
    """
    first = min(most, max(CROWD, usual))
    list_nos, distances = nearest(queries, first)
    if len(queries) == 1:
        count = _count_one(distances, queries, metric, hardness, usual, prune)
        if count < first or first == most:
            return list_nos[:, :count], distances[:, :count]
    scale = _scales(distances, queries, metric, hardness.near)
    crowding = _crowding(distances, scale, hardness.sharpness, metric)
    more = np.array([_log_harder(value, hardness) for value in crowding], np.float32)
    weights = (prune * scale).astype(np.float32)
    counts = _count_adaptive(distances, weights, more, usual, metric)
    further = np.flatnonzero(counts == first) if first < most else ()
    if not len(further):
        return _first_lists(list_nos, distances, counts, int(counts.max(initial=1)))
    wanted = np.minimum(most, np.ceil(usual * np.exp(more[further].astype(np.float64))))
    # Sizes that do not depend on the other queries: an approximate quantizer's lists depend on it.
    sizes = np.minimum(most, first * 2 ** np.ceil(np.log2(np.maximum(wanted / first, 1))))
    width = int(sizes.max())
    wide_nos = np.full((len(queries), width), -1, np.int64)
    wide = np.zeros((len(queries), width), np.float32)
    wide_nos[:, :first], wide[:, :first] = list_nos, distances
    for size in np.unique(sizes).astype(np.int64).tolist():
        rows = further[sizes == size]
        if size > first:
            wide_nos[rows, :size], wide[rows, :size] = nearest(queries[rows], size)
            part = np.ascontiguousarray(wide[rows, :size])
            counts[rows] = _count_adaptive(part, weights[rows], more[rows], usual, metric)
    return _first_lists(wide_nos, wide, counts, int(counts.max(initial=1)))


def _first_lists(
    list_nos: Int64, distances: Float32, counts: Int64, most: int
) -> tuple[Int64, Float32]:
    """Keep the first ``counts`` lists of each query, and at most ``most`` columns."""
    if most < list_nos.shape[1]:
        list_nos, distances = list_nos[:, :most], distances[:, :most]
    if len(counts) > 1:
        list_nos = np.where(np.arange(most) < counts[:, None], list_nos, -1)
    return np.ascontiguousarray(list_nos), np.ascontiguousarray(distances)


def _squares(distances: Float32, metric: Metric) -> Float32:
    """Squared distances to centroids (nq, n), of unit vectors where distances are similarities."""
    return 2 - 2 * distances if metric.larger_is_closer else distances


def _scales(distances: Float32, queries: Float32, metric: Metric, near: float) -> Float64:
    """What gaps of each query (nq,) are multiplied with."""
    if metric is Metric.IP:
        return 1.0 / _lengths(queries).astype(np.float64)
    away = np.maximum(_squares(distances[:, 0], metric).astype(np.float64), 0) + near
    scale = 1.0 / np.sqrt(np.maximum(away, _TINY))
    return np.asarray(2 * scale if metric.larger_is_closer else scale)


def _away(nearest: Float32, distances: Float32, metric: Metric) -> Float32:
    return nearest - distances if metric.larger_is_closer else distances - nearest


def _crowding(distances: Float32, scale: Float64, sharpness: float, metric: Metric) -> list[float]:
    """Logarithm of the number of lists that share each query's neighbours."""
    away = distances[:, :CROWD].astype(np.float64)
    away -= away[:, :1].copy()
    away *= (_signed(sharpness, metric) * scale)[:, None]
    # NumPy's logarithm of one number may differ from that of many in the last bit.
    return [log(shares) for shares in np.add.reduce(np.exp(away, away), axis=1).tolist()]


def _log_harder(crowding: float, hardness: Hardness) -> float:
    """Logarithm of how many times a usual query's nprobe a query has."""
    more = hardness.slope * (crowding - hardness.usual)
    return min(more + hardness.steeper * max(crowding - hardness.hard, 0.0), _MOST_MORE)


def _signed(sharpness: float, metric: Metric) -> float:
    return sharpness if metric.larger_is_closer else -sharpness


def _count_adaptive(
    distances: Float32, weights: Float32, more: Float32, usual: int, metric: Metric
) -> Int64:
    """Count the lists that each query visits: the rule with a weight and an nprobe of its own."""
    n = distances.shape[1]
    allowed = _allowed(usual, n)
    gaps = np.maximum(_away(distances[:, :1], distances, metric), 0)
    gaps *= weights[:, None]
    visited = gaps <= allowed + more[:, None]
    visited[:, 0] = True
    return np.asarray(np.where(visited.all(axis=1), n, visited.argmin(axis=1)), np.int64)


def _count_one(
    distances: Float32,
    queries: Float32,
    metric: Metric,
    hardness: Hardness,
    usual: int,
    prune: float,
) -> int:
    """Count the lists that a lone query visits, in a few microseconds: the same arithmetic."""
    away = distances[0, :CROWD].astype(np.float64)
    nearest = float(away[0])
    if metric is Metric.L2:
        scale = 1.0 / sqrt(max(max(nearest, 0.0) + hardness.near, _TINY))
    else:
        scale = float(_scales(distances, queries, metric, hardness.near)[0])
    away -= nearest
    away *= _signed(hardness.sharpness, metric) * scale
    crowding = log(np.add.reduce(np.exp(away, away)))
    more = _log_harder(crowding, hardness)
    allowed = _allowed(usual, distances.shape[1]) + more
    lengths = _ONE if metric.larger_is_closer else None
    return lists.count_worth_visiting(prune * scale, distances, allowed, lengths)[1]
