"""The package's functions that return tables of rows: query, and get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa

from teravec.arguments import path_of
from teravec.bulk.formats.tables import check_table_output, write_tables
from teravec.bulk.given import opened
from teravec.filters.filter import FilterArgument
from teravec.granting import resources
from teravec.progress import Bar, Progress
from teravec.search.index import Index, open_index
from teravec.sources import Data, PathLike, Source
from teravec.storage.output_lock import hold_file
from teravec.storage.places import PlaceLike, place_of

__all__ = ["get", "query", "tables_of"]


def query(
    index: PlaceLike | Index,
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
    vector_column: str | None = None,
    format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Any:
    """Find the k nearest neighbours of every query, with columns of the index, as a table.

    Parameters
    ----------
    index : path-like or Index
    queries : path-like, array-like, table, data frame or stream
        In any form that ``build`` takes.
    k, nprobe, recall, candidates, filter, columns, vectors
        As for ``Index.query``.
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
    place = None if out is None else path_of(out, "out")
    if place is not None:
        check_table_output(place)
    granted = resources(memory, threads, progress)
    with ExitStack() as stack:
        if place is not None:
            stack.enter_context(hold_file(place))
        searched = stack.enter_context(_index(index, memory, threads))
        source = stack.enter_context(
            opened(
                queries, granted, None, name="queries", vector_column=vector_column, format=format
            )
        )
        bar = stack.enter_context(granted.progress.stage("search", source.ntotal, "queries"))
        asked: dict[str, Any] = {
            "recall": recall,
            "candidates": candidates,
            "columns": columns,
            "vectors": vectors,
            "filter": filter,
        }
        tables = tables_of(searched, source, k, nprobe, bar, **asked)
        return pa.concat_tables(tables) if place is None else write_tables(place, tables)


def tables_of(
    index: Index, source: Source, k: int, nprobe: int | None, bar: Bar, **asked: Any
) -> Iterator[Any]:
    """Yield the tables of all queries of a source, as many queries at a time as memory holds."""
    chosen = {name: asked[name] for name in ("recall", "candidates")}
    effort = index.effort(nprobe, k=min(k, index.ntotal), **chosen)
    rows = index.batch_rows(effort.nprobe, k, effort.candidates)
    for start in range(0, max(1, source.ntotal), rows):
        stop = min(start + rows, source.ntotal)
        table = index.query(source.read(start, stop), k, nprobe, **asked)
        numbers = pa.compute.add(table["query"], start)
        yield table.set_column(0, "query", numbers)
        bar.advance(stop - start)


def get(
    index: PlaceLike | Index,
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
    index : path-like or Index
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
def _index(
    index: PlaceLike | Index, memory: str | int | None, threads: int | None
) -> Iterator[Index]:
    """Yield the given index, which stays open, or open the one at a path for the body."""
    if isinstance(index, Index):
        yield index
        return
    with open_index(place_of(index, "the index"), memory=memory, threads=threads) as there:
        yield there
