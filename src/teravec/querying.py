"""The package's functions that query an index. Each opens what it needs, and closes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.api import resources
from teravec.arguments import path_of
from teravec.bulk.corpus import CorpusSummary, answers, search_corpus
from teravec.bulk.filtered import question_under_filter
from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.given import Truth, as_neighbors, opened, read_whole
from teravec.bulk.questions import with_index_ids
from teravec.bulk.results import check_output, write_neighbors
from teravec.engines.options import EngineOptions
from teravec.evaluation.checkpoint import remove_checkpoint
from teravec.evaluation.evaluation import Evaluation
from teravec.evaluation.evaluation import evaluate as _evaluate
from teravec.evaluation.groundtruth import groundtruth as exact_neighbors
from teravec.filters.filter import FilterArgument, parse_filter
from teravec.index.calibration import read_calibration
from teravec.index.info import describe_index
from teravec.index.opened import OpenedIndex
from teravec.kernels.metric import Metric
from teravec.progress import Progress
from teravec.search.effort import shortfall
from teravec.search.index import Index, open_index
from teravec.search.options import SearchOptions
from teravec.search.searchable import Searchable
from teravec.serving.wire.client import RemoteIndex
from teravec.sources import Data, PathLike, Source, are_paths, find_bad, open_source, write_bad
from teravec.sources.bad_rows import count_bad_rows
from teravec.storage.files import remove
from teravec.storage.output_lock import hold_file
from teravec.storage.places import PlaceLike, place_of

__all__ = ["evaluate", "groundtruth", "info", "range_search", "search", "skipped_rows"]

_SKIPPED = ".skipped.json"
_NPROBES = (1, 4, 16, 64)  # tried where nothing is asked for

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def groundtruth(
    data: Data,
    queries: Data,
    k: int = 100,
    *,
    metric: str = "l2",
    out: PathLike | None = None,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    query_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
) -> tuple[Float32, Int64]:
    """Find the exact neighbours of every query by brute force, in bounded memory.

    Parameters
    ----------
    data : path-like, array-like, table, data frame or stream
        The vectors to search, in any form that ``build`` takes.
    queries : likewise
        Held in memory as a whole.
    k : int
        1 to the number of vectors.
    metric : {"l2", "ip", "cosine"}
    out : path-like, optional
        Also write the neighbours to this file. Its extension chooses the format: .npz .parquet
        .ibin .bin .ivecs .npy. A killed run continues from ``OUT.partial``.
    query_column : str, optional
        Column of the queries' vectors, if it differs from ``vector_column``.
    skip_bad : bool
        Leave out bad rows of the data, as ``build`` does; ``OUT.skipped.json`` lists them.
    ids, id_column, vector_column, format, memory, threads, progress, engine, workers, address
        As for ``build``.

    Returns
    -------
    distances : ndarray of shape (nq, k), float32
        Squared L2 ascending (l2), or similarities descending (ip, cosine).
    ids : ndarray of shape (nq, k), int64
        Equal distances are ordered by id, ascending.

    Raises
    ------
    InvalidArgument, MemoryLimitTooSmall, OutputExists, StorageError
    """
    place = None if out is None else path_of(out, "out")
    if place is not None:
        check_output(place)
    options = EngineOptions(engine, workers, address)
    with ExitStack() as stack:
        if place is not None:
            stack.enter_context(hold_file(place))
        granted = stack.enter_context(resources(memory, threads, progress, options))
        source = stack.enter_context(
            opened(
                data,
                granted,
                _beside(place, ".spool"),
                shared=not granted.engine.in_process,
                ids=ids,
                id_column=id_column,
                vector_column=vector_column,
                format=format,
                skip_bad=skip_bad,
            )
        )
        if place is not None:
            source.check_not(place)
        vectors = read_whole(
            queries,
            granted,
            "queries",
            query_column=query_column,
            vector_column=vector_column,
            format=format,
            exact=True,
            not_at=place,
        )
        if source.skipped is not None:
            source = find_bad(source, granted.threads, granted.progress)
        checkpoint = _beside(place, ".partial")
        distances, found = exact_neighbors(
            source,
            vectors,
            k,
            metric=Metric.parse(metric),
            resources=granted,
            checkpoint=checkpoint,
        )
        if place is not None and checkpoint is not None:
            write_neighbors(place, distances, found)
            _list_skipped(place, source)
            remove_checkpoint(checkpoint)
    return distances, found


def _list_skipped(out: Path, source: Source) -> None:
    listed = out.with_name(out.name + _SKIPPED)
    if source.skipped is not None and source.skipped.rows:
        write_bad(listed, source)
    else:
        remove(listed)  # left by an earlier run


def skipped_rows(out: Path) -> int:
    """Return how many rows a file of ground truth leaves out, from the list beside it."""
    listed = out.with_name(out.name + _SKIPPED)
    return count_bad_rows(listed) if listed.exists() else 0


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
    exclude_self: bool = False,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> tuple[Float32, Int64] | CorpusSummary:
    """Find the k nearest neighbours of every query, however many there are.

    For repeated searches, open the index once and use ``Index.search``.

    Parameters
    ----------
    index : path-like, Index or RemoteIndex
    queries : path-like, array-like, table, data frame or stream
        In any form that ``build`` takes. With ``out``, a stream is spooled to ``OUT.spool``.
    k, nprobe, recall, candidates, filter
        As for ``Index.search``. A filter is for an index here, and for all queries.
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
    (distances, ids)
        Without ``out``: ndarrays of shape (nq, k), as from ``Index.search``.
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
        filter=None if filter is None else parse_filter(filter),
    )
    with _asked(
        index,
        queries,
        out,
        memory,
        threads,
        progress,
        exclude_self,
        ids=ids,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
    ) as asked:
        found = asked.answer(options)
    if isinstance(found, CorpusSummary):
        return found
    return found.distances.reshape(found.n, k), found.ids.reshape(found.n, k)


