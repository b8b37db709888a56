"""Precision of an exact search beyond float32: float64 queries, and a check of the distances."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, InvalidSource
from teravec.evaluation.checkpoint import BestSoFar
from teravec.evaluation.exact_scan import Vectors
from teravec.search.request import checked_queries
from teravec.sources import Source

__all__ = ["check_distances", "exact_queries"]

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)
_NO_SQUARE = 1e-100  # shorter differences are checked: their squares may vanish in float64
_WHOLE = 2**53  # float64 holds all whole numbers up to this
_LOOKED_AT = 256


def exact_queries(queries: npt.ArrayLike, d: int) -> Vectors:
    """Return queries (nq, d) as float32 if that holds all their values, otherwise as float64.

    Raises
    ------
    InvalidArgument
        As ``checked_queries``; or a whole number that float64 would round.
    """
    given = np.asarray(queries)
    checked = checked_queries(given, d)
    if np.can_cast(given.dtype, np.float32):
        return checked
    if given.dtype.kind in "iu":
        large = (given > _WHOLE) | (given < -_WHOLE)
        if large.any():
            row = int(np.flatnonzero(large.any(axis=1))[0])
            raise InvalidArgument(
                f"query {row} holds a number above 2^53, which float64 would round; subtract an "
                "offset from all vectors and queries"
            )
    return np.ascontiguousarray(given, np.float64)


def check_distances(source: Source, queries: Vectors, best: BestSoFar) -> None:
    """Raise InvalidSource if float32 cannot hold the distances.

    A single distance that is too large is an error. A distance that is too small becomes 0, which
    is fine for a few vectors. If it happens for most queries, all their neighbours would look
    alike, so that is an error too.
    """
    sizes = np.abs(best.values)
    if (large := np.argwhere(sizes > _LARGEST)).size:
        query, rank = large[0].tolist()
        raise InvalidSource(
            f"query {query} and its neighbour {best.ids[query, rank]}: a distance of "
            f"{sizes[query, rank]:.3g} found, at most {_LARGEST:.3g} (float32) expected; scale "
            "all vectors and queries"
        )
    small = sizes[:, -1] < _SMALLEST
    if 2 * np.count_nonzero(small) <= len(sizes):
        return
    lost = small & (sizes[:, -1] > 0)
    if 2 * np.count_nonzero(lost) > len(sizes) or _have_no_squares(source, queries):
        raise InvalidSource(
            f"{source.files[0].path}: the {sizes.shape[1]} nearest vectors of query "
            f"{int(small.argmax())} and of most others are at distances below {_SMALLEST:.3g}, "
            "which are 0 in float32; scale all vectors and queries"
        )


def _have_no_squares(source: Source, queries: Vectors) -> bool:
    """Whether squares of the first vectors' differences, or of all queries, vanish in float64."""
    first = source.read(0, min(_LOOKED_AT, source.ntotal), source.exact_dtype)
    apart = float(np.abs(first - first[0]).max())
    return 0 < apart < _NO_SQUARE or 0 < float(np.abs(queries).max()) < _NO_SQUARE
