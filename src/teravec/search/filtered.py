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

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from teravec.index.spread import Spread, bands_of
from teravec.kernels.metric import Metric
from teravec.native.waves import RankedLists
from teravec.search.ordering import sort_rows

__all__ = ["FilteredEffort", "FilteredSteps", "MergedWaves", "Visits", "Waves", "search_filtered"]

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Scan = Callable[[Int64, Int64, Float32], tuple[Float32, Int64]]

_LEAST_LISTS = 4  # of the first wave
_DONE = -1  # for the columns that a query has visited
_HORIZON = 1024  # lists ranked at first; four times as many where these do not suffice


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

    def count(self, rows: Int64, list_nos: Int64) -> None:
        """Add a wave's lists (n, m) of some queries (n,)."""
        self.waves += 1
        self.list_nos.append(list_nos)
        self.lists[rows] += (list_nos >= 0).sum(1)

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

    def measure(self, list_nos: Int64) -> Float32:
        """The distance of each query to each of some lists (n,): (nq, n)."""

    def begin(self, k: int) -> Waves:
        """Begin a scan for the k nearest passing rows of each query."""


class Waves(Protocol):
    """The nearest passing rows of some queries, in lists that become known wave after wave."""

    def visit(self, rows: Int64, list_nos: Int64, distances: Float32) -> None:
        """Scan lists (n, m) for some of the queries (n,), the nearest first; -1 is none."""

    def thresholds(self, rank: int) -> Float64:
        """Distances of a rank, from 0, so far, (nq,); not a number where fewer were found."""

    def result(self) -> tuple[Float32, Int64]:
        """Distances and ids (nq, k), best first; -1 for none."""


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
    matching = np.flatnonzero(list_counts)
    visits = Visits(len(matching) <= effort.compare_all, 0, np.zeros(nq, np.int64))
    if not nq or not len(matching):
        worst = np.full((nq, k), steps.metric.worst, np.float32)
        return worst, np.full((nq, k), -1, np.int64), visits
    waves = steps.begin(k)
    if visits.compared_all:
        everywhere = np.broadcast_to(matching, (nq, len(matching)))
        distances, list_nos = sort_rows(steps.measure(matching), everywhere, steps.metric)
        waves.visit(np.arange(nq), list_nos, distances)
        visits.count(np.arange(nq), list_nos)
    else:
        horizon = min(nlist, max(_HORIZON, 4 * effort.nprobe))
        ranked = _Ranked(steps, prepared, k, effort, list_counts, list_sizes, horizon)
        _visit_in_waves(ranked, waves, visits)
    return *waves.result(), visits


def _visit_in_waves(ranked: _Ranked, waves: Waves, visits: Visits) -> None:
    """Visit the nearest lists until each query has enough."""
    visited = np.zeros(len(visits.lists), np.int64)  # columns of the ranked lists
    wanted = ranked.first()
    while True:
        rows = np.flatnonzero(wanted > visited)
        if len(rows):
            list_nos, distances = ranked.take(rows, visited, wanted)
            waves.visit(rows, list_nos, distances)
            visits.count(rows, list_nos)
            visited[rows] = wanted[rows]
        wanted, beyond = ranked.next(visited, waves)
        going = (wanted > visited) | beyond
        if not going.any():
            return
        visited[~going] = wanted[~going] = _DONE
        if not (wanted > visited).any():  # all that go on wait for more ranked lists
            ranked.grow()
            wanted, _ = ranked.next(visited, waves)


class MergedWaves:
    """Waves of scans that know nothing of each other: the k best of all are merged.

    Parameters
    ----------
    scan : callable
        Returns the k nearest passing rows of some queries, given as for ``Waves.visit``.
    nq, k : int
    metric : Metric
    """

    def __init__(self, scan: Scan, nq: int, k: int, metric: Metric) -> None:
        self._scan, self._metric = scan, metric
        self._distances = np.full((nq, k), metric.worst, np.float32)
        self._ids = np.full((nq, k), -1, np.int64)

    def visit(self, rows: Int64, list_nos: Int64, distances: Float32) -> None:
        """As ``Waves.visit``."""
        found = self._scan(rows, list_nos, distances)
        before = self._distances[rows], self._ids[rows]
        self._distances[rows], self._ids[rows] = _merge(*before, *found, self._metric)

    def thresholds(self, rank: int) -> Float64:
        """As ``Waves.thresholds``."""
        far = self._distances[:, rank].astype(np.float64)
        return np.where(self._ids[:, rank] < 0, np.nan, far)

    def result(self) -> tuple[Float32, Int64]:
        """As ``Waves.result``."""
        return self._distances, self._ids


