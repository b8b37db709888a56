"""Searches and look-ups that return tables: rows with their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from teravec.arguments import flag
from teravec.errors import InvalidArgument
from teravec.filters.filter import FilterArgument
from teravec.index.columns import IndexColumns
from teravec.search.effort import Effort
from teravec.search.filtering import FilteredSearch
from teravec.search.request import checked_k, checked_queries
from teravec.search.steps import SearchSteps
from teravec.sources import parse_columns
from teravec.storage.text_ids import as_texts, digest_texts

__all__ = ["RowTables"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_OWN = ("query", "rank", "id", "distance", "vector")


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


class RowTables:
    """The methods of an index that return tables."""

    @property
    def columns(self: _Opened) -> Any:
        """Names and types of the columns that the index keeps, a pyarrow.Schema."""
        return IndexColumns(self.steps.opened).schema

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
        kept = IndexColumns(self.steps.opened)
        names, vectors = choose_names(kept, columns), flag(vectors, "vectors")
        queries, k = checked_queries(queries, self.d), min(checked_k(k), self.ntotal)
        if filter is not None:
            under = self.steps.efforts.filtered(nprobe, recall, k, candidates)
            search = FilteredSearch(self.steps, filter)
            distances, ids, visits = search.search(queries, k, under)
            lists = np.unique(np.concatenate([each.all_lists() for each in visits]))
            return _found(0, distances, ids, lists, kept, names, vectors, self.steps)
        effort = self.effort(nprobe, recall, k=k, candidates=candidates)
        rows = self.batch_rows(effort.nprobe, k, effort.candidates)
        tables = [_found(0, *_nothing(k), [], kept, names, vectors, self.steps)]
        for start in range(0, len(queries), rows):
            wanted = self.steps.nearest_lists(queries[start : start + rows], effort)
            distances, ids = self.steps.search_lists(*wanted, k, effort.candidates)
            visited = np.unique(wanted[1])
            visited = visited[visited >= 0]
            tables.append(_found(start, distances, ids, visited, kept, names, vectors, self.steps))
        return pa.concat_tables(tables)

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
        kept = IndexColumns(self.steps.opened)
        names = choose_names(kept, ("all",) if columns is None else columns)
        text = kept.text_ids
        asked = as_texts(ids, kept.schema.field(text).type) if text else _as_numbers(ids)
        numbers = digest_texts(asked).ids if text else asked.to_numpy()
        wanted, at = np.unique(numbers, return_inverse=True)
        places = self.steps.find_rows(wanted)[at]
        found = places >= 0
        if text:  # a row of another text may have the same number
            texts = kept.take(places, [text]).column(0).combine_chunks()
            same = pc.fill_null(pc.equal(texts, asked), False)
            found &= same.to_numpy(zero_copy_only=False)
        asked, places = asked.filter(pa.array(found)), places[found]
        table = pa.table({"id": asked})
        for name, column in zip(names, kept.take(places, names).columns, strict=True):
            table = table.append_column(_label(kept.schema.field(name)), column)
        if flag(vectors, "vectors"):
            table = table.append_column("vector", _vectors(self.steps, places))
        return table


def _as_numbers(ids: Any) -> Any:
    """Return a user's ids as an Arrow array of int64."""
    asked = np.atleast_1d(np.asarray(ids))
    if asked.ndim != 1 or (len(asked) and asked.dtype.kind not in "iu"):
        raise InvalidArgument(
            f"ids of type {asked.dtype} and shape {asked.shape} found, integers (n,) expected"
        )
    return pa.array(asked.astype(np.int64))


def choose_names(kept: IndexColumns, columns: Sequence[str] | str | None) -> list[str]:
    """Check names of columns, or "all"."""
    names = parse_columns(columns)
    if names == ("all",) and "all" not in kept.schema.names:
        names = tuple(kept.schema.names)
    return [name for name in kept.check(names) if name != kept.text_ids]


def _label(field: Any) -> Any:
    """Return a column's field, under a name that no column of results has."""
    return field.with_name(f"{field.name}_") if field.name in _OWN else field


def _nothing(k: int) -> tuple[Float32, Int64]:
    return np.empty((0, k), np.float32), np.empty((0, k), np.int64)


def _found(
    first: int,
    distances: Float32,
    ids: Int64,
    list_nos: Any,
    kept: IndexColumns,
    names: list[str],
    vectors: bool,
    steps: SearchSteps,
) -> Any:
    """Make the table of a batch, whose first query has a number, and which visited some lists."""
    queries, ranks = np.nonzero(ids >= 0)
    hits = ids[queries, ranks]
    own = [queries + first, ranks, hits, distances[queries, ranks]]
    table = pa.table(dict(zip(_OWN, own, strict=False)))
    text = kept.text_ids
    needed = names if text is None else [text, *names]
    if not needed and not vectors:
        return table
    wanted, at = np.unique(hits, return_inverse=True)
    places = steps.find_rows(wanted, np.asarray(list_nos, np.int64))[at]
    # Each place once: many queries have the same neighbours.
    distinct, which = np.unique(places, return_inverse=True)
    values = kept.take(distinct, needed).take(pa.array(which))
    if text is not None:
        table = table.set_column(2, "id", values[text])
    for name in names:
        table = table.append_column(_label(kept.schema.field(name)), values[name])
    if vectors:
        table = table.append_column("vector", _vectors(steps, distinct).take(pa.array(which)))
    return table


def _vectors(steps: SearchSteps, places: Int64) -> Any:
    """Return vectors by place as an Arrow array, of lists of fixed size."""
    values = pa.array(steps.read_vectors(places).ravel())
    return pa.FixedSizeListArray.from_arrays(values, steps.opened.model.d)
