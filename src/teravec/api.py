"""The package's functions that make an index. Each checks its arguments and builds options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from teravec import building
from teravec.arguments import check_range, flag, instance, whole_numbers
from teravec.bulk.given import Truth, as_neighbors, read_whole
from teravec.bulk.results import check_place
from teravec.engines.opening import open_engine
from teravec.engines.options import CPU, EngineOptions
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.evaluation.calibrating import CalibrationOptions, calibrate_index, calibrate_with_truth
from teravec.evaluation.recalibrating import recalibrate
from teravec.index.calibration import Calibration, read_calibration
from teravec.index.manifest import Manifest, read_manifest
from teravec.index.verify import verify as _verify
from teravec.kernels.device import open_torch, parse_device
from teravec.memory import granted_memory, parse_bytes
from teravec.model.description import ModelDescription
from teravec.processors import check_threads
from teravec.progress import Progress, as_progress
from teravec.search.index import open_index as open
from teravec.serving.wire.client import connect
from teravec.sources import Data, PathLike, as_query, parse_columns
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_index
from teravec.storage.places import PlaceLike, open_store, place_of
from teravec.training.options import TrainOptions
from teravec.training.record import LayoutOptions

store = open_store

__all__ = [
    "build",
    "calibrate",
    "connect",
    "merge",
    "open",
    "resources",
    "shard",
    "store",
    "train",
    "verify",
]


def resources(
    memory: str | int | None,
    threads: int | None,
    progress: Progress | bool | None,
    engine: EngineOptions | None = None,
    device: str = CPU,
) -> Resources:
    """Check a user's memory, threads, progress, engine and device, and return them as Resources.

    Use the result as a context manager: the engine's workers end with the body. On a cluster with a
    GPU device, each worker has its own GPU.
    """
    memory_bytes = granted_memory(memory)
    check_threads(threads)
    chosen = engine or EngineOptions()
    if parse_device(device) != CPU:
        if chosen.name == "local":
            open_torch(device)  # fail early; on a cluster each worker opens its own
        elif device.startswith("cuda"):
            chosen = replace(chosen, gpus=max(1, chosen.gpus))
    opened = open_engine(chosen, threads, memory_bytes)
    # This process works alone only while its workers wait, so it may use their threads.
    here = chosen.workers or 1 if chosen.address is None else 1
    return Resources(memory_bytes, (threads or 0) * here, progress, opened, device)


def build(
    data: Data,
    out: PlaceLike,
    *,
    nlist: int | str | None = None,
    metric: str = "l2",
    transform: str | None = None,
    codec: str = "sq8",
    sample: int | None = None,
    niter: int = 10,
    seed: int = 1234,
    max_list_bytes: str | int | None = None,
    shards: int | None = None,
    slices: int | None = None,
    keep_shards: bool = False,
    calibrate: bool = True,
    memory: str | int | None = None,
    threads: int | None = None,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    columns: Sequence[str] | str | None = None,
    filterable: Sequence[str] | str | None = None,
    attributes: Any = None,
    weights: PathLike | npt.ArrayLike | None = None,
    centroids: Data | None = None,
    query: str | None = None,
    partition_by: str | None = None,
    readers: int | None = None,
    bytes_type: str | None = None,
    since_column: str | None = None,
    keep_partitions: bool = False,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    device: str = CPU,
) -> Manifest:
    """Train, shard, merge and calibrate an index. A rerun does only what is missing.

    Parameters
    ----------
    data : path-like or list of path-like, array-like, table, data frame or stream
        Files, folders or globs (``**`` for any depth) of .fvecs, .bvecs, .ivecs, .fbin,
        .f16bin, .u8bin, .i8bin, .npy, .parquet, .arrow or .feather files; rows in this order,
        members of a folder in natural order of name. ``PATH:FORMAT`` gives one file's format.

        Or vectors in memory, which are not copied: an array of shape (n, d) of NumPy, PyTorch
        or any library whose arrays NumPy reads; lists of lists; a table or data frame of
        pyarrow, pandas or polars; a list of these, whose rows follow one another.

        Or a stream: an exporter of an Arrow stream (a RecordBatchReader, a DuckDB relation), or
        an iterator of batches. A batch is data as above, ``(ids, vectors)``, or one vector. The
        stream is first written to the file ``OUT.spool``, one batch at a time. To continue a
        killed build, give the same stream again (only its first batch is read) or
        ``OUT.spool``. The file is removed when the index is complete and calibrated.

        Or the address of a database, ``postgresql://``, ``sqlite:///FILE`` or ``duckdb:///FILE``,
        whose ``query`` gives the rows. They are read in one snapshot into the folder
        ``OUT.spool``, range by range.
    out : path-like
        Index directory: new, empty, or holding the same build.
    nlist : int or "auto", optional
        Inverted lists. Not given, or "auto": the power of two nearest 4 sqrt(ntotal), at most
        one list for every 39 vectors.
    metric : {"l2", "ip", "cosine"}
    transform : str, optional
        ``none``, ``rotation`` or ``pcaM``. Not given: rotation for rabitq, else none.
    codec : str
        ``flat``, ``fp16``, ``sq8``, ``sq6``, ``sq4``, ``pqM``, ``pqMxB``, ``rabitq1`` to
        ``rabitq8``; in two stages ``rabitq1+`` or ``rabitq2+`` and one of the others.
    sample : int, optional
        Training vectors, drawn uniformly. Not given: 64 for each list.
    niter : int
        Iterations of k-means.
    seed : int
        Seed of every random choice; the same seed gives the same bytes.
    max_list_bytes : str or int, optional
        Split lists whose codes and ids would take more, as "64MiB"; the index then has more than
        nlist lists. Not given: no limit.
    shards, slices : int, optional
        Files for the work and for the index. Not given: as many shards as memory requires, and
        slices of about 1 GiB.
    keep_shards : bool
        Keep the shards after the merge.
    calibrate : bool
        Measure recall against effort on 1,000 vectors of the source, so that searches may ask
        for a recall; see ``teravec.calibrate``. Its searches take at most as long as the rest of
        the build, or 30 s if that is longer.
    memory : str or int, optional
        Limit in bytes or as "4GiB", in addition to about 300 MiB for the interpreter and its
        libraries. Not given: 4 GiB, or half of the memory available to the machine or its
        container if that is less.
    threads : int, optional
        Not given: the processors that this process may use, by affinity and container.
    ids : array-like of shape (n,), optional
        Ids of vectors in memory: whole numbers, 0 or more, each once.
    id_column, vector_column : str, optional
        Columns of Parquet and Arrow files, tables and data frames; a struct's field is
        ``column.field``. Without ``ids`` and ``id_column``, ids are row numbers.
    format : str, optional
        Format of all files, whatever their names: an extension without its dot.
    skip_bad : bool
        Leave out rows that are null, hold nulls, have another length, or hold NaN or infinity.
        This takes one more pass over the data. ``skipped.json`` lists the rows left out; the
        others keep their ids.
    columns : sequence of str or str, optional
        Columns of the data that the index keeps for each vector, or "all"; see docs/columns.md.
        Not given: none, or those of ``attributes``.
    filterable : sequence of str or str, optional
        Columns that filters will test often: an inverted file is made of each, so that no search
        has to read the column; see docs/filters.md. Not given: none.
    attributes : path-like or table, optional
        A table beside the vectors that has these columns, with a row for each vector, in the same
        order: .parquet, .arrow, .feather, .csv, a table or a data frame.
    weights : path-like or array-like, optional
        An array of shape (ntotal,), or a .npy file of one: how much each vector counts in
        k-means, 0 or more.
    centroids : optional
        Centroids that someone else computed, instead of k-means: (nlist, d), distinct, in any form
        that ``data`` has. They are in the space of the vectors, before the transform; cosine scales
        them to unit length. ``nlist`` is their number.
    query : str, optional
        A SELECT of the vectors and, if ``id_column`` or ``partition_by`` names them, the ids. The
        vectors are pgvector's ``vector`` or ``halfvec``, arrays of numbers, bytes, or text as
        ``[1,2,3]``.
    partition_by : str, optional
        Column of whole numbers, dates or times; its ranges are read in parallel, and each again
        after a lost connection. Whole numbers are the ids, unless ``id_column`` names others.
    readers : int, optional
        Connections to the database. Not given: 4 with ``partition_by``.
    bytes_type : {"float32", "float16"}, optional
        What vectors are that the database has as bytes. Not given: float32.
    since_column : str, optional
        Column of the query that grows when a row changes, as ``updated_at``. Its largest value is
        kept with the index, and a later ``add`` of the same query reads only rows from there on.
    keep_partitions : bool
        Go on with ranges that a killed run read, even if the database has changed since. Not
        given: then all ranges are read again, so that the rows are those of one snapshot.
    overwrite : bool
        Replace another index at ``out`` once the new one is complete. The new one is built
        beside it, as ``OUT.new``. If ``out`` holds anything but an index, that is an error; if it
        holds the same build, that build continues.
    progress : Progress or bool, optional
        True: a bar for each stage, in a terminal or a notebook. ``teravec.Bars`` draws them; its
        ``stages`` list afterwards what each stage took.
    engine : {"local", "ray"}
        Where tasks run: in this process, or on a Ray cluster (``pip install 'teravec[ray]'``).
        The index is the same.
    workers : int, optional
        Ray's worker processes. ``memory`` then limits all workers of one machine together, and
        ``threads`` applies to each. Not given: one worker on each machine.
    address : str, optional
        Address of a Ray cluster whose machines see ``data`` and ``out`` under the same paths.
        Not given: start Ray on this machine for this build.
    device : str
        Device that finds vectors' lists in training and sharding: ``cpu``; or ``cuda``,
        ``cuda:N``, a GPU through PyTorch (``pip install 'teravec[gpu]'``). With Ray, each worker
        takes a GPU.

    Returns
    -------
    Manifest

    Raises
    ------
    InvalidArgument
        An option or input is wrong; nothing was written.
    OutputExists
        ``out`` holds something else, or another process is writing there now.
    StorageError
        No space or no permission; rerun to continue.
    WorkerLost
        A task lost its worker too often; rerun to continue.
    """
    options = EngineOptions(engine, workers, address)
    given = as_query(
        data,
        query=query,
        partition_by=partition_by,
        readers=readers,
        bytes_type=bytes_type,
        since_column=since_column,
        keep_partitions=keep_partitions,
    )
    with resources(memory, threads, progress, options, device) as granted:
        return building.build_index(
            given,
            out,
            options=_train_options(
                nlist, metric, transform, codec, sample, niter, seed, max_list_bytes
            ),
            layout=LayoutOptions(shards, slices, parse_columns(filterable)),
            keep_shards=keep_shards,
            calibrate=calibrate,
            resources=granted,
            ids=ids,
            id_column=id_column,
            vector_column=vector_column,
            weights=weights,
            centroids=centroids,
            format=format,
            skip_bad=skip_bad,
            columns=parse_columns(columns),
            attributes=attributes,
            overwrite=overwrite,
        )


def train(
    data: Data,
    out: PlaceLike,
    *,
    options: TrainOptions | None = None,
    layout: LayoutOptions | None = None,
    resources: Resources | None = None,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    columns: Sequence[str] | str | None = None,
    filterable: Sequence[str] | str | None = None,
    attributes: Any = None,
    weights: PathLike | npt.ArrayLike | None = None,
    centroids: Data | None = None,
    nlist: int | str | None = None,
    metric: str = "l2",
    transform: str | None = None,
    codec: str = "sq8",
    sample: int | None = None,
    niter: int = 10,
    seed: int = 1234,
    max_list_bytes: str | int | None = None,
    shards: int | None = None,
    slices: int | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    device: str = CPU,
) -> ModelDescription:
    """Train a model from a uniform sample of the source; the first stage of ``build``.

    A rerun continues a killed run.

    Parameters
    ----------
    options, layout, resources : optional
        The parameters below as ready-made groups; the parameters of a given group are ignored.
    data, out, ids, id_column, vector_column, columns, filterable, attributes, weights, ...
        As for ``build``. A stream is spooled to ``OUT.spool``, which the later stages read.

    Returns
    -------
    ModelDescription
    """
    trained = _train_options(nlist, metric, transform, codec, sample, niter, seed, max_list_bytes)
    if options is not None:
        trained = instance(options, TrainOptions, "options")
    laid_out = LayoutOptions(shards, slices, parse_columns(filterable))
    if layout is not None:
        laid_out = instance(layout, LayoutOptions, "layout")
    with _granted(
        resources, memory, threads, progress, EngineOptions(engine, workers, address), device
    ) as granted:
        paths = IndexPaths(place_of(out, "out"))
        source = building.open_vectors(
            data,
            paths,
            granted,
            ids=ids,
            id_column=id_column,
            vector_column=vector_column,
            format=format,
            skip_bad=flag(skip_bad, "skip_bad"),
            columns=parse_columns(columns),
            attributes=attributes,
        )
        return building.train_model(
            source,
            paths,
            trained,
            laid_out,
            granted,
            building.open_weights(weights, source),
            building.open_centroids(centroids, source, vector_column),
        )


def shard(
    data: Data,
    out: PlaceLike,
    *,
    rows: tuple[int, int] | None = None,
    resources: Resources | None = None,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    attributes: Any = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    device: str = CPU,
) -> list[Path]:
    """Encode rows [start, stop), or all rows without a shard; the second stage.

    Ranges may be encoded in any order and by several processes at once. If another process is
    encoding some of the same rows, OutputExists is raised. Parameters as for ``train``. Returns the
    shard files written; in an object store, their names there. Rows that ``train`` skipped are
    skipped here too, and not counted. The columns are those of ``train``.
    """
    with _granted(
        resources, memory, threads, progress, EngineOptions(engine, workers, address), device
    ) as granted:
        paths = IndexPaths(place_of(out, "out"))
        source = building.open_vectors(
            data,
            paths,
            granted,
            ids=ids,
            id_column=id_column,
            vector_column=vector_column,
            format=format,
            attributes=attributes,
        )
        return building.shard_rows(source, paths, check_range(rows, "rows"), granted)


def merge(
    out: PlaceLike,
    *,
    keep_shards: bool = False,
    resources: Resources | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
) -> Manifest:
    """Merge all shards into slices and seal the index; the third stage.

    Parameters as for ``train``. The vectors of a stream stay in ``OUT.spool`` for
    ``calibrate``, which removes them.
    """
    with _granted(
        resources, memory, threads, progress, EngineOptions(engine, workers, address)
    ) as granted:
        paths, keep = IndexPaths(place_of(out, "out")), flag(keep_shards, "keep_shards")
        return building.merge_shards(paths, keep_shards=keep, resources=granted)


@contextmanager
def _granted(
    given: Resources | None,
    memory: str | int | None,
    threads: int | None,
    progress: Progress | bool | None,
    engine: EngineOptions,
    device: str = CPU,
) -> Iterator[Resources]:
    """Yield the caller's Resources and leave them open, or make them from the other arguments."""
    if given is not None:
        yield instance(given, Resources, "resources")
        return
    with resources(memory, threads, progress, engine, device) as granted:
        yield granted


def _train_options(
    nlist: int | str | None,
    metric: str,
    transform: str | None,
    codec: str,
    sample: int | None,
    niter: int,
    seed: int,
    max_list_bytes: str | int | None,
) -> TrainOptions:
    if isinstance(nlist, str):
        if nlist != "auto":
            raise InvalidArgument(f"nlist is {nlist!r}; a whole number or 'auto' expected")
        nlist = None
    return TrainOptions(
        nlist,
        metric,
        transform,
        codec,
        sample,
        niter,
        seed,
        None if max_list_bytes is None else parse_bytes(max_list_bytes),
    )


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


def verify(path: PlaceLike, *, progress: Progress | bool | None = None) -> None:
    """Compare every byte of an index with its checksums.

    Raises
    ------
    CorruptFile, MissingFile, ForeignFile
        The first damage found; the message names the file.
    """
    damages = _verify(place_of(path, "the index"), as_progress(progress))
    if damages:
        raise damages[0]
