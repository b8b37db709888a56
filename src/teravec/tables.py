"""The package's functions that return tables of rows: query, and get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from teravec.arguments import flag, path_of
from teravec.bulk.corpus import answers
from teravec.bulk.filtered import parse_filters, question_under_filter
from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.formats.tables import check_table_output, write_tables
from teravec.bulk.given import opened
from teravec.filters.filter import FilterArgument
from teravec.granting import resources
from teravec.progress import Bar, Progress
from teravec.search.index import Index, open_index
from teravec.search.options import SearchOptions
from teravec.search.rows import results_of_lims
from teravec.search.searchable import Searchable
from teravec.serving.wire.client import RemoteIndex
from teravec.sources import Data, PathLike, Source
from teravec.storage.output_lock import hold_file
from teravec.storage.places import PlaceLike, place_of

__all__ = ["RowsWanted", "get", "query", "range_query", "tables_of"]

_RESULTS = 1 << 16  # whose columns are in memory at a time
_USUAL_RESULTS = 64  # of a query within a radius


def query(
    index: PlaceLike | Searchable,
    queries: Data,
    k: int = 10,
    nprobe: int | None = None,
    *,
    columns: Sequence[str] | str | None = None,
    vectors: bool = False,
    out: PathLike | None = None,
    recall: float | None = None,
    candidates: int | None = None,
    filter: FilterArgument | None = None,
    filter_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Any:
    """Find the k nearest neighbours of every query, with columns of the index, as a table.

    Parameters
    ----------
    index : path-like, Index or RemoteIndex
    queries : path-like, array-like, table, data frame or stream
        In any form that ``build`` takes.
    k, nprobe, recall, candidates, columns, vectors
        As for ``Index.query``.
    filter, filter_column
        As for ``teravec.search``.
    out : path-like, optional
        Write the table to this file, .parquet, .csv or .jsonl, a batch at a time, so that it may
        be larger than memory.
    vector_column, format
        For the queries, as for ``build``.
    memory, threads
        As for ``build``; ignored for an open index, which has its own.
    progress : Progress, optional

    Returns
    -------
    pyarrow.Table, or int
        As from ``Index.query``; with ``out``, the number of its rows.

    Raises
    ------
    InvalidArgument, OutputExists, CorruptFile, StorageError
    """
    options = SearchOptions(
        k=k,
        nprobe=nprobe,
        recall=recall,
        candidates=candidates,
        filter=parse_filters(filter),
        filter_column=filter_column,
    )
    given = {"vector_column": vector_column, "format": format}
    wanted = RowsWanted(columns, flag(vectors, "vectors"))
    return _query(index, queries, options, wanted, out, memory, threads, progress, given)


def range_query(
    index: PlaceLike | Searchable,
    queries: Data,
    radius: float,
    nprobe: int | None = None,
    *,
    columns: Sequence[str] | str | None = None,
    vectors: bool = False,
    out: PathLike | None = None,
    recall: float | None = None,
    filter: FilterArgument | None = None,
    filter_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Any:
    """Find all vectors within a radius of every query, with columns of the index, as a table.

    Parameters
    ----------
    radius : float
        Results have a smaller squared L2 distance (l2), or a larger similarity (ip, cosine).
    index, queries, nprobe, columns, vectors, out, recall, filter, filter_column
        As for ``query``.
    vector_column, format, memory, threads, progress
        As for ``query``.

    Returns
    -------
    pyarrow.Table, or int
        As from ``query``.
    """
    options = SearchOptions(
        radius=radius,
        nprobe=nprobe,
        recall=recall,
        filter=parse_filters(filter),
        filter_column=filter_column,
    )
    given = {"vector_column": vector_column, "format": format}
    wanted = RowsWanted(columns, flag(vectors, "vectors"))
    return _query(index, queries, options, wanted, out, memory, threads, progress, given)


@dataclass(frozen=True)
class RowsWanted:
    """What results have besides ids and distances.

    Parameters
    ----------
    columns : sequence of str or str, optional
        Columns of the index.
    vectors : bool
    """

    columns: Sequence[str] | str | None
    vectors: bool = False


def _query(
    index: PlaceLike | Searchable,
    queries: Data,
    options: SearchOptions,
    wanted: RowsWanted,
    out: PathLike | None,
    memory: str | int | None,
    threads: int | None,
    progress: Progress | bool | None,
    given: dict[str, Any],
) -> Any:
    place = None if out is None else path_of(out, "out")
    if place is not None:
        check_table_output(place)
    granted = resources(memory, threads, progress)
    column = options.filter_column
    with ExitStack() as stack:
        if place is not None:
            stack.enter_context(hold_file(place))
        searched = stack.enter_context(_index(index, memory, threads))
        kept = () if column is None else (column,)
        source = stack.enter_context(
            opened(queries, granted, None, name="queries", columns=kept, **given)
        )
        bar = stack.enter_context(granted.progress.stage("search", source.ntotal, "queries"))
        tables = tables_of(searched, source, options, wanted, bar)
        return pa.concat_tables(tables) if place is None else write_tables(place, tables)


def tables_of(
    index: Searchable, source: Source, options: SearchOptions, wanted: RowsWanted, bar: Bar
) -> Iterator[Any]:
    """Yield the tables of all queries of a source, as many queries at a time as memory holds.

    There is at least one.
    """
    question = question_under_filter(index, options)
    question.check(index, source)
    rows = max(1, _RESULTS // min(question.k or _USUAL_RESULTS, _RESULTS))
    for start in range(0, max(1, source.ntotal), rows):
        stop = min(start + rows, source.ntotal)
        batches = answers(index, source, question, start, stop) if start < stop else ()
        if start == stop:
            yield _table(index, 0, FoundArrays.none(None), wanted)
        for first, found in batches:
            yield _table(index, first, found, wanted)
            bar.advance(found.n)


def _table(index: Searchable, first: int, found: FoundArrays, wanted: RowsWanted) -> Any:
    """Make the table of some queries, counted from ``first``."""
    held = found.ids >= 0
    counts = np.bincount(
        np.repeat(np.arange(found.n), np.diff(found.lims))[held], minlength=found.n
    )
    lims = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ids = found.ids[held]
    rows = index.rows_of(ids, wanted.columns, vectors=wanted.vectors)
    table = results_of_lims(lims, found.distances[held], ids, rows)
    return table.set_column(0, "query", pa.compute.add(table["query"], first))


def get(
    index: PlaceLike | Index | RemoteIndex,
    ids: Any,
    columns: Sequence[str] | str | None = None,
    *,
    vectors: bool = False,
    out: PathLike | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
) -> Any:
    """Return rows of an index by id, as a table.

    Parameters
    ----------
    index : path-like, Index or RemoteIndex
    ids, columns, vectors
        As for ``Index.get``.
    out : path-like, optional
        Write the table to this file, .parquet, .csv or .jsonl.
    memory, threads
        As for ``build``; ignored for an open index.

    Returns
    -------
    pyarrow.Table
        As from ``Index.get``.
    """
    place = None if out is None else path_of(out, "out")
    if place is not None:
        check_table_output(place)
    with _index(index, memory, threads) as there:
        table = there.get(ids, columns, vectors=vectors)
    if place is not None:
        with hold_file(place):
            write_tables(place, [table])
    return table


@contextmanager
def _index(index: PlaceLike | Any, memory: str | int | None, threads: int | None) -> Iterator[Any]:
    """Yield the given index, which stays open, or open the one at a path for the body."""
    if isinstance(index, Index | RemoteIndex):
        yield index
        return
    with open_index(place_of(index, "the index"), memory=memory, threads=threads) as there:
        yield there
