"""What users ask of a search, checked against the index."""

from __future__ import annotations

from typing import SupportsFloat

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, whole_number
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.metric import LARGEST_SQUARE, Metric, longest_square

__all__ = [
    "check_candidates", "check_lengths", "check_places", "check_wanted", "checked_k",
    "checked_queries", "checked_radius",
]  # fmt: skip

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_USUAL = (2.0**-80, 2.0**80)  # squares of lengths
_PRODUCTS = (2.0**-180, 2.0**220)  # their squares: of a length and the longest centroid's
_LARGEST = float(np.finfo(np.float32).max)


def checked_queries(queries: Float32, d: int) -> Float32:
    """The queries as float32 of shape (nq, d), or InvalidArgument."""
    try:
        queries = np.asarray(queries)
    except ValueError:
        raise InvalidArgument(f"queries of unequal lengths found, (nq, {d}) expected") from None
    if queries.ndim != 2 or queries.shape[1] != d:
        raise InvalidArgument(f"queries of shape {queries.shape} found, (nq, {d}) expected")
    if queries.dtype.kind not in "fiu":
        raise InvalidArgument(f"queries of type {queries.dtype} found, numbers expected")
    flags = queries.flags
    if queries.dtype != np.float32 or not (flags.c_contiguous and flags.aligned):
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
            queries = np.require(queries, np.float32, ["C", "A"])
    if longest_square(queries) == np.inf:
        bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        raise InvalidArgument(f"query {bad[0]} holds NaN or an infinite value")
    return queries


def check_lengths(prepared: Float32, metric: Metric, centroids: Float32) -> None:
    """Refuse prepared queries whose distances may be beyond float32.

    For inner products that depends on the vectors too, which centroids stand for. They are looked
    at where a query is far longer or shorter than usual.

    Raises
    ------
    InvalidArgument
        Names the query.
    """
    longest = longest_square(prepared)
    if metric is Metric.L2:
        if longest > LARGEST_SQUARE:
            long = np.flatnonzero(~(_squares(prepared) <= LARGEST_SQUARE))
            raise InvalidArgument(
                f"query {long[0]} is so long that its squared distances are beyond float32; "
                "scale all vectors and queries"
            )
    elif metric is Metric.IP and (len(prepared) > 1 or not _USUAL[0] < longest < _USUAL[1]):
        _check_products(_squares(prepared), centroids)


def _squares(vectors: Float32) -> Float64:
    squares: Float64 = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return squares


def _check_products(squares: Float64, centroids: Float32) -> None:
    unusual = (squares > _USUAL[1]) | ((squares < _USUAL[0]) & (squares > 0))
    if not unusual.any():
        return
    products = np.where(unusual, squares * longest_square(centroids), 1)
    bad = np.flatnonzero((products > _PRODUCTS[1]) | ((products > 0) & (products < _PRODUCTS[0])))
    if len(bad):
        length = float(np.sqrt(squares[bad[0]]))
        raise InvalidArgument(
            f"query {bad[0]} is {length:.3g} long, and inner products with it are beyond float32; "
            f"divide it by {length:.3g}: its neighbours stay the same"
        )


def checked_k(k: int, ntotal: int) -> int:
    """k if it is 1 to ntotal, or InvalidArgument."""
    k = whole_number(k, "k")
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
    """The radius if it is a number of float32, or InvalidArgument."""
    if not isinstance(radius, SupportsFloat) or not -_LARGEST <= radius <= _LARGEST:
        raise InvalidArgument(f"radius is {radius!r}; a finite number of float32 expected")
    return float(radius)


def check_wanted(
    prepared: Float32, list_nos: Int64, distances: Float32, d_index: int, lists: tuple[int, int]
) -> None:
    """Raise InvalidArgument unless prepared queries and the lists they want fit these open ones."""
    shape = (len(prepared), d_index)
    fits = list_nos.ndim == 2 and len(list_nos) == len(prepared)
    if prepared.shape != shape or not fits or distances.shape != list_nos.shape:
        raise InvalidArgument(
            f"prepared queries {prepared.shape}, lists {list_nos.shape} and distances "
            f"{distances.shape} do not fit each other and {shape[1]} dimensions"
        )
    start, stop = lists
    if list_nos.size:
        low, high = int(np.where(list_nos < 0, start, list_nos).min()), int(list_nos.max())
        if list_nos.min() < -1 or low < start or high >= stop:
            raise InvalidArgument(
                f"lists {int(list_nos.min())} to {high} wanted; {start} to {stop - 1} are open"
            )


def check_places(places: Int64, lists: tuple[int, int], sizes: Int64) -> None:
    """Raise InvalidArgument unless there is a vector at each place, in these open lists."""
    start, stop = lists
    list_nos, rows = places >> PLACE_BITS, places & ((1 << PLACE_BITS) - 1)
    there = (list_nos >= start) & (list_nos < stop)
    there[there] = rows[there] < sizes[list_nos[there]]
    if not there.all():
        place = int(places[~there][0])
        raise InvalidArgument(
            f"vector {place & ((1 << PLACE_BITS) - 1)} of list {place >> PLACE_BITS} wanted; "
            f"it is not in lists {start} to {stop - 1}, which are open"
        )
