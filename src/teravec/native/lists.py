"""Bookkeeping of lists: which queries want them, where they are kept, and their vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.native import extensions

__all__ = [
    "NOT_KEPT",
    "PLACE_BITS",
    "count_clipped",
    "count_worth_visiting",
    "list_gaps",
    "longest_square",
    "pairs",
    "pin",
    "ranks",
    "read_ids",
    "repeat_pairs",
    "runs",
    "unpin",
]

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Columns = tuple[Int64, Int64, Int32, Float32, npt.NDArray[np.bool_]]
"""List numbers, starts, queries, distances and nearest, as in ``kernels.pairs.Pairs``."""

# _lists.c has these too.
PLACE_BITS = 32
"""A place names a vector: run number << 32 | row within the run, int64.

A run is the rows of one list in one segment. A list of one run has the same number as the run.
"""

NOT_KEPT = -2
"""Stands for the id of a vector whose list is not kept. Ids are 0 or more; -1 is no vector."""

_ROW_MASK = (1 << PLACE_BITS) - 1
_ID_BYTES = 8
_MOST_COUNTED = 15


# ---------------------------------------------------------------------- queries and lists


def pairs(list_nos: Int64, distances: Float32, sizes: Int64 | None) -> Columns:
    """Order the pairs of a matrix of lists to visit by list; parameters as for ``Pairs.of``."""
    n = list_nos.size
    if extensions.listing is None or not n:
        return _pairs(list_nos, distances, sizes)
    lists, starts = np.empty(n, np.int64), np.empty(n + 1, np.int64)
    queries, at = np.empty(n, np.int32), np.empty(n, np.float32)
    nearest = np.empty(n, np.bool_)
    nlists, npairs = extensions.listing.pairs(
        list_nos.shape[1], list_nos, distances, sizes, lists, starts, queries, at, nearest
    )
    return lists[:nlists], starts[: nlists + 1], queries[:npairs], at[:npairs], nearest[:npairs]


def _pairs(list_nos: Int64, distances: Float32, sizes: Int64 | None) -> Columns:
    if sizes is not None:
        list_nos = np.where(sizes[list_nos] == 0, -1, list_nos)
    flat = list_nos.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat, 0, sorter=order) :]
    ordered = flat[order]
    firsts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    firsts = firsts[: len(ordered)]
    queries, ranks = np.divmod(order, max(1, list_nos.shape[1]))
    starts = np.append(firsts, len(ordered)).astype(np.int64)
    distances = distances.ravel()[order]
    return ordered[firsts], starts, queries.astype(np.int32), distances, ranks == 0


def count_worth_visiting(
    prune: float, distances: Float32, allowed: Float32, lengths: Float32 | None
) -> tuple[Int64, int]:
    """Count the lists that each query visits, which are its first ones.

    Parameters
    ----------
    prune : float
    distances : ndarray of shape (nq, n), float32
    allowed : ndarray of shape (n,), float32
        The greatest ``prune * gap`` of each rank.
    lengths : ndarray of shape (nq,), float32, optional
        Lengths of the queries, if distances are inner products.

    Returns
    -------
    counts : ndarray of shape (nq,), int64
    most : int
        The greatest count, at least 1.
    """
    if extensions.listing is not None:
        counts = np.empty(len(distances), np.int64)
        distances = np.ascontiguousarray(distances)
        most = extensions.listing.worth_visiting(prune, distances, allowed, lengths, counts)
        return counts, most
    visited = np.float32(prune) * list_gaps(distances, lengths) <= allowed
    counts = visited.sum(axis=1)
    return counts, max(1, int(counts.max(initial=1)))


def list_gaps(distances: Float32, lengths: Float32 | None) -> Float32:
    """Compute how much farther each centroid is than the query's nearest, (nq, n).

    Parameters as for ``count_worth_visiting``.
    """
    if lengths is None:
        return np.asarray(np.maximum(distances - distances[:, :1], 0), np.float32)
    gaps: Float32 = np.maximum(distances[:, :1] - distances, 0) / lengths[:, None]
    return gaps


def repeat_pairs(columns: Columns, wanted: Int64) -> Columns:
    """Return the pairs of some of the lists, (m,), ascending; one may occur several times.

    Parameters
    ----------
    columns : Columns
    wanted : ndarray of shape (m,), int64
        Each has pairs.
    """
    list_nos, starts, queries, distances, nearest = columns
    if extensions.listing is None:
        at = np.searchsorted(list_nos, wanted)
        counts = starts[at + 1] - starts[at]
        ends = np.concatenate([[0], np.cumsum(counts)])
        some = np.repeat(starts[at] - ends[:-1], counts) + np.arange(ends[-1])
        return wanted, ends, queries[some], distances[some], nearest[some]
    ends, n = np.empty(len(wanted) + 1, np.int64), len(wanted)  # enough for a lone query
    while True:
        rows = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.bool_)
        filled = extensions.listing.repeat_pairs(*columns, wanted, ends, *rows)
        if filled == n:
            return wanted, ends, *rows
        n = filled


def runs(nlist: int, sizes: Int64, list_nos: Int64) -> tuple[Int64, Int64]:
    """Return the runs of lists (n,), list after list, that have vectors; and the list of each.

    Parameters
    ----------
    nlist : int
    sizes : ndarray of shape (nlayers * nlist,), int64
        Vectors of each run.
    list_nos : ndarray of shape (n,), int64
    """
    nlayers = len(sizes) // nlist
    if extensions.listing is None:
        layers = np.arange(0, len(sizes), nlist)
        found = (list_nos[:, None] + layers).ravel()
        found = found[sizes[found] > 0]
        return found, found % nlist
    columns = np.empty((2, nlayers * len(list_nos)), np.int64)
    count = extensions.listing.runs(nlist, sizes, list_nos, *columns)
    return columns[0, :count], columns[1, :count]


# ---------------------------------------------------------------------- kept lists


def pin(keys: Int64, at: Int64, wanted: Bytes, pins: Int32) -> Int64:
    """Count keys as wanted, pin the kept ones, and return where each begins, -1 if not kept."""
    found = np.empty(len(keys), np.int64)
    if extensions.listing is not None:
        extensions.listing.pin(keys, at, wanted, pins, found)
        return found
    np.take(at, keys, out=found)
    _count(keys, wanted)
    pins[keys[found >= 0]] += 1
    return found


def unpin(keys: Int64, pins: Int32) -> None:
    """Take back what ``pin`` or ``keep`` added to the pins of keys."""
    if extensions.listing is not None:
        extensions.listing.unpin(keys, pins)
    else:
        pins[keys] -= 1


def read_ids(
    first: int, places: Int64, at: Int64, sizes: Int64, wanted: Bytes, buffer: Bytes
) -> tuple[Int64, int, int]:
    """Read the ids of places from kept lists, and count those lists as wanted.

    Parameters
    ----------
    first : int
        Key of the ids of list 0.
    places : ndarray of shape (n,), int64
        -1 is none.
    at, sizes, wanted : ndarray of shape (nkeys,)
        Byte of the buffer at which each key's list begins, -1 where it is not kept; its bytes;
        and how often it was wanted.
    buffer : ndarray of uint8

    Returns
    -------
    ids : ndarray of shape (n,), int64
        NOT_KEPT if the list is not kept; -1 for none.
    missing, lists : int
        Places whose list is not kept; distinct lists that were wanted.
    """
    ids = np.empty(len(places), np.int64)
    if extensions.listing is not None:
        missing, lists = extensions.listing.ids(first, places, at, sizes, wanted, buffer, ids)
        return ids, missing, lists
    held = np.flatnonzero(places >= 0)
    keys, rows = first + (places[held] >> PLACE_BITS), places[held] & _ROW_MASK
    kept, distinct = at[keys] >= 0, np.unique(keys)
    _count(distinct, wanted)
    ids.fill(-1)
    ids[held[~kept]] = NOT_KEPT
    offsets = at[keys[kept]] + _ID_BYTES * rows[kept]
    words = buffer[offsets[:, None] + np.arange(_ID_BYTES)]
    ids[held[kept]] = words.view("<i8")[:, 0]
    return ids, int((~kept).sum()), len(distinct)


def _count(keys: Int64, wanted: Bytes) -> None:
    counts = wanted[keys]
    wanted[keys] = counts + (counts < _MOST_COUNTED)


# ---------------------------------------------------------------------- vectors


def longest_square(vectors: Float32) -> float:
    """Return the greatest squared length of rows (n, d); infinite if a value is not finite."""
    flags = vectors.flags  # what came over a network may lie at any byte
    if extensions.listing is not None and flags.c_contiguous and flags.aligned:
        return float(extensions.listing.longest(vectors.shape[1], vectors))
    longest = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64).max(initial=0)
    return float(longest) if np.isfinite(longest) else np.inf


def count_clipped(
    vectors: Float32,
    list_nos: Int32,
    centroids: Float32,
    middle: Float32,
    half: Float32,
    most: float,
    share: float,
) -> int:
    """Count residuals that are far from a box.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
    list_nos : ndarray of shape (n,), int32
    centroids : ndarray of shape (nlist, d), float32
    middle, half : ndarray of shape (d,), float32
        The box.
    most, share : float
        A residual's squared distance from the box is far above ``most``, and above this share of
        its own squared length.
    """
    if extensions.listing is not None:
        box = middle, half, most, share
        return int(extensions.listing.clipped(vectors.shape[1], vectors, list_nos, centroids, *box))
    residuals = vectors - centroids[list_nos]
    beyond = np.square(np.maximum(np.abs(residuals - middle) - half, 0)).sum(axis=1)
    far = beyond > share * np.square(residuals).sum(axis=1)
    return int(np.count_nonzero((beyond > most) & far))


# ---------------------------------------------------------------------- ranks of ids


def ranks(ids: Int64, names: Int64) -> Int64:
    """Find each id's first column in its row of ``names``.

    Parameters
    ----------
    ids : ndarray of shape (n, k), int64
    names : ndarray of shape (n, m), int64

    Returns
    -------
    ndarray of shape (n, k), int64
        m for an id that is not there, and for -1.
    """
    (n, k), m = ids.shape, names.shape[1]
    if not n or not k or not m:
        return np.full((n, k), m, np.int64)
    if extensions.listing is None:
        return _ranks(ids, names)
    found = np.empty((n, k), np.int64)
    extensions.listing.ranks(k, m, np.ascontiguousarray(ids), np.ascontiguousarray(names), found)
    return found


def _ranks(ids: Int64, names: Int64) -> Int64:
    m = names.shape[1]
    every, numbers = np.unique(names, return_inverse=True)
    owners = np.arange(len(ids))[:, None] * len(every)
    keys = (numbers.reshape(names.shape) + owners).ravel()
    order = np.argsort(keys, kind="stable")
    number = np.minimum(np.searchsorted(every, ids), len(every) - 1)
    at = np.minimum(np.searchsorted(keys[order], number + owners), len(keys) - 1)
    there = (every[number] == ids) & (keys[order][at] == number + owners) & (ids != -1)
    return np.asarray(np.where(there, order[at] % m, m))
