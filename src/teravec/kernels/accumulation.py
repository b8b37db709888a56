"""Summing many vectors by their list."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.kernels.blocks import over_blocks
from teravec.native import extensions as compiled
from teravec.native.extensions import either

__all__ = ["accumulate"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


def accumulate(
    x: npt.ArrayLike,
    list_no: Int32,
    sums: Float64,
    counts: Int64 | None,
    *,
    threads: int,
    weights: Float32 | None = None,
) -> None:
    """Add vectors to the sums of their lists, in place.

    Threads divide the columns among them, so the sums do not depend on the number of threads. The
    compiled kernels add in the order of the vectors. The fallback sums a call's vectors first.

    Parameters
    ----------
    x : array of shape (n, d), converted to float32
    list_no : ndarray of shape (n,), int32
        Each within 0 to nlist - 1.
    sums : ndarray of shape (nlist, d), float64
    counts : ndarray of shape (nlist,), int64, optional
        Vectors of each list, whatever their weights.
    threads : int
    weights : ndarray of shape (n,), float32, optional
        Factor of each vector; products and sums are in float64.

    Raises
    ------
    InvalidArgument
        The shapes or dtypes do not fit each other, or a list number is out of range.
    """
    data = np.require(x, np.float32, ["C", "A"])
    lists = np.require(list_no, np.int32, ["C", "A"])
    if data.shape != (len(lists), sums.shape[1]):
        raise InvalidArgument(
            f"vectors {data.shape}, lists {lists.shape} and sums {sums.shape} do not fit"
        )
    if sums.dtype != np.float64:
        raise InvalidArgument(f"sums are {sums.dtype}, expected float64")
    if counts is not None and (counts.shape != sums.shape[:1] or counts.dtype != np.int64):
        raise InvalidArgument(f"counts are {counts.dtype} {counts.shape}, sums {sums.shape}")
    if weights is not None:
        weights = np.require(weights, np.float32, ["C", "A"])
        if weights.shape != lists.shape:
            raise InvalidArgument(f"weights {weights.shape}, lists {lists.shape} do not fit")
    if len(lists) and (lists.min() < 0 or lists.max() >= len(sums)):
        raise InvalidArgument(f"list numbers {lists.min()} to {lists.max()} of {len(sums)} lists")
    _accumulate(data, weights, lists, sums, counts, threads)


def _accumulate_compiled(
    data: Float32,
    weights: Float32 | None,
    lists: Int32,
    sums: Float64,
    counts: Int64 | None,
    threads: int,
) -> None:
    level, d = compiled.level, data.shape[1]

    def columns(start: int, stop: int) -> None:
        first = counts if start == 0 else None
        compiled.native.accumulate(level, d, data, weights, lists, sums, first, start, stop)

    share = -(-d // max(1, threads))
    over_blocks(columns, d, rows=max(32, -(-share // 16) * 16), threads=threads, even=False)


def _accumulate_in_numpy(
    data: Float32,
    weights: Float32 | None,
    lists: Int32,
    sums: Float64,
    counts: Int64 | None,
    threads: int,
) -> None:
    if not len(lists):
        return
    order = np.argsort(lists, kind="stable")
    found, first, number = np.unique(lists[order], return_index=True, return_counts=True)
    rows = data[order].astype(np.float64)
    if weights is not None:
        rows *= weights[order, None]
    sums[found] += np.add.reduceat(rows, first, axis=0)
    if counts is not None:
        counts[found] += number


_accumulate = either("native", _accumulate_compiled, _accumulate_in_numpy)
