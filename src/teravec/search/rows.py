"""Rows of an index with their columns, wherever they are read: in this process, or on servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from teravec.errors import InvalidArgument
from teravec.index.columns import IndexColumns
from teravec.index.opened import OpenedIndex
from teravec.search.steps import SearchSteps
from teravec.sources import parse_columns
from teravec.storage.text_ids import as_texts, digest_texts

__all__ = [
    "OpenRows",
    "RowReader",
    "as_numbers",
    "choose_columns",
    "get_rows",
    "label",
    "results_of_lims",
    "results_table",
    "rows_of_results",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

OWN = ("query", "rank", "id", "distance", "vector")
"""Columns that results have; one of the index with such a name gets an underscore behind it."""


class RowReader(Protocol):
    """Finds and reads rows of one version of an index.

    Attributes
    ----------
    opened : OpenedIndex
        With the index's manifest; its lists need not be here.
    """

    @property
    def opened(self) -> OpenedIndex: ...

    def find(self, ids: Int64, list_nos: Int64 | None) -> Int64:
        """Find the newest visible row of each id, as ``SearchSteps.find_rows``."""

    def take(self, places: Int64, names: Sequence[str], *, vectors: bool) -> Any:
        """Read rows (n,) as a pyarrow.Table, -1 for a row of nulls; maybe with their vectors.

        Vectors are the column ``vector``, the last.
        """


class OpenRows:
    """Reads rows of lists that are open here.

    Parameters
    ----------
    steps : SearchSteps
    check : callable, optional
        Called between parts of the work; may raise to end it.
    """

    def __init__(self, steps: SearchSteps, check: Callable[[], None] | None = None) -> None:
        self._steps, self._check = steps, check
        self.opened = steps.opened

    def find(self, ids: Int64, list_nos: Int64 | None) -> Int64:
        """Find rows."""
        return self._steps.find_rows(ids, list_nos, self._check)

    def take(self, places: Int64, names: Sequence[str], *, vectors: bool) -> Any:
        """Read rows."""
        # Each once, in the order of the files: many queries have the same neighbours.
        distinct, which = np.unique(places, return_inverse=True)
        columns = IndexColumns(self.opened).take(distinct, names)
        if vectors:
            d = self.opened.model.d
            values = self._steps.read_vectors(distinct).ravel()
            array = pa.FixedSizeListArray.from_arrays(pa.array(values), d)
            if not names:  # a table without columns has no rows
                return pa.table({"vector": array}).take(pa.array(which))
            columns = columns.append_column("vector", array)
        return columns.take(pa.array(which))


def choose_columns(opened: OpenedIndex, columns: Sequence[str] | str | None) -> list[str]:
    """Check names of columns, or "all"; the column of text ids is none of them.

    Raises
    ------
    InvalidArgument
        There is no such column; names those that there are.
    """
    kept = IndexColumns(opened)
    names = parse_columns(columns)
    if names == ("all",) and "all" not in kept.schema.names:
        names = tuple(kept.schema.names)
    return [name for name in kept.check(names) if name != kept.text_ids]


def label(name: str) -> str:
    """Return the name under which results have a column."""
    return f"{name}_" if name in OWN else name


def rows_of_results(
    reader: RowReader, ids: Int64, list_nos: Int64 | None, names: Sequence[str], *, vectors: bool
) -> Any:
    """Return the columns of a search's results.

    Parameters
    ----------
    reader : RowReader
    ids : ndarray of shape (n,), int64
        Of the results; -1 gets a row of nulls.
    list_nos : ndarray of shape (m,), int64, optional
        The lists that were visited, ascending; all are looked in if not given.
    names : sequence of str
        As ``choose_columns`` returns them.
    vectors : bool
        With a column ``vector``, the last.

    Returns
    -------
    pyarrow.Table or None
        A row for each result. If the ids are texts, its first column is ``id``. None if there is
        no column.
    """
    text = reader.opened.manifest.text_ids
    needed = list(names) if text is None else [text, *names]
    if not needed and not vectors:
        return None
    wanted, at = np.unique(ids[ids >= 0], return_inverse=True)
    places = np.full(len(ids), -1, np.int64)
    places[ids >= 0] = reader.find(wanted, list_nos)[at]
    table = reader.take(places, needed, vectors=vectors)
    labels = [*([] if text is None else ["id"]), *map(label, names)]
    return table.rename_columns([*labels, *(["vector"] if vectors else [])])


def results_table(
    queries: Int64, ranks: Int64, ids: Int64, distances: Float32, columns: Any
) -> Any:
    """Make a table of results (n,), with what ``rows_of_results`` returned for them."""
    own = [queries, ranks, ids, distances]
    table = pa.table(dict(zip(OWN, own, strict=False)))
    for name in [] if columns is None else columns.column_names:
        if name == "id":  # texts
            table = table.set_column(2, name, columns[name])
        else:
            table = table.append_column(columns.schema.field(name), columns[name])
    return table


def results_of_lims(lims: Int64, distances: Float32, ids: Int64, columns: Any) -> Any:
    """Make a table of results in order, query i's at [lims[i], lims[i + 1])."""
    queries = np.repeat(np.arange(len(lims) - 1), np.diff(lims))
    ranks = np.arange(len(ids)) - lims[queries]
    return results_table(queries, ranks, ids, distances, columns)


def get_rows(
    reader: RowReader, ids: Any, names: Sequence[str], *, vectors: bool
) -> tuple[Any, Int64, Any]:
    """Return rows by id.

    Parameters
    ----------
    reader : RowReader
    ids : array-like of shape (n,)
        Integers, or texts or UUIDs if the index has such ids.
    names : sequence of str
        As ``choose_columns`` returns them.
    vectors : bool

    Returns
    -------
    ids : pyarrow.Array
        All that were asked for.
    found : ndarray of int64
        Positions of those that a visible row has, ascending.
    table : pyarrow.Table
        The columns, and ``vector``; a row for each that was found.
    """
    text = reader.opened.manifest.text_ids
    asked = as_numbers(ids) if text is None else as_texts(ids, _type_of(reader.opened, text))
    numbers = asked.to_numpy() if text is None else digest_texts(asked).ids
    wanted, at = np.unique(numbers, return_inverse=True)
    places = reader.find(wanted, None)[at]
    found = np.flatnonzero(places >= 0)
    needed = list(names) if text is None else [text, *names]
    table = reader.take(places[found], needed, vectors=vectors)
    if text is not None:  # a row of another text may have the same number
        same = pc.fill_null(pc.equal(table[text], asked.take(pa.array(found))), False)
        table = table.filter(same).drop_columns([text])
        found = found[same.to_numpy()]
    labels = [*map(label, names), *(["vector"] if vectors else [])]
    return asked, found, table.rename_columns(labels)


def _type_of(opened: OpenedIndex, name: str) -> Any:
    return IndexColumns(opened).schema.field(name).type


def as_numbers(ids: Any) -> Any:
    """Return a user's ids as an Arrow array of int64."""
    asked = np.atleast_1d(np.asarray(ids))
    if asked.ndim != 1 or (len(asked) and asked.dtype.kind not in "iu"):
        raise InvalidArgument(
            f"ids of type {asked.dtype} and shape {asked.shape} found, integers (n,) expected"
        )
    return pa.array(asked.astype(np.int64))
