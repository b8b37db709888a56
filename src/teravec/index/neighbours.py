"""Exact neighbours of known queries among some rows, as records that can be merged. Pure functions.

A record with an id is a neighbour. Rows that are as far as a query's record without an id, or
farther, are not all listed; without such a record, all rows are. So the neighbours of several
groups of rows are merged, and rows removed, without looking at any row again: what is nearer than
each group's limit is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NEIGHBOUR", "find_limits", "make_table", "merge_neighbours", "of_table", "remove_rows"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Records = npt.NDArray[Any]

NEIGHBOUR = np.dtype([("query", "<i4"), ("cost", "<f4"), ("id", "<i8")])
"""Number of a query; squared L2 distance or negated similarity; id, or -1 for a limit."""

_LIMIT = -1


def of_table(costs: Float64, ids: Int64, *, complete: bool) -> Records:
    """Make records of a table of nearest rows.

    Parameters
    ----------
    costs, ids : ndarray of shape (nq, m)
        Best first; id -1 where there are no more rows.
    complete : bool
        Whether all rows are in the table. Otherwise rows beyond a full row's last are not listed.
    """
    records = np.empty(ids.shape, NEIGHBOUR)
    records["query"] = np.arange(len(ids))[:, None]
    records["cost"], records["id"] = costs, ids
    last = records[ids[:, -1] != -1, -1]
    last["cost"], last["id"] = np.nextafter(last["cost"], np.float32(np.inf)), _LIMIT
    return np.concatenate([records[ids != -1], last[: 0 if complete else None]])


def find_limits(records: Records, nq: int) -> Float64:
    """Return each query's limit, (nq,); infinite if there is none."""
    limits = np.full(nq, np.inf)
    some = records[records["id"] == _LIMIT]
    np.minimum.at(limits, some["query"], some["cost"].astype(np.float64))
    return limits


def merge_neighbours(parts: Sequence[Records], nq: int) -> Records:
    """Merge the neighbours among several groups of rows, ordered by query, cost and id."""
    records = np.concatenate([np.empty(0, NEIGHBOUR), *parts])
    limits = find_limits(records, nq)
    kept = records[(records["id"] != _LIMIT) & (records["cost"] < limits[records["query"]])]
    bounded = np.flatnonzero(np.isfinite(limits))
    last = np.empty(len(bounded), NEIGHBOUR)
    last["query"], last["cost"], last["id"] = bounded, limits[bounded], _LIMIT
    records = np.concatenate([kept, last])
    return records[np.lexsort((records["id"], records["cost"], records["query"]))]


def remove_rows(records: Records, hidden: npt.NDArray[np.bool_]) -> Records:
    """Leave out the rows that are hidden, (n,); limits stay."""
    kept: Records = records[~hidden | (records["id"] == _LIMIT)]
    return kept


def make_table(records: Records, nq: int, k: int) -> tuple[Float64, Int64, npt.NDArray[np.bool_]]:
    """Make a table of the k nearest rows of each query.

    Parameters
    ----------
    records : ndarray
        As ``merge_neighbours`` returns them.
    nq, k : int

    Returns
    -------
    costs : ndarray of shape (nq, k), float64, ascending; infinite where there are no more rows
    ids : ndarray of shape (nq, k), int64; -1 where there are no more rows
    known : ndarray of shape (nq,), bool
        Whether the k nearest are known.
    """
    rows = records[records["id"] != _LIMIT]
    counts = np.bincount(rows["query"], minlength=nq)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = rows[rank < k]
    costs, ids = np.full((nq, k), np.inf), np.full((nq, k), -1, np.int64)
    costs[first["query"], rank[rank < k]] = first["cost"]
    ids[first["query"], rank[rank < k]] = first["id"]
    return costs, ids, (counts >= k) | np.isinf(find_limits(records, nq))
