"""Questions under a filter: one for all queries of a source, or one for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.questions import Question, TopK, Within, question_of
from teravec.errors import InvalidArgument, InvalidFilter
from teravec.filters.filter import FilterArgument, parse_filter
from teravec.filters.json_form import tree_to_json
from teravec.filters.tree import Tree
from teravec.search.options import QueryFilters, SearchOptions
from teravec.search.searchable import Searchable
from teravec.sources import Source

__all__ = ["FilteredTopK", "FilteredWithin", "parse_filters", "question_under_filter"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def parse_filters(given: FilterArgument) -> QueryFilters:
    """Return a filter as a tree, or a sequence of filters, one for each query, as trees.

    Raises
    ------
    InvalidFilter
        One is wrong; the message names its query.
    """
    if given is None:
        return None
    if isinstance(given, list | tuple | np.ndarray | pa.Array | pa.ChunkedArray):
        values = given.tolist() if isinstance(given, np.ndarray) else given
        return tuple(_parse(each, row) for row, each in enumerate(values))
    return parse_filter(given)


def _parse(given: Any, row: int) -> Tree | None:
    given = given.as_py() if isinstance(given, pa.Scalar) else given
    try:
        return None if given is None else parse_filter(given)
    except InvalidFilter as error:
        raise InvalidFilter(f"query {row:,}: {error}") from None


@dataclass(frozen=True)
class _OfQueries:
    """The filters of a source's queries.

    Parameters
    ----------
    filter : Tree or tuple of Tree or None, optional
        One for all, or one for each; None among these finds all rows.
    column : str, optional
        Instead: the column of the queries that holds their filters as text.
    """

    filter: QueryFilters
    column: str | None

    def check(self, source: Source) -> None:
        """Raise InvalidArgument if there are more filters than queries, or fewer."""
        if isinstance(self.filter, tuple) and len(self.filter) != source.ntotal:
            raise InvalidArgument(
                f"{len(self.filter):,} filters found, one for each of {source.ntotal:,} queries"
            )
        if self.column is not None:
            if source.attributes is None or self.column not in source.attributes.schema.names:
                raise InvalidArgument(f"queries without the column {self.column!r} of filters")
            kind = source.attributes.schema.field(self.column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise InvalidArgument(f"column {self.column!r} of {kind} found; filters are texts")

    def of(self, source: Source, start: int, stop: int) -> Tree | list[Tree | None] | None:
        """Return the filter of all queries, or those of queries [start, stop)."""
        if isinstance(self.filter, tuple):
            return list(self.filter[start:stop])
        if self.column is None:
            return self.filter
        texts: list[Any] = []
        for batch in source.column_batches(start, stop):
            texts += batch[self.column].to_pylist()
        return [_parse(text, start + row) for row, text in enumerate(texts)]

    def describe(self) -> dict[str, Any]:
        """Names and values, fit for JSON."""
        if self.column is not None:
            return {"filter_column": self.column}
        if isinstance(self.filter, tuple):
            return {"filter": [each and tree_to_json(each) for each in self.filter]}
        assert self.filter is not None
        return {"filter": tree_to_json(self.filter)}


@dataclass(frozen=True)
class FilteredTopK(TopK):
    """The k nearest of each query among the rows that pass; parameters as ``SearchOptions``."""

    nprobe: int | None = None
    recall: float | None = None
    filters: _OfQueries = _OfQueries(None, None)
    now: Any = None  # of the queries that are searched

    def check(self, index: Searchable, source: Source) -> None:
        """Raise InvalidArgument where index and queries do not fit the question."""
        super().check(index, source)
        self.filters.check(source)

    def answer(self, index: Searchable, source: Source, start: int, stop: int) -> FoundArrays:
        """Results of queries [start, stop)."""
        now = self.filters.of(source, start, stop)
        return TopK.answer(replace(self, now=now), index, source, start, stop)

    def search(self, index: Searchable, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """Search as ``Index.search`` does."""
        asked = self.nprobe, self.recall, self.effort.candidates
        return index.search_under(queries, k, *asked, self.now)

    def describe(self) -> dict[str, Any]:
        """Names and values."""
        plain = TopK(self.k, self.effort, self.exclude_self).describe()
        asked = {"nprobe": self.nprobe, "recall": self.recall}
        return {**plain, **asked, **self.filters.describe()}


@dataclass(frozen=True)
class FilteredWithin(Within):
    """All rows that pass within a radius of each query."""

    filters: _OfQueries = _OfQueries(None, None)
    now: Any = None  # of the queries that are searched

    def check(self, index: Searchable, source: Source) -> None:
        """Raise InvalidArgument where index and queries do not fit the question."""
        super().check(index, source)
        self.filters.check(source)

    def answer(self, index: Searchable, source: Source, start: int, stop: int) -> FoundArrays:
        """Results of queries from ``start`` on."""
        now = self.filters.of(source, start, stop)
        return Within.answer(replace(self, now=now), index, source, start, stop)

    def search(
        self, index: Searchable, queries: Float32, most: int
    ) -> tuple[Int64, Float32, Int64]:
        """Search as ``Index.range_search_at`` does."""
        asked = self.radius, self.effort
        if not isinstance(self.now, list):
            return index.range_search_at(queries, *asked, most, filter=self.now)
        parts = [FoundArrays.none(None)]
        for start, stop in _runs(self.now):
            left = most - sum(part.total for part in parts)
            filter = self.now[start]
            found = index.range_search_at(queries[start:stop], *asked, left, filter=filter)
            parts.append(FoundArrays(*found))
            if parts[-1].n < stop - start:
                break
        whole = FoundArrays.joined(parts)
        return whole.lims, whole.distances, whole.ids

    def describe(self) -> dict[str, Any]:
        """Names and values."""
        plain = Within(self.radius, self.effort, self.exclude_self).describe()
        return {**plain, **self.filters.describe()}


def _runs(filters: list[Tree | None]) -> Iterator[tuple[int, int]]:
    """Yield ranges of consecutive queries with one filter."""
    start = 0
    for stop in range(1, len(filters) + 1):
        if stop == len(filters) or filters[stop] is not filters[start]:
            yield start, stop
            start = stop


def question_under_filter(index: Searchable, options: SearchOptions) -> Question:
    """Return the question that options ask, under their filter if they have one.

    Raises
    ------
    InvalidArgument
        As ``question_of``.
    """
    if options.filter is None and options.filter_column is None:
        return question_of(index, options)
    plain = question_of(index, replace(options, filter=None, filter_column=None))
    filters = _OfQueries(options.filter, options.filter_column)
    if isinstance(plain, Within):
        return FilteredWithin(plain.radius, plain.effort, plain.exclude_self, filters)
    assert isinstance(plain, TopK)
    asked = options.nprobe, options.recall
    return FilteredTopK(plain.k, plain.effort, plain.exclude_self, *asked, filters)
