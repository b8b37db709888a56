"""Searches in which each query has a filter of its own: one search for each filter, joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.filters.each import FilterGroup

__all__ = ["query_each", "range_search_each", "search_each"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def search_each(
    groups: Sequence[FilterGroup], search: Callable[[FilterGroup], tuple[Float32, Int64]], k: int
) -> tuple[Float32, Int64]:
    """Join the results (n, k) of each group's queries into those of all, in order."""
    nq = sum(len(group.rows) for group in groups)
    distances, ids = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
    for group in groups:
        with group.naming():
            distances[group.rows], ids[group.rows] = search(group)
    return distances, ids


def range_search_each(
    groups: Sequence[FilterGroup], search: Callable[[FilterGroup], tuple[Int64, Float32, Int64]]
) -> tuple[Int64, Float32, Int64]:
    """Join the results of each group's range search into those of all queries, in order."""
    nq = sum(len(group.rows) for group in groups)
    found = []
    for group in groups:
        with group.naming():
            found.append(search(group))
    owners = [np.repeat(g.rows, np.diff(f[0])) for g, f in zip(groups, found, strict=True)]
    owner = np.concatenate([np.empty(0, np.int64), *owners])
    order = np.argsort(owner, kind="stable")
    lims = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=nq))]).astype(np.int64)
    distances = np.concatenate([np.empty(0, np.float32), *(f[1] for f in found)])
    ids = np.concatenate([np.empty(0, np.int64), *(f[2] for f in found)])
    return lims, distances[order], ids[order]


def query_each(groups: Sequence[FilterGroup], query: Callable[[FilterGroup], Any]) -> Any:
    """Join the tables of each group's queries into one of all, in order."""
    tables = []
    for group in groups:
        with group.naming():
            table = query(group)
        tables.append(table.set_column(0, "query", pa.array(group.rows[table["query"].to_numpy()])))
    joined = pa.concat_tables(tables)
    order = np.argsort(joined["query"].to_numpy(), kind="stable")
    return joined.take(pa.array(order))
