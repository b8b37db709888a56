"""The nprobe nearest centroids of queries, and the k smallest values of rows."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.kernels import native as compiled
from teravec.kernels.assignment import over_blocks

__all__ = ["nearest_lists", "smallest_k"]

Floats = npt.NDArray[np.float32]

_SCORE_FLOATS = 1 << 23  # 32 MiB of scores at a time
_KEY_FLOATS = 1 << 21  # scores that the fallback turns into keys at a time: 16 MiB of them
_THREAD_FLOATS = 1 << 17  # fewer scores than this are not worth waking a thread for


def nearest_lists(
    queries: Floats,
    centroids: Floats,
    half_norms: Floats,
    nprobe: int,
    *,
    metric: Literal["l2", "ip"],
    threads: int,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Find each query's nearest centroids by comparing it with all.

    Scores come from one float32 matrix product (on the threads of NumPy's BLAS) per 32 MiB of
    them: ``|c|**2 / 2 - q.c`` for L2, ``-q.c`` for the inner product. Ties go to the lower list.

    Parameters
    ----------
    queries : ndarray of shape (nq, d), float32
    centroids : ndarray of shape (nlist, d), float32
    half_norms : ndarray of shape (nlist,), float32
        ``|c|**2 / 2``, see ``assignment.half_norms``; not read for the inner product.
    nprobe : int
        1 to nlist.
    metric : 'l2' or 'ip'
    threads : int
        Threads that pick the smallest scores.

    Returns
    -------
    list_no : ndarray of shape (nq, nprobe), int64
        Best first.
    distance : ndarray of shape (nq, nprobe), float32
        Squared L2, ascending and at least 0, or inner products, descending.

    Raises
    ------
    InvalidArgument
        Shapes do not fit each other, or nprobe is out of range.
    """
    q = np.require(queries, np.float32, ["C", "A"])
    if q.ndim != 2 or centroids.ndim != 2 or q.shape[1] != centroids.shape[1]:
        raise InvalidArgument(f"queries {q.shape} do not fit centroids {centroids.shape}")
    nlist = len(centroids)
    if metric not in ("l2", "ip"):
        raise InvalidArgument(f"metric is {metric!r}, expected 'l2' or 'ip'")
    if metric == "l2" and half_norms.shape != (nlist,):
        raise InvalidArgument(f"half-norms have shape {half_norms.shape}, expected ({nlist},)")
    if not 1 <= nprobe <= nlist:
        raise InvalidArgument(f"nprobe is {nprobe}, expected 1 to {nlist}")
    list_no = np.empty((len(q), nprobe), np.int64)
    distance = np.empty((len(q), nprobe), np.float32)
    step = max(1, _SCORE_FLOATS // nlist)
    for i in range(0, len(q), step):
        rows = q[i : i + step]
        scores = (-rows) @ centroids.T
        if metric == "l2":
            scores += half_norms
        index, value = smallest_k(scores, nprobe, threads=threads)
        list_no[i : i + step] = index
        if metric == "l2":
            value *= 2
            value += np.einsum("ij,ij->i", rows, rows)[:, None]
            np.maximum(value, 0, out=value)
        else:
            np.negative(value, out=value)
        distance[i : i + step] = value
    return list_no, distance


def smallest_k(scores: Floats, k: int, *, threads: int = 1) -> tuple[npt.NDArray[np.int32], Floats]:
    """Find the k smallest values of every row.

    Parameters
    ----------
    scores : ndarray of shape (n, m), float32
        Infinities count like other values; NaN comes after +inf.
    k : int
        1 to m.
    threads : int
        Rows are shared out among them where there are many scores.

    Returns
    -------
    index : ndarray of shape (n, k), int32
        Columns; of equal values the lower column comes first.
    value : ndarray of shape (n, k), float32
        Ascending.
    """
    data = np.require(scores, np.float32, ["C", "A"])
    if data.ndim != 2 or not 1 <= k <= data.shape[1] < 2**31:
        raise InvalidArgument(f"k is {k}, scores have shape {data.shape}")
    n, m = data.shape
    index = np.empty((n, k), np.int32)
    value = np.empty((n, k), np.float32)
    native, level = compiled.native, compiled.level

    def block(start: int, stop: int) -> None:
        part = slice(start, stop)
        if native is not None:
            native.smallest_k(level, m, k, data[part], index[part], value[part])
        else:
            _smallest_k(data[part], k, index[part], value[part])

    rows = max(1, _THREAD_FLOATS // m, -(-n // max(1, threads)))
    if native is None:
        rows = min(rows, max(1, _KEY_FLOATS // m))
    over_blocks(block, n, rows=rows, threads=threads, even=False)
    return index, value


def _smallest_k(scores: Floats, k: int, index: npt.NDArray[np.int32], value: Floats) -> None:
    """By integers that order as (value, column), so that ties are settled as compiled."""
    bits = np.where(np.isnan(scores), np.float32(np.nan), scores + np.float32(0)).view(np.uint32)
    bits ^= np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    keys = bits.astype(np.uint64) << np.uint64(32)
    keys |= np.arange(scores.shape[1], dtype=np.uint64)
    if k < scores.shape[1]:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    keys.sort(axis=1)
    index[:] = keys & np.uint64(0xFFFFFFFF)
    value[:] = np.take_along_axis(scores, index, axis=1)
