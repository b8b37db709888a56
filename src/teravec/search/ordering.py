"""The one order of results: by query, best first; equal distances go by id."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric

__all__ = ["by_query", "first_of_each", "order_of", "sort_rows"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def by_query(
    nq: int, owners: Int64, distances: Float32, ids: Int64, metric: Metric
) -> tuple[Int64, Float32, Int64]:
    """Order results by query, best first; equal distances go by id.

    Parameters
    ----------
    nq : int
    owners, distances, ids : ndarray of shape (n,)
        The query of each result, 0 to nq - 1; its distance, in the index's metric; its id.
    metric : Metric

    Returns
    -------
    lims : ndarray of shape (nq + 1,), int64
        Results of query i are at [lims[i], lims[i + 1]).
    distances : ndarray of shape (n,), float32
    ids : ndarray of shape (n,), int64
    """
    order = np.lexsort((ids, _costs(distances, metric), owners))
    lims = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=nq))])
    return lims.astype(np.int64), distances[order], ids[order]


def first_of_each(
    nq: int, k: int, owners: Int64, distances: Float32, ids: Int64, metric: Metric
) -> tuple[Int64, Int64, Int64]:
    """Which results are among the k first of their query, and where they belong.

    Parameters
    ----------
    nq, k : int
    owners, distances, ids, metric
        As for ``by_query``.

    Returns
    -------
    which : ndarray of shape (m,), int64
        Their positions in the arrays given, in order.
    rows, ranks : ndarray of shape (m,), int64
        Query and rank of each, from 0.
    """
    order = np.lexsort((ids, _costs(distances, metric), owners))
    counts = np.bincount(owners, minlength=nq)
    ranks = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = ranks < k
    which = order[kept]
    return which, owners[which], ranks[kept]


def order_of(distances: Float32, ids: Int64, metric: Metric) -> Int64:
    """Return the order, (n,), of one query's results: best first, equal distances by id."""
    return np.lexsort((ids, _costs(distances, metric)))


def sort_rows(distances: Float32, ids: Int64, metric: Metric) -> tuple[Float32, Int64]:
    """Tables (nq, k) of results whose rows are put in order."""
    order = np.lexsort((ids, _costs(distances, metric)), axis=1)
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


def _costs(distances: Float32, metric: Metric) -> Float32:
    return -distances if metric.larger_is_closer else distances
