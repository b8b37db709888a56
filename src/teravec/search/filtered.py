"""A search among the rows that pass a filter: in waves, until enough of them were found.

The lists that hold a passing row are visited in order of distance. How many of each list's rows
pass is known, and the calibration's ``Spread`` says which share of them is nearer than the k-th
found so far. Summed over the lists that were not visited, that is how many of the k nearest are
still missing. A search goes on until these are few enough for the recall asked for.

The sum assumes that within a list rows pass wherever they lie. A filter that is a region of space
breaks that: in lists on its border the rows that pass are those on the query's side. At worst they
are the nearest of the list. Which of both it is, visited lists tell: they should have brought k
rows. The estimate lies between both, in the logarithm, where the visited lists would have brought
``k + sqrt(k)`` (docs/design/0049-recall-under-a-filter.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from teravec.index.spread import Spread, bands_of
from teravec.kernels.metric import Metric
from teravec.search.ordering import sort_rows

__all__ = ["FilteredEffort", "FilteredSteps", "Visits", "search_filtered"]

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_LEAST_LISTS = 4  # of the first wave
_HORIZON = 1024  # lists ranked at first; four times as many where these do not suffice
_GROWTH = 3  # of the lists visited, from one wave to the next at most
_STEPS = 8  # between rows that pass anywhere in a list and rows that pass where they are nearest
_BISECTIONS = 12


@dataclass(frozen=True)
class FilteredEffort:
    """How far a search under a filter goes.

    Parameters
    ----------
    nprobe : int
        Lists to visit, of those that hold a passing row: at least so many, while there are some.
    compare_all : int
        If no more lists hold a passing row, visit all of them.
    spread : Spread, optional
        With it, go on until the rows expected to be missing are at most ``missing`` times those
        asked for. Without, until k are found.
    missing : float
    candidates : int, optional
        As in ``Effort``.
    """

    nprobe: int
    compare_all: int
    spread: Spread | None = None
    missing: float = 0.0
    candidates: int | None = None


@dataclass
class Visits:
    """What a filtered search did, for ``explain``.

    Attributes
    ----------
    compared_all : bool
        Whether all lists with a passing row were visited, because they are few.
    waves : int
    lists : ndarray of shape (nq,), int64
        Lists visited by each query.
    list_nos : list of ndarray
        What each wave visited; -1 is none.
    """

    compared_all: bool
    waves: int
    lists: Int64
    list_nos: list[Int64] = field(default_factory=list)

    def all_lists(self) -> Int64:
        """Return the lists that some query visited, ascending."""
        every = np.concatenate([np.empty(0, np.int64), *(each.ravel() for each in self.list_nos)])
        found = np.unique(every)
        return found[found >= 0]


class FilteredSteps(Protocol):
    """What a filtered search needs of an index."""

    @property
    def metric(self) -> Metric: ...

    def rank(self, nprobe: int) -> tuple[Int64, Float32]:
        """The nprobe nearest lists of each query, and their distances, (nq, nprobe)."""

    def scan(
        self, rows: Int64, list_nos: Int64, distances: Float32, k: int
    ) -> tuple[Float32, Int64]:
        """The k nearest passing rows of some queries (n,), in lists (n, m), -1 for none."""


def search_filtered(
    steps: FilteredSteps,
    prepared: Float32,
    k: int,
    effort: FilteredEffort,
    list_counts: Int64,
    list_sizes: Int64,
) -> tuple[Float32, Int64, Visits]:
    """The k nearest of each query among the rows that pass.

    Parameters
    ----------
    steps : FilteredSteps
    prepared : ndarray of shape (nq, d_index), float32
    k : int
    effort : FilteredEffort
    list_counts, list_sizes : ndarray of shape (nlist,), int64
        Rows of each list that pass, and all of its rows.

    Returns
    -------
    distances : ndarray of shape (nq, k), float32, best first
    ids : ndarray of shape (nq, k), int64
        -1 only where fewer than k rows pass.
    visits : Visits
    """
    nq, nlist = len(prepared), len(list_counts)
    matching = int(np.count_nonzero(list_counts))
    best = np.full((nq, k), steps.metric.worst, np.float32)
    ids = np.full((nq, k), -1, np.int64)
    visits = Visits(matching <= effort.compare_all, 0, np.zeros(nq, np.int64))
    if not matching or not nq:
        return best, ids, visits
    horizon = nlist if visits.compared_all else min(nlist, max(_HORIZON, 4 * effort.nprobe))
    ranked = _Ranked(steps, prepared, k, effort, list_counts, list_sizes, horizon)
    visited = np.zeros(nq, np.int64)  # columns of the ranked lists
    wanted = np.full(nq, horizon) if visits.compared_all else ranked.first()
    going = np.ones(nq, np.bool_)
    while going.any():
        rows = np.flatnonzero(going & (wanted > visited))
        if len(rows):
            list_nos, distances = ranked.take(rows, visited, wanted)
            visits.waves += 1
            visits.list_nos.append(list_nos)
            visits.lists[rows] += (list_nos >= 0).sum(1)
            found = steps.scan(rows, list_nos, distances, k)
            best[rows], ids[rows] = _merge(best[rows], ids[rows], *found, steps.metric)
            visited[rows] = wanted[rows]
        if visits.compared_all:
            break
        wanted, beyond = ranked.next(visited, best, ids)
        going &= (wanted > visited) | beyond
        if going.any() and not (going & (wanted > visited)).any():  # then all others wait
            ranked.grow()
            wanted, _ = ranked.next(visited, best, ids)
    return best, ids, visits


def _merge(
    best: Float32, ids: Int64, more: Float32, more_ids: Int64, metric: Metric
) -> tuple[Float32, Int64]:
    """The k best of two results a query; ids of -1 come last."""
    distances, joined = np.concatenate([best, more], 1), np.concatenate([ids, more_ids], 1)
    distances = np.where(joined < 0, np.float32(metric.worst), distances)
    distances, joined = sort_rows(distances, joined, metric)
    return distances[:, : best.shape[1]], joined[:, : best.shape[1]]


class _Ranked:
    """The ranked lists of all queries, (nq, horizon), and what is expected of them."""

    def __init__(
        self,
        steps: FilteredSteps,
        prepared: Float32,
        k: int,
        effort: FilteredEffort,
        list_counts: Int64,
        list_sizes: Int64,
        horizon: int,
    ) -> None:
        self._steps, self._k, self._effort = steps, k, effort
        self._list_counts, self._list_sizes = list_counts, list_sizes
        self._total = int(list_counts.sum())
        self._lengths: Float64 | None = None
        if steps.metric.larger_is_closer:
            lengths = np.linalg.norm(prepared.astype(np.float64), axis=1)
            self._lengths = np.where(lengths > 0, lengths, 1.0)
        self._list_nos = np.empty((len(prepared), 0), np.int64)
        self._distances = np.empty((len(prepared), 0), np.float32)
        self._rank(horizon)

    def _rank(self, horizon: int) -> None:
        ranked = self._steps.rank(horizon)
        if self._list_nos.shape[1]:
            ranked = _append_new(self._list_nos, self._distances, *ranked)
        self._list_nos, self._distances = ranked
        there = self._list_nos >= 0
        at = np.where(there, self._list_nos, 0)
        self._counts = np.where(there, self._list_counts[at], 0)
        self._sizes = np.where(there, self._list_sizes[at], 0)
        self._bands = bands_of(np.arange(self._list_nos.shape[1]))
        self._lists_before: Int64 = np.cumsum(self._counts > 0, 1, dtype=np.int64)
        self._rows_before = np.cumsum(self._counts, 1)
        # Rows behind the ranked lists count as if they were in a list as far as the last of these.
        self._behind = self._total - self._rows_before[:, -1]

    def take(self, rows: Int64, visited: Int64, wanted: Int64) -> tuple[Int64, Float32]:
        """The lists of columns [visited, wanted) of some queries that hold a passing row."""
        start, stop = int(visited[rows].min()), int(wanted[rows].max())
        columns = np.arange(start, stop)
        mine = (columns >= visited[rows, None]) & (columns < wanted[rows, None])
        mine &= self._counts[rows, start:stop] > 0
        width = int(mine.sum(1).max(initial=0))
        order = np.argsort(~mine, axis=1, kind="stable")[:, :width]
        list_nos = np.where(mine, self._list_nos[rows, start:stop], -1)
        return (
            np.ascontiguousarray(np.take_along_axis(list_nos, order, 1)),
            np.ascontiguousarray(np.take_along_axis(self._distances[rows, start:stop], order, 1)),
        )

    def first(self) -> Int64:
        """Columns to visit at first: where the threshold expected to hold k rows would end."""
        enough = np.minimum(2 * self._k, self._rows_before[:, -1])
        least = self._columns_of_lists(max(_LEAST_LISTS, self._effort.nprobe))
        least = np.maximum(least, _first_at_least(self._rows_before, enough))
        spread = self._effort.spread
        if spread is None:
            return least
        thresholds = self._expected_thresholds(spread)
        expected = self._counts * self._shares(spread, thresholds)
        return np.maximum(least, self._end(expected, np.zeros(len(least))))

    def _expected_thresholds(self, spread: Spread) -> Float64:
        """Find where k rows that pass are expected to be nearer, by bisection."""
        far = self._distances.astype(np.float64)
        scale = np.sqrt(np.abs(far).max(1)) if self._lengths is None else self._lengths
        low, high = self._bounds(spread, far, scale)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            rows = (self._counts * self._shares(spread, middle)).sum(1)
            wider = rows < self._k
            low, high = np.where(wider, middle, low), np.where(wider, high, middle)
        return high

    def _bounds(self, spread: Spread, far: Float64, scale: Float64) -> tuple[Float64, Float64]:
        """Thresholds that no row, and that about every row of the ranked lists, is nearer than."""
        if self._lengths is None:
            return np.zeros(len(far)), far.max(1) + spread.energy + 2 * scale * spread.energy**0.5
        width = len(spread.table[0]) * spread.step
        reach = (abs(spread.first) + width) * scale
        return far.max(1) + reach, far.min(1) - reach

    def _shares(self, spread: Spread, thresholds: Float64) -> Float64:
        return spread.shares_nearer(self._distances, self._bands, thresholds, self._lengths)

    def _columns_of_lists(self, nlists: int) -> Int64:
        """Columns that hold so many lists with a passing row, or all."""
        return _first_at_least(self._lists_before, np.minimum(nlists, self._lists_before[:, -1]))

    def next(self, visited: Int64, best: Float32, ids: Int64) -> tuple[Int64, Bools]:
        """Columns to have visited after the next wave, and whether they end too early.

        Returns
        -------
        wanted : ndarray of shape (nq,), int64
            As ``visited`` where a query has enough, or all ranked lists.
        beyond : ndarray of shape (nq,), bool
            Whether lists that are not ranked are wanted too, after the ranked ones.
        """
        k = min(self._k, self._total)
        short = ids[:, k - 1] < 0
        end = self._columns_of(visited, 2)
        wanted = np.where(short, np.maximum(visited, end), visited)
        beyond = short & (self._behind > 0)
        spread = self._effort.spread
        if spread is None or short.all():
            return wanted, beyond
        shares = self._shares(spread, best[:, k - 1].astype(np.float64))
        behind = shares[:, -1] * self._behind
        end = self._end(self._correct(shares, visited), behind)
        end = np.maximum(visited, np.minimum(end, self._columns_of(visited, _GROWTH)))
        far = behind > self._most_missing
        return np.where(short, wanted, end), np.where(short, beyond, far)

    def _correct(self, shares: Float64, visited: Int64) -> Float64:
        """Expected rows of each list, between those of any filter and those of the worst one."""
        anywhere = self._counts * shares
        nearest = np.minimum(self._counts, self._sizes * shares)
        mine = np.arange(shares.shape[1]) < visited[:, None]
        wanted = self._k + np.sqrt(self._k)
        found = np.where(mine, anywhere, 0).sum(1)
        short = np.flatnonzero(found < wanted)
        if not len(short):
            return anywhere
        low = np.maximum(anywhere[short], 1e-300)
        ratio = np.log(np.maximum(nearest[short], 1e-300) / low)
        weight = np.ones(len(short))
        for step in range(_STEPS - 1, -1, -1):  # the least weight that suffices
            rows = low * np.exp(ratio * (step / _STEPS))
            enough = np.where(mine[short], rows, 0).sum(1) >= wanted
            weight[enough] = step / _STEPS
        corrected = anywhere.copy()
        corrected[short] = low * np.exp(ratio * weight[:, None])
        return corrected

    @property
    def _most_missing(self) -> float:
        return self._effort.missing * min(self._k, self._total)

    def _end(self, expected: Float64, behind: Float64) -> Int64:
        """The first column from which on few enough rows are expected."""
        left = np.cumsum(expected[:, ::-1], 1)[:, ::-1] + behind[:, None]
        return np.asarray((left > self._most_missing).sum(1), np.int64)

    def _columns_of(self, visited: Int64, times: int) -> Int64:
        """Columns that hold so many times the matching lists visited, and at least one more."""
        there = np.maximum(visited - 1, 0)
        lists = np.take_along_axis(self._lists_before, there[:, None], 1)[:, 0] * (visited > 0)
        more = np.maximum(lists * times, lists + 1)
        return _first_at_least(self._lists_before, np.minimum(more, self._lists_before[:, -1]))

    def grow(self) -> None:
        """Rank four times as many lists."""
        self._rank(min(len(self._list_counts), 4 * self._list_nos.shape[1]))


def _append_new(
    list_nos: Int64, distances: Float32, more: Int64, more_distances: Float32
) -> tuple[Int64, Float32]:
    """Append lists that are not there yet; an approximate coarse step may order them anew."""
    new = np.array([~np.isin(b, a) for a, b in zip(list_nos, more, strict=True)])
    order = np.argsort(~new, axis=1, kind="stable")
    keep = np.take_along_axis(new, order, 1)
    more = np.where(keep, np.take_along_axis(more, order, 1), -1)
    more_distances = np.take_along_axis(more_distances, order, 1)
    width = int(keep.sum(1).max(initial=0))
    return (
        np.concatenate([list_nos, more[:, :width]], 1),
        np.concatenate([distances, more_distances[:, :width]], 1),
    )


def _first_at_least(sums: Int64, values: Int64) -> Int64:
    """For each row of ascending sums, how many columns reach a value."""
    return np.asarray((sums < values[:, None]).sum(1) + (values > 0), np.int64)
