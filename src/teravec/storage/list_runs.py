"""Cutting lists into runs of bounded size, for work in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["list_runs"]


def list_runs(sizes: npt.NDArray[np.int64], rows_most: int) -> Iterator[tuple[int, int, bool]]:
    """Cut lists into as few runs as hold at most ``rows_most`` vectors each.

    Parameters
    ----------
    sizes : ndarray of shape (n,), int64
        Vectors of each list.
    rows_most : int

    Yields
    ------
    start, stop : int
        Lists [start, stop), in order.
    fits : bool
        False for a single list that is larger than ``rows_most``.
    """
    stops = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(stops[start] - sizes[start])
        stop = int(np.searchsorted(stops, before + rows_most, side="right"))
        fits = stop > start
        stop = stop if fits else start + 1
        yield start, stop, fits
        start = stop
