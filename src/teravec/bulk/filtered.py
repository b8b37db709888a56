"""Questions under a filter: one for all queries of a source."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.bulk.questions import Question, TopK, Within, question_of
from teravec.errors import InvalidArgument
from teravec.filters.json_form import tree_to_json
from teravec.filters.tree import Tree
from teravec.search.index import Index
from teravec.search.options import SearchOptions
from teravec.search.searchable import Searchable

__all__ = ["FilteredTopK", "FilteredWithin", "question_under_filter"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FilteredTopK(TopK):
    """The k nearest of each query among the rows that pass; parameters as ``SearchOptions``."""

    nprobe: int | None = None
    recall: float | None = None
    filter: Tree | None = None

    def search(self, index: Searchable, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """Search as ``Index.search`` does."""
        assert isinstance(index, Index)
        candidates = self.effort.candidates
        return index.search(
            queries, k, self.nprobe, recall=self.recall, candidates=candidates, filter=self.filter
        )

    def describe(self) -> dict[str, Any]:
        """Names and values."""
        assert self.filter is not None
        return {**super().describe(), "filter": tree_to_json(self.filter)}


@dataclass(frozen=True)
class FilteredWithin(Within):
    """All rows that pass within a radius of each query."""

    filter: Tree | None = None

    def search(
        self, index: Searchable, queries: Float32, most: int
    ) -> tuple[Int64, Float32, Int64]:
        """Search as ``Index.range_search_at`` does."""
        assert isinstance(index, Index)
        return index.range_search_at(queries, self.radius, self.effort, most, filter=self.filter)

    def describe(self) -> dict[str, Any]:
        """Names and values."""
        assert self.filter is not None
        return {**super().describe(), "filter": tree_to_json(self.filter)}


def question_under_filter(index: Searchable, options: SearchOptions) -> Question:
    """Return the question that options ask, under their filter if they have one.

    Raises
    ------
    InvalidArgument
        As ``question_of``; or a filter for a served index.
    """
    tree = options.filter
    if tree is None:
        return question_of(index, options)
    if not isinstance(index, Index):
        raise InvalidArgument("a filter is for an index here; a server takes none yet")
    plain = question_of(index, replace(options, filter=None))
    if isinstance(plain, Within):
        return FilteredWithin(plain.radius, plain.effort, plain.exclude_self, tree)
    assert isinstance(plain, TopK)
    asked = options.nprobe, options.recall
    return FilteredTopK(plain.k, plain.effort, plain.exclude_self, *asked, tree)
