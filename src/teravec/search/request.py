"""What users ask of a search, checked against the index."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.arguments import real_number, whole_number
from teravec.errors import InvalidArgument
from teravec.index.opened import OpenedIndex
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.metric import LARGEST_SQUARE, Metric, longest_square
from teravec.memory import require

__all__ = [
    "MOST_RESULTS",
    "as_queries",
    "check_lengths",
    "check_places",
    "check_wanted",
    "checked_candidates",
    "checked_k",
    "checked_nprobe",
    "checked_queries",
    "checked_radius",
    "none_found",
    "padded",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

MOST_RESULTS = 2**31 - 1
"""Of a query: ranks in result files have 32 bits."""

_USUAL = (2.0**-80, 2.0**80)  # squares of lengths
_PRODUCTS = (2.0**-180, 2.0**220)  # their squares: of a length and the longest centroid's
_LARGEST = float(np.finfo(np.float32).max)
_RESULT_BYTES = 12
_PADDED_BYTES = 1 << 30  # more rows of nothing are a mistake


def as_queries(queries: Any) -> npt.NDArray[Any]:
    """Queries as an array of any shape and type, or InvalidArgument; arrays are not copied."""
    if type(queries) is np.ndarray:  # as almost always: a lone query notices the rest
        return queries
    if isinstance(queries, np.ma.MaskedArray) and np.ma.is_masked(queries):
        raise InvalidArgument("masked queries found; fill them or leave them out")
    try:
        return np.asarray(queries)
    except Exception as error:  # anything: what was given may say itself how it becomes an array
        why = " ".join(str(error).split()) or type(error).__name__
        if "inhomogeneous" in why:
            why = "they have unequal lengths"
        raise InvalidArgument(f"queries are no array of numbers: {why}") from None


def checked_queries(queries: Any, d: int) -> Float32:
    """The queries as float32 of shape (nq, d), or InvalidArgument; one vector (d,) is one row."""
    queries = as_queries(queries)
    if queries.shape == (d,):
        queries = queries[None]
    elif queries.shape == (0,):  # of an empty list
        queries = np.empty((0, d), np.float32)
    if queries.ndim != 2 or queries.shape[1] != d:
        hint = "; transpose them" if queries.ndim == 2 and len(queries) == d else ""
        raise InvalidArgument(
            f"queries of shape {queries.shape} found, (nq, {d}) expected, or ({d},) of one{hint}"
        )
    if queries.dtype.kind not in "fiu":
        raise InvalidArgument(
            f"queries of type {_shown_dtype(queries.dtype)} found, numbers expected: convert them "
            "by numpy.asarray(queries, numpy.float32)"
        )
    flags = queries.flags
    if queries.dtype != np.float32 or not (flags.c_contiguous and flags.aligned):
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
            queries = np.require(queries, np.float32, ["C", "A"])
    checked: Float32 = queries
    if longest_square(queries) == np.inf:
        bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        raise InvalidArgument(f"query {bad[0]} holds NaN or an infinite value")
    return checked


def _shown_dtype(dtype: np.dtype[Any]) -> str:
    """A type's name; of records, what they are."""
    return "records" if dtype.names else str(dtype)


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


def checked_k(k: int) -> int:
    """k if it is a whole number that a result file can hold, or InvalidArgument."""
    return whole_number(k, "k", 1, MOST_RESULTS)


def none_found(nq: int) -> tuple[Float32, Int64]:
    """Return the results of an index without rows: distances and ids of shape (nq, 0)."""
    return np.empty((nq, 0), np.float32), np.empty((nq, 0), np.int64)


def padded(distances: Float32, ids: Int64, k: int, worst: float) -> tuple[Float32, Int64]:
    """Results (nq, fewer) as of k: the others are id -1 at the worst distance, as in Faiss."""
    shape = len(ids), k
    require(_RESULT_BYTES * len(ids) * k, _PADDED_BYTES, f"room for {k:,} results a query")
    wide, wide_ids = np.full(shape, worst, np.float32), np.full(shape, -1, np.int64)
    wide[:, : ids.shape[1]], wide_ids[:, : ids.shape[1]] = distances, ids
    return wide, wide_ids


def checked_candidates(candidates: int, *, two_stages: bool) -> int:
    """So many vectors a query, if an index can refine them, or InvalidArgument."""
    candidates = whole_number(candidates, "candidates", 1)
    if not two_stages:
        raise InvalidArgument(
            f"candidates {candidates} given; the index has codes of one stage: leave them out"
        )
    return candidates


def checked_nprobe(nprobe: int) -> int:
    """nprobe if it is a whole number from 1, or InvalidArgument."""
    return whole_number(nprobe, "nprobe", 1)


def checked_radius(radius: float) -> float:
    """The radius if it is a number of float32, or InvalidArgument."""
    return real_number(radius, "radius", -_LARGEST, _LARGEST, "a finite number of float32")


def check_wanted(
    prepared: Float32, list_nos: Int64, distances: Float32, d_index: int, opened: OpenedIndex
) -> None:
    """Raise InvalidArgument unless prepared queries and the lists they want fit these open ones."""
    shape = (len(prepared), d_index)
    fits = list_nos.ndim == 2 and len(list_nos) == len(prepared)
    if prepared.shape != shape or not fits or distances.shape != list_nos.shape:
        raise InvalidArgument(
            f"prepared queries {prepared.shape}, lists {list_nos.shape} and distances "
            f"{distances.shape} do not fit each other and {shape[1]} dimensions"
        )
    if list_nos.size and not (
        _all_open(list_nos, opened) or (opened.is_open(list_nos) | (list_nos == -1)).all()
    ):
        raise InvalidArgument(
            f"lists {int(list_nos.min())} to {int(list_nos.max())} wanted; {_open_lists(opened)}"
        )


def _all_open(list_nos: Int64, opened: OpenedIndex) -> bool:
    """Whether all lists of the index are open, and these are among them or -1."""
    everything = opened.ranges == ((0, opened.runs.nlist),)
    return everything and int(list_nos.min()) >= -1 and int(list_nos.max()) < opened.runs.nlist


def check_places(places: Int64, opened: OpenedIndex) -> None:
    """Raise InvalidArgument unless there is a vector at each place, in open lists."""
    runs, rows = places >> PLACE_BITS, places & ((1 << PLACE_BITS) - 1)
    list_nos = opened.runs.lists_of(runs)
    valid = (runs >= 0) & (runs < len(opened.runs.sizes)) & opened.is_open(list_nos)
    valid[valid] = rows[valid] < opened.runs.sizes[runs[valid]]
    if not valid.all():
        at = int(np.flatnonzero(~valid)[0])
        raise InvalidArgument(
            f"vector {int(rows[at])} of list {int(list_nos[at])} wanted; it is not there; "
            f"{_open_lists(opened)}"
        )


def _open_lists(opened: OpenedIndex) -> str:
    ranges = " and ".join(f"{start} to {stop - 1}" for start, stop in opened.ranges)
    return f"{ranges} are open"