def _merge(
    best: Float32, ids: Int64, more: Float32, more_ids: Int64, metric: Metric
) -> tuple[Float32, Int64]:
    """The k best of two results a query; ids of -1 come last."""
    distances, joined = np.concatenate([best, more], 1), np.concatenate([ids, more_ids], 1)
    distances = np.where(joined < 0, np.float32(metric.worst), distances)
    distances, joined = sort_rows(distances, joined, metric)
    return distances[:, : best.shape[1]], joined[:, : best.shape[1]]


class _Ranked:
    """The ranked lists of all queries, (nq, horizon), and which of them are worth a visit."""

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
        self._steps, self._effort = steps, effort
        self._list_counts, self._list_sizes = list_counts, list_sizes
        self._total = int(list_counts.sum())
        self._k = min(k, self._total)
        self._lengths: Float64 | None = None
        if steps.metric.larger_is_closer:
            lengths = np.sqrt(np.einsum("ij,ij->i", prepared, prepared, dtype=np.float64))
            self._lengths = np.where(lengths > 0, lengths, 1.0)
        self._rank(*steps.rank(horizon))

    def _rank(self, list_nos: Int64, distances: Float32) -> None:
        spread = self._effort.spread
        self._lists = RankedLists(
            self._k,
            self._effort.missing * self._k,
            list_nos,
            distances,
            self._list_counts,
            self._list_sizes,
            self._total,
            _bands(list_nos.shape[1], 1 if spread is None else len(spread.table)),
            None if spread is None else spread.shares,
            self._lengths,
        )
        self._matches = (self._list_counts[list_nos] > 0) & (list_nos >= 0)

    def first(self) -> Int64:
        """Columns to visit at first."""
        return self._lists.first(max(_LEAST_LISTS, self._effort.nprobe))

    def next(self, visited: Int64, waves: Waves) -> tuple[Int64, Bools]:
        """Columns to have visited after the next wave, and whether they end too early."""
        return self._lists.further(waves.thresholds(self._k - 1), visited)

    def take(self, rows: Int64, visited: Int64, wanted: Int64) -> tuple[Int64, Float32]:
        """The lists of columns [visited, wanted) of some queries that hold a passing row."""
        start, stop = int(visited[rows].min()), int(wanted[rows].max())
        part = slice(start, stop)
        if len(visited) == 1:
            mine = self._matches[0, part]
            list_nos, distances = self._lists.list_nos[0, part], self._lists.distances[0, part]
            return list_nos[mine][None], distances[mine][None]
        list_nos, distances = self._lists.list_nos[rows, part], self._lists.distances[rows, part]
        mine = self._matches[rows, part]
        columns = np.arange(start, stop)
        mine = mine & (columns >= visited[rows, None]) & (columns < wanted[rows, None])
        order = np.argsort(~mine, axis=1, kind="stable")[:, : int(mine.sum(1).max(initial=0))]
        list_nos = np.take_along_axis(np.where(mine, list_nos, -1), order, 1)
        return list_nos, np.take_along_axis(distances, order, 1)

    def grow(self) -> None:
        """Rank four times as many lists; or, if few hold a passing row, these alone."""
        before = self._lists.list_nos, self._lists.distances
        matching = np.flatnonzero(self._list_counts)
        if len(matching) <= before[0].shape[1]:
            everywhere = np.broadcast_to(matching, (len(before[0]), len(matching)))
            distances = self._steps.measure(matching)
            distances, list_nos = sort_rows(distances, everywhere, self._steps.metric)
            self._rank(*_append_new(*before, list_nos, distances))
        else:
            wanted = min(len(self._list_counts), 4 * before[0].shape[1])
            self._rank(*_append_new(*before, *self._steps.rank(wanted)))


@lru_cache(64)
def _bands(ranks: int, nbands: int) -> Int32:
    return np.minimum(bands_of(np.arange(ranks)), nbands - 1).astype(np.int32)


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
