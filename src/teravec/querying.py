"""The package's functions that query an index. Each opens what it needs, and closes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from teravec.arguments import path_of
from teravec.bulk.corpus import CorpusSummary, answers, search_corpus
from teravec.bulk.filtered import parse_filters, question_under_filter
from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.given import opened
from teravec.bulk.questions import with_index_ids
from teravec.bulk.results import check_output
from teravec.bulk.returned import Nearest, Within
from teravec.filters.filter import FilterArgument
from teravec.granting import resources
from teravec.progress import Progress
from teravec.search.index import Index, open_index
from teravec.search.options import SearchOptions
from teravec.search.searchable import Searchable
from teravec.serving.wire.client import RemoteIndex
from teravec.sources import Data, PathLike, Source, are_paths, open_source
from teravec.storage.places import PlaceLike, place_of

__all__ = ["beside", "range_search", "search", "searchable"]


def search(
    index: PlaceLike | Searchable,
    queries: Data,
    k: int = 10,
    nprobe: int | None = None,
    *,
    out: PathLike | None = None,
    recall: float | None = None,
    candidates: int | None = None,
    filter: FilterArgument | None = None,
    filter_column: str | None = None,
    exclude_self: bool = False,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Nearest | CorpusSummary:
    """Find the k nearest neighbours of every query, however many there are.

    For repeated searches, open the index once and use ``Index.search``.

    Parameters
    ----------
    index : path-like, Index or RemoteIndex
    queries : path-like, array-like, table, data frame or stream
        In any form that ``build`` takes. With ``out``, a stream is spooled to ``OUT.spool``.
    k, nprobe, recall, candidates
        As for ``Index.search``.
    filter : str, pyarrow.compute.Expression, or a sequence of these, optional
        Find only rows that pass: one filter for all queries, or one for each, in their order. None
        in a sequence finds all rows.
    filter_column : str, optional
        Instead: the column of the queries that holds the filter of each, as text.
    out : path-like, optional
        Write the results to this file instead of returning them, so that they may be larger
        than memory. Its extension chooses the format: .npz .parquet .csv .jsonl .ibin .bin .ivecs
        .npy. A killed run continues from ``OUT.partial``.
    exclude_self : bool
        Leave out the vector with the query's own id: for the neighbours within one data set.
    ids, id_column, vector_column, format
        For the queries, as for ``build``. If the queries are files that the index was built from,
        they have the index's ids by default.
    memory, threads
        As for ``build``; ignored for an open index, which has its own.
    progress : Progress, optional

    Returns
    -------
    Nearest
        Without ``out``: ``distances, ids = ...`` of shape (nq, k), as from ``Index.search``.
    CorpusSummary
        With ``out``.

    Raises
    ------
    InvalidArgument, OutputExists, CorruptFile, StorageError
    """
    options = SearchOptions(
        k=k,
        nprobe=nprobe,
        recall=recall,
        candidates=candidates,
        exclude_own=exclude_self,
        filter=parse_filters(filter),
        filter_column=filter_column,
    )
    with _asked(
        index,
        queries,
        out,
        memory,
        threads,
        progress,
        exclude_self,
        filter_column,
        ids=ids,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
    ) as asked:
        found = asked.answer(options)
    if isinstance(found, CorpusSummary):
        return found
    return Nearest(found.distances.reshape(found.n, k), found.ids.reshape(found.n, k))


def range_search(
    index: PlaceLike | Searchable,
    queries: Data,
    radius: float,
    nprobe: int | None = None,
    *,
    out: PathLike | None = None,
    recall: float | None = None,
    filter: FilterArgument | None = None,
    filter_column: str | None = None,
    exclude_self: bool = False,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Within | CorpusSummary:
    """Find all vectors within a radius of every query, however many there are.

    Parameters
    ----------
    radius : float
        Results have a smaller squared L2 distance (l2), or a larger similarity (ip, cosine).
    out : path-like, optional
        As for ``search``: .npz .parquet .csv or .jsonl.
    index, queries, nprobe, recall, filter, filter_column, exclude_self, ids, id_column
        As for ``search``.
    vector_column, format, memory, threads, progress
        As for ``search``.

    Returns
    -------
    Within
        Without ``out``: ``lims, distances, ids = ...``, as from ``Index.range_search``; query i has
        results [lims[i], lims[i + 1]).
    CorpusSummary
        With ``out``.

    Raises
    ------
    InvalidArgument, OutputExists, CorruptFile, StorageError
    """
    options = SearchOptions(
        radius=radius,
        nprobe=nprobe,
        recall=recall,
        exclude_own=exclude_self,
        filter=parse_filters(filter),
        filter_column=filter_column,
    )
    with _asked(
        index,
        queries,
        out,
        memory,
        threads,
        progress,
        exclude_self,
        filter_column,
        ids=ids,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
    ) as asked:
        found = asked.answer(options)
    if isinstance(found, CorpusSummary):
        return found
    return Within(found.lims, found.distances, found.ids)


class _Asked:
    """An open index and a source of queries, with the output path and the progress."""

    def __init__(
        self, index: Searchable, source: Any, out: Path | None, progress: Progress
    ) -> None:
        self.index = index
        self._source, self._out, self._progress = source, out, progress

    def answer(self, options: SearchOptions) -> FoundArrays | CorpusSummary:
        """Write the results to the output path, or return them if there is none."""
        question = question_under_filter(self.index, options)
        source, n = self._source, self._source.ntotal
        if self._out is not None:
            return search_corpus(self.index, source, question, self._out, self._progress)
        with self._progress.stage("search", n, "queries") as bar:
            parts = []
            for _, found in answers(self.index, source, question, 0, n):
                parts.append(found)
                bar.advance(found.n)
        return FoundArrays.joined(parts)


@contextmanager
def _asked(
    index: PlaceLike | Searchable,
    queries: Data,
    out: PathLike | None,
    memory: str | int | None,
    threads: int | None,
    progress: Progress | bool | None,
    exclude_self: bool,
    filter_column: str | None,
    **given: Any,
) -> Iterator[_Asked]:
    place = None if out is None else path_of(out, "out")
    if place is not None:
        check_output(place)
    granted = resources(memory, threads, progress)
    with searchable(index, memory, threads) as searched:
        columns = () if filter_column is None else (filter_column,)
        asked = _with_index_ids(searched, queries, exclude_self, columns, given)
        spool = beside(place, ".spool")
        with opened(asked, granted, spool, name="queries", columns=columns, **given) as source:
            yield _Asked(searched, source, place, granted.progress)


def _with_index_ids(
    index: Searchable,
    queries: Data,
    exclude_self: bool,
    columns: Sequence[str],
    given: dict[str, Any],
) -> Data:
    """Open files of indexed vectors with the index's ids, unless other ids are named."""
    paths = are_paths(queries)
    if paths is None or given["ids"] is not None or given["id_column"] is not None:
        return queries

    def opened_with(column: str | None) -> Source:
        return open_source(
            paths,
            id_column=column,
            vector_column=given["vector_column"],
            format=given["format"],
            columns=columns,
        )

    return with_index_ids(index.source, opened_with, exclude_self)


@contextmanager
def searchable(
    index: PlaceLike | Searchable, memory: str | int | None, threads: int | None, **options: Any
) -> Iterator[Searchable]:
    """Yield the given index, which stays open, or open the one at a path for the body."""
    if isinstance(index, Index | RemoteIndex):
        yield index
        return
    with open_index(
        place_of(index, "the index"), memory=memory, threads=threads, **options
    ) as there:
        yield there


def beside(out: Path | None, suffix: str) -> Path | None:
    """Return the path of a file beside the results; None without a file of results."""
    return None if out is None else out.with_name(out.name + suffix)
