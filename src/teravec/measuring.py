"""The package's functions that measure recall: groundtruth, calibrate and evaluate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec import building
from teravec.arguments import path_of, whole_numbers
from teravec.bulk.given import Truth, as_neighbors, opened, read_whole
from teravec.bulk.results import check_output, check_place, write_neighbors
from teravec.bulk.returned import Nearest
from teravec.engines.options import EngineOptions
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.evaluation.calibrating import CalibrationOptions, calibrate_index, calibrate_with_truth
from teravec.evaluation.checkpoint import remove_checkpoint
from teravec.evaluation.evaluation import Evaluation
from teravec.evaluation.evaluation import evaluate as _evaluate
from teravec.evaluation.evaluations import Evaluations
from teravec.evaluation.groundtruth import groundtruth as exact_neighbors
from teravec.evaluation.recalibrating import recalibrate
from teravec.granting import resources
from teravec.index.calibration import Calibration, read_calibration
from teravec.index.manifest import read_manifest
from teravec.kernels.metric import Metric
from teravec.progress import Progress
from teravec.querying import beside, searchable
from teravec.search.index import Index
from teravec.search.searchable import Searchable
from teravec.sources import Data, PathLike, Source, find_bad, write_bad
from teravec.sources.bad_rows import count_bad_rows
from teravec.storage.files import remove
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_file, hold_index
from teravec.storage.places import PlaceLike, place_of

__all__ = ["calibrate", "evaluate", "groundtruth", "skipped_rows"]

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
) -> Nearest:
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
                beside(place, ".spool"),
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
        checkpoint = beside(place, ".partial")
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
    return Nearest(distances, found)


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


def calibrate(
    path: PlaceLike,
    queries: Data | None = None,
    *,
    data: Data | None = None,
    truth: Truth | None = None,
    nqueries: int = 1000,
    ks: Sequence[int] = (1, 10, 100),
    codes: int | None = None,
    seconds: float | None = None,
    truth_format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    query_column: str | None = None,
    format: str | None = None,
    progress: Progress | bool | None = None,
) -> Calibration:
    """Measure recall against effort, so that searches may ask for a recall.

    Without queries, data and truth, the queries that the index keeps are searched once more: their
    true neighbours are known in every version. The first calibration keeps them, at most 2,000.

    Replaces an earlier calibration. An index that is already open keeps using the earlier one.

    Parameters
    ----------
    path : path-like
        Index directory.
    queries : optional
        Typical queries, in any form that ``build`` takes. Not given: vectors drawn from
        ``data``, preferably ones that the model was not trained on. Each is left out of its own
        neighbours.
    data : optional
        The vectors that the index was built from, in any form that ``build`` takes, for the exact
        neighbours. If the index was built from data in memory, an array, a stream or a file of
        the same vectors is accepted.
    truth : path-like, (distances, ids) or ids, optional
        Instead of data: the exact neighbours of ``queries``; a file, or the arrays that
        ``groundtruth`` returns.
    nqueries : int
        Vectors to draw, where no queries are given.
    ks : sequence of int
        Values of k whose recall is measured; searches with another k use the next larger one.
    codes : int, optional
        Raise the effort until a query scans this many codes. Not given: a 32nd of all, at least
        30,000; three times as many if that cannot promise 0.95.
    seconds : float, optional
        End the searches within this time, and promise what was measured by then. Not given: no
        limit. The time limit can shorten the measurement, but not change its values.
    truth_format : str, optional
        Format of the truth file, as "ibin", if its name and content do not show it.
    memory, threads, ids, id_column, vector_column, format, progress
        As for ``build``. ``vector_column`` applies to the queries' files too.
    query_column : str, optional
        Column of the queries' vectors, if it differs.

    Raises
    ------
    InvalidArgument
        Both of data and truth given, or they do not fit the index; or neither, and the index keeps
        no queries. An earlier calibration stays.
    MemoryLimitTooSmall
    OutputExists
        Another process is writing into the index.
    StorageError
        No permission to write into the index.
    """
    paths = IndexPaths(place_of(path, "the index"))
    options = CalibrationOptions(nqueries, whole_numbers(ks, "ks", 1), codes, seconds)
    limits = resources(memory, threads, progress)
    given = None
    if queries is not None:
        given = read_whole(
            queries,
            limits,
            "queries",
            query_column=query_column,
            vector_column=vector_column,
            format=format,
        )
    if paths.is_local and paths.root.is_dir():
        check_place(paths.root / paths.calibration.name)  # fail before hours of work
    if data is not None and paths.imported.exists():
        raise InvalidArgument(
            f"{paths} was imported, and does not know the vectors that it was built from: give "
            "queries with a truth file (teravec groundtruth DATA QUERIES makes one)"
        )
    again = data is None and truth is None and given is None
    if not again and ((data is None) == (truth is None) or (truth is not None and given is None)):
        raise InvalidArgument(
            "exact neighbours are needed: give the data that the index was built from, or "
            "queries with a truth file"
        )
    with hold_index(paths):
        if again:
            return _calibrate_again(paths, options, limits)
        if truth is not None and given is not None:
            neighbors = as_neighbors(truth, truth_format)
            return calibrate_with_truth(paths, given, neighbors, options, limits)
        source = building.open_vectors(
            data,
            paths,
            limits,
            ids=ids,
            id_column=id_column,
            vector_column=vector_column,
            format=format,
        )
        calibration = calibrate_index(paths, source, options, limits, given)
        building.remove_spool(paths, read_manifest(paths))
    return calibration


def _calibrate_again(
    paths: IndexPaths, options: CalibrationOptions, limits: Resources
) -> Calibration:
    manifest = recalibrate(paths, limits, options)
    found = None if manifest is None else read_calibration(paths, manifest)
    if found is None:
        raise InvalidArgument(
            f"{paths} keeps no queries with enough true neighbours: give the data that it was "
            "built from (--data), or queries with a truth file; they are kept from then on"
        )
    return found


def evaluate(
    index: PlaceLike | Searchable | Sequence[PlaceLike | Searchable],
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
) -> Evaluations:
    """Measure recall, speed and bytes read against nprobe, or against the recall asked for.

    Parameters
    ----------
    index : path-like, Index or RemoteIndex, or a list of them
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
        As for ``search``. ``candidates`` is for codes in two stages.
    vector_column, format : str, optional
        For the queries, as for ``build``.
    truth_format : str, optional
        Format of the truth file, as "ibin", if its name and content do not show it.

    Returns
    -------
    Evaluations
        A sequence of ``Evaluation``: for each index one for each nprobe, then one for each recall.
        It prints as a table; ``.plot()`` draws it, ``.to_arrow()`` makes a table of it.
    """
    if nprobe is None and recall is None:
        nprobe = _NPROBES
    nprobes = [] if nprobe is None else _several(nprobe)
    recalls = [] if recall is None else _several(recall)
    indexes: list[Any] = list(index) if isinstance(index, list | tuple) else [index]
    if not indexes:
        raise InvalidArgument("no index found; at least one expected")
    limits = resources(memory, threads, None)
    neighbors = as_neighbors(truth, truth_format)
    found: list[Evaluation] = []
    vectors = None
    for each in indexes:
        with searchable(each, memory, threads, keep_lists=False) as searched:
            if vectors is None:
                vectors = read_whole(
                    queries, limits, "queries", vector_column=vector_column, format=format
                )
            found += _evaluate(
                searched,
                vectors,
                neighbors,
                k,
                nprobes,
                recalls=recalls,
                candidates=candidates,
                name=_name_of(each, searched),
            )
    return Evaluations(found)


def _name_of(given: PlaceLike | Searchable, opened: Searchable) -> str:
    """Return the path of an index as it was given, or where an open index lies."""
    if isinstance(given, str | os.PathLike):
        return str(given)
    return opened.where if isinstance(opened, Index) else repr(opened)


def _several(values: Any) -> list[Any]:
    return list(values) if np.ndim(values) else [values]
