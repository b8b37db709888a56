"""Searches of one open index under a filter."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.filters.filter import FilterArgument
from teravec.kernels.metric import Metric
from teravec.search.filtered import FilteredEffort, MergedWaves, Visits, Waves, search_filtered
from teravec.search.passing import PassingRows
from teravec.search.steps import SearchSteps

__all__ = ["FilteredSearch", "explain_search"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_RANKED_BYTES = 120  # of a ranked list of a query


class FilteredSearch:
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
    InvalidArgument
        The filter is wrong, or does not fit the index's columns.
    MemoryLimitTooSmall
    """

    def __init__(self, steps: SearchSteps, given: FilterArgument) -> None:
        steps.check_open()
        self._steps = steps
        self.passing: PassingRows = steps.passing_rows.find(given)

    @property
    def ntotal(self) -> int:
        """Rows of the index."""
        return self._steps.opened.ntotal

    def search(
        self, queries: Float32, k: int, effort: FilteredEffort
    ) -> tuple[Float32, Int64, list[Visits]]:
        """The k nearest passing rows of checked queries (nq, d), and what each batch visited.

        Returns distances and ids (nq, k), best first; -1 only where fewer than k rows pass.
        """
        nlist = self._steps.opened.model.nlist
        ranked = nlist if self.matching <= effort.compare_all else min(nlist, 4 * effort.nprobe)
        row_bytes = self._steps.row_bytes(effort.nprobe, k, effort.candidates)
        row_bytes += _RANKED_BYTES * max(ranked, min(nlist, 1 << 12))
        rows = max(1, self._steps.batch_bytes // row_bytes)
        parts = [
            self._batch(queries[start : start + rows], k, effort)
            for start in range(0, max(1, len(queries)), rows)
        ]
        distances, ids = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return distances, ids, [part[2] for part in parts]

    @property
    def matching(self) -> int:
        """Lists that hold a row that passes."""
        return len(self.passing.matching)

    def _batch(
        self, queries: Float32, k: int, effort: FilteredEffort
    ) -> tuple[Float32, Int64, Visits]:
        steps = self._steps
        prepared = steps.prepare(queries)
        wanted = _Filtered(steps, prepared, effort.candidates, self.passing)
        sizes = steps.opened.runs.list_sizes
        counted = steps.stats.queries
        found = search_filtered(wanted, prepared, k, effort, self.passing.list_counts, sizes)
        steps.stats.queries = counted + len(queries)  # waves may count some of them each
        return found


class _Filtered:
    """The steps of a filtered search, here."""

    def __init__(
        self, steps: SearchSteps, prepared: Float32, candidates: int | None, passing: PassingRows
    ) -> None:
        self._steps, self._prepared = steps, prepared
        self._candidates, self._passing = candidates, passing

    @property
    def metric(self) -> Metric:
        return self._steps.opened.model.metric

    def rank(self, nprobe: int) -> tuple[Int64, Float32]:
        return self._steps.opened.model.rank_lists(self._prepared, nprobe, self._steps.threads)

    def measure(self, list_nos: Int64) -> Float32:
        return self._steps.opened.model.measure_lists(self._prepared, list_nos)

    def begin(self, k: int) -> Waves:
        if self._steps.two_stages:
            return MergedWaves(partial(self._scan, k), len(self._prepared), k, self.metric)
        return self._steps.begin_waves(self._prepared, k, self._passing)

    def _scan(
        self, k: int, rows: Int64, list_nos: Int64, distances: Float32
    ) -> tuple[Float32, Int64]:
        wanted = self._prepared[rows], list_nos, distances
        return self._steps.search_lists(*wanted, k, self._candidates, self._passing)


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
        "lists": len(search.passing.list_counts),
        "matching_lists": matching,
        "visited": float(lists.mean()) if len(lists) else 0.0,
        "waves": max(each.waves for each in visits),
    }
