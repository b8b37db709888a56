"""Searches and look-ups that return tables: rows with their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.arguments import flag
from teravec.filters.each import group_filters
from teravec.filters.filter import FilterArgument
from teravec.index.columns import IndexColumns
from teravec.search.each_filter import query_each
from teravec.search.effort import Effort
from teravec.search.filtering import FilteredSearch
from teravec.search.request import checked_k, checked_queries
from teravec.search.rows import (
    OpenRows,
    choose_columns,
    get_rows,
    results_of_lims,
    results_table,
    rows_of_results,
)
from teravec.search.steps import SearchSteps

__all__ = ["RowTables"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class _Opened(Protocol):
    """What these methods need of an index."""

    steps: SearchSteps

    @property
    def d(self) -> int: ...

    @property
    def ntotal(self) -> int: ...

    def effort(
        self,
        nprobe: int | None = None,
        recall: float | None = None,
        *,
        k: int = 10,
        radius: float | None = None,
        candidates: int | None = None,
    ) -> Effort: ...

    def batch_rows(self, nprobe: int, k: int, candidates: int | None = None) -> int: ...

    def query(
        self,
        queries: Any,
        k: int = 10,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        candidates: int | None = None,
        columns: Sequence[str] | str | None = None,
        vectors: bool = False,
        filter: FilterArgument | None = None,
    ) -> Any: ...

    def range_search(
        self,
        queries: Float32,
        radius: float,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        filter: FilterArgument | None = None,
    ) -> tuple[Int64, Float32, Int64]: ...


class RowTables:
    """The methods of an index that return tables."""

    @property
    def columns(self: _Opened) -> Any:
        """Names and types of the columns that the index keeps, a pyarrow.Schema."""
        return IndexColumns(self.steps.opened).schema

    @property
    def has_text_ids(self: _Opened) -> bool:
        """Whether ids are texts, for which numbers stand in what ``search`` returns."""
        return self.steps.opened.manifest.text_ids is not None

    def query(
        self: _Opened,
        queries: Any,
        k: int = 10,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        candidates: int | None = None,
        columns: Sequence[str] | str | None = None,
        vectors: bool = False,
        filter: FilterArgument | None = None,
    ) -> Any:
        """Find each query's nearest vectors, and return them with columns, as a table.

        Parameters
        ----------
        queries, k, nprobe, recall, candidates, filter
            As for ``search``.
        columns : sequence of str or str, optional
            Columns of the index to return too, or "all".
        vectors : bool
            Return the vectors too, as ``get`` does.

        Returns
        -------
        pyarrow.Table
            A row for each result: ``query`` (int64, from 0), ``rank`` (int64, from 0), ``id``
            (int64, or as the column of ids has them), ``distance`` (float32), the columns, and
            ``vector``. A column that has one of these names gets an underscore behind it. A query
            of which fewer than k vectors were found has fewer rows. Of rows with the same id,
            columns are of one.

        Raises
        ------
        InvalidArgument
            As ``search``; or there is no such column.
        CorruptFile
        """
        names = choose_columns(self.steps.opened, columns)
        vectors = flag(vectors, "vectors")
        queries, k = checked_queries(queries, self.d), min(checked_k(k), self.ntotal)
        groups = group_filters(filter, len(queries))
        if groups is not None and len(queries):
            return query_each(
                groups,
                lambda group: self.query(
                    queries[group.rows],
                    max(1, k),
                    nprobe,
                    recall=recall,
                    candidates=candidates,
                    columns=columns,
                    vectors=vectors,
                    filter=group.filter,
                ),
            )
        filter = None if groups is not None else filter
        if filter is not None:
            under = self.steps.efforts.filtered(nprobe, recall, k, candidates)
            search = FilteredSearch(self.steps, filter)
            distances, ids, visits = search.search(queries, k, under)
            lists = np.unique(np.concatenate([each.all_lists() for each in visits]))
            return _found(self.steps, 0, distances, ids, lists, names, vectors)
        effort = self.effort(nprobe, recall, k=k, candidates=candidates)
        rows = self.batch_rows(effort.nprobe, k, effort.candidates)
        tables = []
        for start in range(0, max(1, len(queries)), rows):
            wanted = self.steps.nearest_lists(queries[start : start + rows], effort)
            distances, ids = self.steps.search_lists(*wanted, k, effort.candidates)
            visited = np.unique(wanted[1])
            visited = visited[visited >= 0]
            tables.append(_found(self.steps, start, distances, ids, visited, names, vectors))
        return pa.concat_tables(tables)

    def range_query(
        self: _Opened,
        queries: Any,
        radius: float,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        columns: Sequence[str] | str | None = None,
        vectors: bool = False,
        filter: FilterArgument | None = None,
    ) -> Any:
        """Find all vectors within a radius of each query, and return them with columns, as a table.

        Parameters
        ----------
        queries, radius, nprobe, recall, filter
            As for ``range_search``.
        columns, vectors
            As for ``query``.

        Returns
        -------
        pyarrow.Table
            As ``query`` returns it.

        Raises
        ------
        InvalidArgument, CorruptFile
        """
        names, vectors = choose_columns(self.steps.opened, columns), flag(vectors, "vectors")
        lims, distances, ids = self.range_search(
            queries, radius, nprobe, recall=recall, filter=filter
        )
        visited = np.zeros(self.steps.opened.model.nlist, np.bool_)
        effort = self.effort(nprobe, recall, radius=radius)
        queries, rows = checked_queries(queries, self.d), self.batch_rows(effort.nprobe, 0)
        for start in range(0, len(queries), rows):
            list_nos = self.steps.nearest_lists(queries[start : start + rows], effort)[1]
            visited[list_nos[list_nos >= 0]] = True
        lists, reader = np.flatnonzero(visited), OpenRows(self.steps)
        table = rows_of_results(reader, ids, lists, names, vectors=vectors)
        return results_of_lims(lims, distances, ids, table)

    def get(
        self: _Opened,
        ids: Any,
        columns: Sequence[str] | str | None = None,
        *,
        vectors: bool = False,
    ) -> Any:
        """Return rows by id, as a table.

        All ids of the index are read, 8 bytes a row; none of the codes.

        Parameters
        ----------
        ids : array-like of shape (n,), integers
            Or texts, or UUIDs, if the index has such ids.
        columns : sequence of str or str, optional
            Not given, or "all": every column.
        vectors : bool
            Return the vectors too, as their codes say, in the column ``vector``. For cosine they
            have about unit length.

        Returns
        -------
        pyarrow.Table
            ``id``, the columns, and ``vector``; rows in the order of the ids. Ids that no visible
            row has are left out.

        Raises
        ------
        InvalidArgument, CorruptFile
        """
        self.steps.check_open()
        names = choose_columns(self.steps.opened, ("all",) if columns is None else columns)
        vectors = flag(vectors, "vectors")
        asked, found, table = get_rows(OpenRows(self.steps), ids, names, vectors=vectors)
        rows = asked.take(pa.array(found))
        # Not add_column: a table without columns has no rows.
        schema = table.schema.insert(0, pa.field("id", rows.type))
        return pa.Table.from_arrays([rows, *table.columns], schema=schema)

    def rows_of(
        self: _Opened, ids: Int64, columns: Sequence[str] | str | None, *, vectors: bool = False
    ) -> Any:
        """Return columns of rows by the numbers of their ids: see ``Searchable``."""
        names, reader = choose_columns(self.steps.opened, columns), OpenRows(self.steps)
        return rows_of_results(reader, ids, None, names, vectors=vectors)


def _found(
    steps: SearchSteps,
    first: int,
    distances: Float32,
    ids: Int64,
    list_nos: Any,
    names: list[str],
    vectors: bool,
) -> Any:
    """Make the table of a batch, whose first query has a number, and which visited some lists."""
    queries, ranks = np.nonzero(ids >= 0)
    hits = ids[queries, ranks]
    list_nos = np.asarray(list_nos, np.int64)
    columns = rows_of_results(OpenRows(steps), hits, list_nos, names, vectors=vectors)
    return results_table(queries + first, ranks, hits, distances[queries, ranks], columns)
