"""Which lists a search under a filter visits next: the arithmetic of ``search.filtered``.

Compiled, and in NumPy; both do the same operations of float64 in the same order, so that a search
visits the same lists with either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.native import extensions

__all__ = ["RankedLists", "SpreadTable"]

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
_Spread = tuple[float, float, float, int, Float64 | None, Int32, Float64 | None]
_Lists = tuple[Int64, Float32, Int64, Int64, float]

_BISECTIONS, _HALVINGS = 8, 3  # _waves.c has these too
_LEAST = 1e-30


@dataclass(frozen=True)
class SpreadTable:
    """The share of a list's rows that are nearer than a threshold, by the list's distance.

    With l2, a list at squared distance c and threshold t have the position
    ``z = (c + energy - t) / (2 sqrt(c energy))``; for inner products ``z = (t - c) / length``.

    Parameters
    ----------
    energy : float
        Mean squared distance of rows to their centroid; of no meaning for inner products.
    first, step : float
        The position of a table's first entry, and from one to the next.
    shares : ndarray of shape (nbands, width), float64
    """

    energy: float
    first: float
    step: float
    shares: Float64


class RankedLists:
    """The ranked lists of some queries, (nq, n), and how many rows of each pass.

    Parameters
    ----------
    k : int
        Rows to find, at least 1.
    most_missing : float
        Go on until no more of them are expected in lists that were not visited.
    list_nos, distances : ndarray of shape (nq, n), int64 and float32
        Best first; -1 is none.
    counts, sizes : ndarray of shape (nlist,), int64
        Rows of each list that pass, and all of its rows.
    total : int
        Rows that pass.
    bands : ndarray of shape (n,), int32
        Row of the table for each rank.
    table : SpreadTable, optional
        Without, visit the least.
    lengths : ndarray of shape (nq,), float64, optional
        Of the queries, for inner products.
    """

    def __init__(
        self,
        k: int,
        most_missing: float,
        list_nos: Int64,
        distances: Float32,
        counts: Int64,
        sizes: Int64,
        total: int,
        bands: Int32,
        table: SpreadTable | None,
        lengths: Float64 | None,
    ) -> None:
        self._asked = float(k), float(most_missing)
        self.list_nos = np.ascontiguousarray(list_nos)
        self.distances = np.ascontiguousarray(distances)
        self._lists: _Lists = self.list_nos, self.distances, counts, sizes, float(total)
        shares, energy, step, offset, width = None, 1.0, 1.0, 0.0, 1
        if table is not None:
            shares, width = table.shares, table.shares.shape[1]
            energy, step, offset = max(table.energy, _LEAST), table.step, table.first / table.step
        self._spread: _Spread = energy, step, offset, width, shares, bands, lengths

    def first(self, least: int) -> Int64:
        """Columns to visit first: where the threshold expected to hold k rows would end.

        Parameters
        ----------
        least : int
            Lists with a passing row, if there are so many.

        Returns
        -------
        ndarray of shape (nq,), int64
        """
        wanted = np.empty(len(self.list_nos), np.int64)
        if extensions.waving is not None:
            extensions.waving.first(*self._asked, least, self._spread, self._lists, wanted)
        else:
            for query in range(len(wanted)):
                wanted[query] = self._one(query).first_wave(least)
        return wanted

    def further(self, thresholds: Float64, visited: Int64) -> tuple[Int64, Bools]:
        """Columns to have visited after the next wave.

        Parameters
        ----------
        thresholds : ndarray of shape (nq,), float64
            The k-th distance found so far; not a number if fewer were found.
        visited : ndarray of shape (nq,), int64
            Columns visited; -1 for a query that is done.

        Returns
        -------
        wanted : ndarray of shape (nq,), int64
            As ``visited`` if a query has enough, or all ranked lists.
        beyond : ndarray of shape (nq,), bool
            Whether lists that are not ranked are wanted too, after the ranked ones.
        """
        wanted, beyond = np.empty(len(visited), np.int64), np.empty(len(visited), np.bool_)
        if extensions.waving is not None:
            extensions.waving.further(
                *self._asked, self._spread, self._lists, thresholds, visited, wanted, beyond
            )
        else:
            for query, (threshold, so_far) in enumerate(zip(thresholds, visited, strict=True)):
                wanted[query], beyond[query] = so_far, False
                if so_far >= 0:
                    one = self._one(query)
                    wanted[query], beyond[query] = one.next_wave(int(so_far), float(threshold))
        return wanted, beyond

    def _one(self, query: int) -> _Ranked:
        return _Ranked(*self._asked, self._spread, self._lists, query)


class _Ranked:
    """One query's ranked lists; the fields and functions of _waves.c."""

    def __init__(
        self, k: float, most_missing: float, spread: _Spread, lists: _Lists, query: int
    ) -> None:
        self._k, self._most_missing = k, most_missing
        self._energy, self._step, self._offset, self._width, self._shares, bands, lengths = spread
        energy, step, offset = self._energy, self._step, self._offset
        length = self._length = None if lengths is None else float(lengths[query])
        list_nos, distances, (counts, sizes, total) = lists[0][query], lists[1][query], lists[2:]
        there = np.flatnonzero(list_nos >= 0)
        far = distances[there].astype(np.float64)
        self._far, self._near = float(far.max(initial=-np.inf)), float(far.min(initial=np.inf))
        if length is None:
            b = 1 / (2 * np.sqrt(np.maximum(far, _LEAST) * energy) * step)
            p = (far + energy) * b - offset
        else:
            b = np.full(len(far), -1 / (length * step))
            p = far * b - offset
        rows = counts[list_nos[there]]
        self._last = p[-1:], b[-1:], bands[there[-1:]]
        some = np.flatnonzero(rows)
        self._columns, self._counts = there[some], rows[some].astype(np.float64)
        self._sizes = sizes[list_nos[there[some]]].astype(np.float64)
        self._places = p[some], b[some], bands[there[some]]
        self._behind = total - float(rows.sum())

    def _share_at(self, places: tuple[Float64, Float64, Int32], threshold: float) -> Float64:
        assert self._shares is not None
        p, b, bands = places
        at = np.clip(p - threshold * b, 0, self._width - 1)
        return self._shares[bands, (np.nan_to_num(at) + 0.5).astype(np.int64)]

    def _column_of(self, lists: int) -> int:
        lists = min(lists, len(self._columns))
        return int(self._columns[lists - 1]) + 1 if lists else 0

    def _end_of(self, expected: Float64, visited: int, behind: float) -> int:
        """The first column from which on few enough of the expected rows are left, or 0."""
        left = np.cumsum(expected[visited:][::-1])[::-1] + behind
        enough = int(np.count_nonzero(left > self._most_missing))
        return self._column_of(visited + enough) if enough else 0

    def _first_threshold(self) -> float:
        if self._length is not None:
            reach = (abs(self._offset) + self._width) * self._step * self._length
            low, high = self._far + reach, self._near - reach
        else:
            most = 2 * math.sqrt(abs(self._far)) * math.sqrt(self._energy)
            low, high = 0.0, self._far + self._energy + most
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            rows = _sum(self._counts * self._share_at(self._places, middle))
            low, high = (middle, high) if rows < self._k else (low, middle)
        return high

    def first_wave(self, least: int) -> int:
        enough = int(np.count_nonzero(np.cumsum(self._counts) < 2 * self._k)) + 1
        wanted = self._column_of(max(least, enough))
        if self._shares is None or not len(self._columns):
            return wanted
        expected = self._counts * self._share_at(self._places, self._first_threshold())
        return max(wanted, self._end_of(expected, 0, 0.0))

    def _expect(self, visited: int, threshold: float) -> Float64:
        share = self._share_at(self._places, threshold)
        low: Float64 = self._counts * share
        high: Float64 = np.minimum(self._sizes * share, self._counts)
        wanted = self._k + math.sqrt(self._k)
        if _sum(low[:visited]) >= wanted:
            return low
        for _ in range(_HALVINGS):
            middle = np.sqrt(low * high)
            enough = _sum(middle[:visited]) >= wanted
            low, high = (low, middle) if enough else (middle, high)
        return high

    def next_wave(self, visited: int, threshold: float) -> tuple[int, bool]:
        lists = int(np.count_nonzero(self._columns < visited))
        wanted = self._column_of(max(2 * lists, lists + 1))
        if math.isnan(threshold):
            return max(wanted, visited), self._behind > 0
        if self._shares is None:
            return visited, False
        share = self._share_at(self._last, threshold)
        behind = self._behind * (float(share[0]) if len(share) else 1.0)
        end = self._end_of(self._expect(lists, threshold), lists, behind)
        wanted = min(end, self._column_of(max(3 * lists, lists + 1)))
        return max(wanted, visited), behind > self._most_missing


def _sum(values: Float64) -> float:
    """Add in order: NumPy's own sum adds pairs of parts."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0