def range_search(
    index: PlaceLike | Searchable,
    queries: Data,
    radius: float,
    nprobe: int | None = None,
    *,
    out: PathLike | None = None,
    recall: float | None = None,
    filter: FilterArgument | None = None,
    exclude_self: bool = False,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> tuple[Int64, Float32, Int64] | CorpusSummary:
    """Find all vectors within a radius of every query, however many there are.

    Parameters
    ----------
    radius : float
        Results have a smaller squared L2 distance (l2), or a larger similarity (ip, cosine).
    out : path-like, optional
        As for ``search``: .npz .parquet .csv or .jsonl.
    index, queries, nprobe, recall, filter, exclude_self, ids, id_column, vector_column
        As for ``search``.
    format, memory, threads, progress
        As for ``search``.

    Returns
    -------
    (lims, distances, ids)
        Without ``out``: query i has results [lims[i], lims[i + 1]), as from
        ``Index.range_search``.
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
        filter=None if filter is None else parse_filter(filter),
    )
    with _asked(
        index,
        queries,
        out,
        memory,
        threads,
        progress,
        exclude_self,
        ids=ids,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
    ) as asked:
        found = asked.answer(options)
    if isinstance(found, CorpusSummary):
        return found
    return found.lims, found.distances, found.ids


def evaluate(
    index: PlaceLike | Searchable,
    queries: Data,
    truth: Truth,
    k: int = 10,
    *,
    nprobe: int | Sequence[int] | None = None,
    recall: float | Sequence[float] | None = None,
    candidates: int | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    truth_format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
) -> list[Evaluation]:
    """Measure recall, speed and bytes read against nprobe, or against the recall asked for.

    Parameters
    ----------
    index : path-like, Index or RemoteIndex
        Given a path, every search reads its lists anew. An open index may have them in its cache,
        and then reads less.
    queries : path-like, array-like, table, data frame or stream
        In any form that ``build`` takes; held in memory as a whole.
    truth : path-like, (distances, ids) or ids
        A file of the exact neighbours, or the arrays that ``groundtruth`` returns.
    k : int
    nprobe : int or sequence of int, optional
        Values to measure. With neither nprobe nor recall: 1, 4, 16 and 64.
    recall : float or sequence of float, optional
        Recalls to ask for, after the nprobes; needs a calibrated index.
    candidates, memory, threads
        As for ``search``.
    vector_column, format : str, optional
        For the queries, as for ``build``.
    truth_format : str, optional
        Format of the truth file, as "ibin", if its name and content do not show it.

    Returns
    -------
    list of Evaluation
        One for each nprobe, then for each recall.
    """
    if nprobe is None and recall is None:
        nprobe = _NPROBES
    nprobes = [] if nprobe is None else _several(nprobe)
    recalls = [] if recall is None else _several(recall)
    limits = resources(memory, threads, None)
    neighbors = as_neighbors(truth, truth_format)
    with _index(index, memory, threads, keep_lists=False) as searched:
        vectors = read_whole(queries, limits, "queries", vector_column=vector_column, format=format)
        return _evaluate(
            searched, vectors, neighbors, k, nprobes, recalls=recalls, candidates=candidates
        )


def info(index: PlaceLike) -> dict[str, Any]:
    """Describe an index: sizes in bytes, settings, training, and the sizes of its lists.

    Returns
    -------
    dict
        As ``teravec info --json`` prints it.
    """
    with OpenedIndex(place_of(index, "the index")) as there:
        calibration = read_calibration(there.paths, there.manifest)
        why = None if calibration is None else shortfall(calibration, there.manifest.nlist)
        return {**describe_index(there), "shortfall": why}


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
    **given: Any,
) -> Iterator[_Asked]:
    place = None if out is None else path_of(out, "out")
    if place is not None:
        check_output(place)
    granted = resources(memory, threads, progress)
    with _index(index, memory, threads) as searched:
        asked = _with_index_ids(searched, queries, exclude_self, given)
        with opened(asked, granted, _beside(place, ".spool"), name="queries", **given) as source:
            yield _Asked(searched, source, place, granted.progress)


def _with_index_ids(
    index: Searchable, queries: Data, exclude_self: bool, given: dict[str, Any]
) -> Data:
    """Open files of indexed vectors with the index's ids, unless other ids are named."""
    paths = are_paths(queries)
    if paths is None or given["ids"] is not None or given["id_column"] is not None:
        return queries

    def opened_with(column: str | None) -> Source:
        return open_source(
            paths, id_column=column, vector_column=given["vector_column"], format=given["format"]
        )

    return with_index_ids(index.source, opened_with, exclude_self)


@contextmanager
def _index(
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


def _beside(out: Path | None, suffix: str) -> Path | None:
    return None if out is None else out.with_name(out.name + suffix)


def _several(values: Any) -> list[Any]:
    return list(values) if np.ndim(values) else [values]
