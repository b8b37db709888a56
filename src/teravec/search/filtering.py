"""Searches of one open index under a filter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.filters.filter import FilterArgument
from teravec.kernels.metric import Metric
from teravec.search.filtered import FilteredEffort, MergedWaves, Visits, Waves, search_filtered
from teravec.search.passing import PassingRows
from teravec.search.steps import SearchSteps

__all__ = ["FilteredSearch", "SearchInWaves", "explain_search", "find_passing_rows"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_RANKED_BYTES = 120  # of a ranked list of a query


class SearchInWaves(ABC):
    """A search under a filter, whoever scans the lists: this process, or servers.

    Parameters
    ----------
    steps : SearchSteps
        Of an index whose model is here; its lists need not be.
    list_counts, list_sizes : ndarray of shape (nlist,), int64
        Rows of each list that pass, and all of its rows.
    """

    def __init__(self, steps: SearchSteps, list_counts: Int64, list_sizes: Int64) -> None:
        self.steps, self.list_counts, self.list_sizes = steps, list_counts, list_sizes

    @abstractmethod
    def scan(
        self, prepared: Float32, list_nos: Int64, distances: Float32, k: int, most: int | None
    ) -> tuple[Float32, Int64]:
        """The k nearest passing rows among lists chosen for each query, as ``search_lists``.

        ``most`` are the candidates of a query, as in ``Effort``.
        """

    def begin(self, prepared: Float32, k: int, most: int | None) -> Waves:
        """Begin the waves of some queries."""

        def scan(rows: Int64, list_nos: Int64, distances: Float32) -> tuple[Float32, Int64]:
            return self.scan(prepared[rows], list_nos, distances, k, most)

        return MergedWaves(scan, len(prepared), k, self.steps.opened.model.metric)

    def search(
        self, queries: Float32, k: int, effort: FilteredEffort
    ) -> tuple[Float32, Int64, list[Visits]]:
        """The k nearest passing rows of checked queries (nq, d), and what each batch visited.

        Returns distances and ids (nq, k), best first; -1 only where fewer than k rows pass.
        """
        rows = self.batch_rows(k, effort)
        parts = [
            self.batch(queries[start : start + rows], k, effort)
            for start in range(0, max(1, len(queries)), rows)
        ]
        distances, ids = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return distances, ids, [part[2] for part in parts]

    @property
    def matching(self) -> int:
        """Lists that hold a row that passes."""
        return int(np.count_nonzero(self.list_counts))

    def batch_rows(self, k: int, effort: FilteredEffort) -> int:
        """Queries of a batch: as many as memory holds."""
        steps, nlist = self.steps, len(self.list_counts)
        ranked = nlist if self.matching <= effort.compare_all else min(nlist, 4 * effort.nprobe)
        row_bytes = steps.row_bytes(effort.nprobe, k, effort.candidates)
        row_bytes += _RANKED_BYTES * max(ranked, min(nlist, 1 << 12))
        return max(1, steps.batch_bytes // row_bytes)

    def batch(
        self, queries: Float32, k: int, effort: FilteredEffort
    ) -> tuple[Float32, Int64, Visits]:
        """Search a batch, as ``search``."""
        steps = self.steps
        prepared = steps.prepare(queries)
        wanted = _Filtered(self, prepared, effort.candidates)
        counted = steps.stats.queries
        found = search_filtered(wanted, prepared, k, effort, self.list_counts, self.list_sizes)
        steps.stats.queries = counted + len(queries)  # each wave counted some of them
        return found


class FilteredSearch(SearchInWaves):
    """Finds rows that pass a filter.

    Parameters
    ----------
    steps : SearchSteps
        Of an index with all of its lists open.
    given : str, pyarrow.compute.Expression or Tree

    Attributes
    ----------
    passing : PassingRows

    Raises
    ------
    InvalidFilter
        The filter is wrong, or does not fit the index's columns.
    MemoryLimitTooSmall
    """

    def __init__(self, steps: SearchSteps, given: FilterArgument) -> None:
        self.passing = find_passing_rows(steps, given)
        super().__init__(steps, self.passing.list_counts, steps.opened.runs.list_sizes)

    @property
    def ntotal(self) -> int:
        """Rows of the index."""
        return self.steps.opened.ntotal

    def scan(
        self, prepared: Float32, list_nos: Int64, distances: Float32, k: int, most: int | None
    ) -> tuple[Float32, Int64]:
        """Scan lists here."""
        return self.steps.search_lists(prepared, list_nos, distances, k, most, self.passing)

    def begin(self, prepared: Float32, k: int, most: int | None) -> Waves:
        """Begin the waves; with codes in one stage a wave knows what those before it found."""
        if self.steps.two_stages:
            return super().begin(prepared, k, most)
        return self.steps.begin_waves(prepared, k, self.passing)


class _Filtered:
    """The steps of a filtered search for some queries."""

    def __init__(self, search: SearchInWaves, prepared: Float32, candidates: int | None) -> None:
        self._search, self._steps, self._prepared = search, search.steps, prepared
        self._candidates = candidates

    @property
    def metric(self) -> Metric:
        return self._steps.opened.model.metric

    def rank(self, nprobe: int) -> tuple[Int64, Float32]:
        return self._steps.opened.model.rank_lists(self._prepared, nprobe, self._steps.threads)

    def measure(self, list_nos: Int64) -> Float32:
        return self._steps.opened.model.measure_lists(self._prepared, list_nos)

    def begin(self, k: int) -> Waves:
        return self._search.begin(self._prepared, k, self._candidates)


def find_passing_rows(
    steps: SearchSteps, given: FilterArgument, check: Callable[[], None] | None = None
) -> PassingRows:
    """Find which rows of the open lists pass a filter.

    ``check`` is called between pieces of the work, and may raise to end it. Raises as
    ``FilteredSearch``.
    """
    steps.check_open()
    return steps.passing_rows.find(given, check)


def explain_search(
    search: FilteredSearch, effort: FilteredEffort, k: int, visits: list[Visits]
) -> dict[str, Any]:
    """Tell how a search went, as ``Index.explain`` returns it."""
    lists = np.concatenate([each.lists for each in visits])
    matching, passing = search.matching, search.passing.total
    if visits[0].compared_all:
        why = (
            f"the rows that pass are in {matching:,} lists, and a search without a filter may "
            f"visit {effort.compare_all:,}: all of them are compared"
        )
    elif effort.spread is None:
        why = f"{effort.nprobe:,} lists that hold a passing row were asked for, and {k} results"
    else:
        why = (
            "lists that hold a passing row are visited until at most "
            f"{effort.missing * min(k, passing):.2f} of the {min(k, passing)} nearest are expected "
            "in the others"
        )
    return {
        "plan": "compare all" if visits[0].compared_all else "nearest lists",
        "why": why,
        "rows": search.ntotal,
        "passing": passing,
        "lists": len(search.list_counts),
        "matching_lists": matching,
        "visited": float(lists.mean()) if len(lists) else 0.0,
        "waves": max(each.waves for each in visits),
    }
