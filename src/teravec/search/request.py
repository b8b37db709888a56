"""What users ask of a search, checked against the index."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument

__all__ = ["check_candidates", "checked_k", "checked_queries", "checked_radius"]

Float32 = npt.NDArray[np.float32]


def checked_queries(queries: Float32, d: int) -> Float32:
    """The queries as float32 of shape (nq, d), or InvalidArgument."""
    queries = np.asarray(queries)
    if queries.ndim != 2 or queries.shape[1] != d:
        raise InvalidArgument(f"queries of shape {queries.shape} found, (nq, {d}) expected")
    if queries.dtype.kind not in "fiu":
        raise InvalidArgument(f"queries of type {queries.dtype} found, numbers expected")
    queries = np.ascontiguousarray(queries, np.float32)
    if len(bad := np.flatnonzero(~np.isfinite(queries).all(axis=1))):
        raise InvalidArgument(f"query {bad[0]} holds NaN or an infinite value")
    return queries


def checked_k(k: int, ntotal: int) -> int:
    """k if it is 1 to ntotal, or InvalidArgument."""
    if not 1 <= k <= ntotal:
        raise InvalidArgument(f"k is {k}; 1 to {ntotal:,} (ntotal) expected")
    return k


def check_candidates(candidates: int, *, two_stages: bool) -> None:
    """Raise InvalidArgument unless an index can refine so many vectors a query."""
    if not two_stages:
        raise InvalidArgument(f"candidates {candidates} given; the index has codes of one stage")
    if candidates < 1:
        raise InvalidArgument(f"candidates is {candidates}; at least 1 expected")


def checked_radius(radius: float) -> float:
    """The radius if it is finite, or InvalidArgument."""
    if not np.isfinite(radius):
        raise InvalidArgument(f"radius is {radius}; a finite number expected")
    return float(radius)
