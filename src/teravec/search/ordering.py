"""Results in no order, put in the order in which they are told: by query, best first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric

__all__ = ["by_query"]

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
    order = np.lexsort((ids, -distances if metric.larger_is_closer else distances, owners))
    lims = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=nq))])
    return lims.astype(np.int64), distances[order], ids[order]
