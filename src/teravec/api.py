"""The functions of the package: each checks its arguments and hands typed options on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy.typing as npt

from teravec import building
from teravec.arguments import check_range, flag, instance, path_of, whole_numbers
from teravec.bulk.given import Truth, as_neighbors, read_whole
from teravec.bulk.results import check_place
from teravec.engines.opening import open_engine
from teravec.engines.options import CPU, EngineOptions
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.evaluation.calibrating import CalibrationOptions, calibrate_index, calibrate_with_truth
from teravec.index.calibration import Calibration
from teravec.index.manifest import Manifest, read_manifest
from teravec.index.verify import verify as _verify
from teravec.interchange.export import export_faiss as _export_faiss
from teravec.kernels.device import open_torch, parse_device
from teravec.memory import granted_memory, parse_bytes
from teravec.model.description import ModelDescription
from teravec.processors import check_threads
from teravec.progress import Progress, as_progress
from teravec.search.index import open_index as open
from teravec.serving.wire.client import connect
from teravec.sources import Data, PathLike
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_directory
from teravec.training.options import TrainOptions
from teravec.training.record import LayoutOptions

__all__ = [
    "build",
    "calibrate",
    "connect",
    "export_faiss",
    "merge",
    "open",
    "resources",
    "shard",
    "train",
    "verify",
]


def resources(
    memory: str | int | None, threads: int | None, progress: Progress | bool | None,
    engine: EngineOptions | None = None, device: str = CPU,
) -> Resources:  # fmt: skip
    """Memory, threads, progress, engine and device as users write them, checked.

    Use it as a context where there is an engine: its workers go when the body ends. On a
    cluster, each worker has a GPU of its own where the device is one.
    """
    memory_bytes = granted_memory(memory)
    check_threads(threads)
    chosen = engine or EngineOptions()
    if parse_device(device) != CPU:
        if chosen.name == "local":
            open_torch(device)  # before anything is begun; a worker's is its own to find
        elif device.startswith("cuda"):
            chosen = replace(chosen, gpus=max(1, chosen.gpus))
    opened = open_engine(chosen, threads, memory_bytes)
    # What this process does alone, it does while the workers beside it wait: on their threads.
    here = chosen.workers or 1 if chosen.address is None else 1
    return Resources(memory_bytes, (threads or 0) * here, progress, opened, device)


def build(
    data: Data,
    out: PathLike,
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
    weights: PathLike | npt.ArrayLike | None = None,
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
        members of a folder in natural order of name. ``PATH:FORMAT`` says what one of them is.

        Or vectors in memory, which are not copied: an array of shape (n, d) of NumPy, PyTorch
        or any library whose arrays NumPy reads; lists of lists; a table or data frame of
        pyarrow, pandas or polars; a list of such, rows one after another.

        Or a stream: what exports an Arrow stream (a RecordBatchReader, a DuckDB relation), or
        an iterator of batches, each as above, or ``(ids, vectors)``, or one vector. It is
        written to the file ``OUT.spool`` first, one batch at a time. A build that was killed
        goes on from there, once the same stream is given again (only its first batch is
        looked at), or ``OUT.spool`` as data. The file is removed when the index is whole and
        calibrated.
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
        Of every random choice; the same seed gives the same bytes.
    max_list_bytes : str or int, optional
        Split lists whose codes and ids would take more, as "64MiB": there are then more than
        nlist. Not given: no limit.
    shards, slices : int, optional
        Files to cut the work and the index into. Not given: by memory, and 1 GiB a slice.
    keep_shards : bool
        Keep the shards after the merge.
    calibrate : bool
        Measure recall against effort on 1,000 vectors of the source, so that searches may ask
        for a recall; see the function of that name. Its searches take no longer than the rest of
        the build, or 30 s.
    memory : str or int, optional
        Limit in bytes or as "4GiB", beside about 300 MiB for the interpreter and its
        libraries. Not given: 4 GiB, or half of the memory that the machine or its container has
        to give.
    threads : int, optional
        Not given: the processors that this process may use, by affinity and container.
    ids : array-like of shape (n,), optional
        Ids of vectors in memory: whole numbers, 0 or more, each once.
    id_column, vector_column : str, optional
        Of Parquet and Arrow files, tables and data frames; a field of a struct as
        ``column.field``. Ids are row numbers where neither ``ids`` nor a column gives them.
    format : str, optional
        What all files are, whatever their names say: an extension without its dot.
    skip_bad : bool
        Leave out rows that are null, hold nulls, are of another length, or hold NaN or
        infinity: one more pass over the data. They are listed in ``skipped.json``; the others
        keep their ids.
    weights : path-like or array-like, optional
        An array of shape (ntotal,), or a .npy file of one: how much each vector counts in
        k-means, 0 or more.
    overwrite : bool
        Replace another index that is at ``out``, when the new one is whole: it is built beside
        it, as ``OUT.new``. Not where ``out`` holds anything else. The same build goes on.
    progress : Progress or bool, optional
        True: a bar for each stage, in a terminal or a notebook. `teravec.Bars` is the class
        that draws them; its ``stages`` say afterwards what each took.
    engine : {"local", "ray"}
        Where tasks run: in this process, or on a Ray cluster (``pip install 'teravec[ray]'``).
        The index is the same.
    workers : int, optional
        Worker processes of Ray. Memory is then the limit of all of one machine's workers, and
        threads those of each. Not given: one worker on each machine.
    address : str, optional
        Of a Ray cluster, whose machines see ``data`` and ``out`` under the same paths. Not
        given: a Ray on this machine, for this build.
    device : str
        What finds vectors' lists in training and sharding: ``cpu``; ``cuda`` or ``cuda:N``, a
        GPU through PyTorch (``pip install 'teravec[gpu]'``). Of Ray, each worker takes a GPU.

    Returns
    -------
    Manifest

    Raises
    ------
    InvalidArgument
        An option or input does not fit; nothing was written.
    OutputExists
        ``out`` holds something else, or another process is writing there now.
    StorageError
        No space or no permission; rerun to continue.
    WorkerLost
        A task's workers died again and again; rerun to continue.
    """
    options = EngineOptions(engine, workers, address)
    with resources(memory, threads, progress, options, device) as granted:
        return building.build_index(
            data, out,
            options=_train_options(
                nlist, metric, transform, codec, sample, niter, seed, max_list_bytes
            ),
            layout=LayoutOptions(shards, slices), keep_shards=keep_shards, calibrate=calibrate,
            resources=granted, ids=ids,
            id_column=id_column, vector_column=vector_column, weights=weights, format=format,
            skip_bad=skip_bad, overwrite=overwrite,
        )  # fmt: skip


def train(
    data: Data,
    out: PathLike,
    *,
    options: TrainOptions | None = None,
    layout: LayoutOptions | None = None,
    resources: Resources | None = None,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    weights: PathLike | npt.ArrayLike | None = None,
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

    A rerun goes on where a killed run stood.

    Parameters
    ----------
    options, layout, resources : optional
        The parameters that follow, put together already; those of a group that is given are
        ignored.
    data, out, ids, id_column, vector_column, weights, ...
        As for ``build``. A stream is spooled to ``OUT.spool``, which the later stages read.

    Returns
    -------
    ModelDescription
    """
    trained = _train_options(nlist, metric, transform, codec, sample, niter, seed, max_list_bytes)
    if options is not None:
        trained = instance(options, TrainOptions, "options")
    laid_out = LayoutOptions(shards, slices)
    if layout is not None:
        laid_out = instance(layout, LayoutOptions, "layout")
    with _granted(
        resources, memory, threads, progress, EngineOptions(engine, workers, address), device
    ) as granted:
        paths = IndexPaths(path_of(out, "out"))
        source = building.open_vectors(
            data, paths, granted, ids=ids, id_column=id_column, vector_column=vector_column,
            format=format, skip_bad=flag(skip_bad, "skip_bad"),
        )  # fmt: skip
        return building.train_model(
            source, paths, trained, laid_out, granted, building.open_weights(weights, source)
        )


def shard(
    data: Data,
    out: PathLike,
    *,
    rows: tuple[int, int] | None = None,
    resources: Resources | None = None,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    device: str = CPU,
) -> list[Path]:
    """Encode rows [start, stop), or all that no shard covers yet; the second stage.

    Ranges may be encoded in any order and by several processes at once; one whose rows another
    process encodes now raises OutputExists. Parameters as for ``train``. Returns the shard files
    written. Rows that ``train`` skipped are skipped here too, and are not counted.
    """
    with _granted(
        resources, memory, threads, progress, EngineOptions(engine, workers, address), device
    ) as granted:
        paths = IndexPaths(path_of(out, "out"))
        source = building.open_vectors(
            data, paths, granted, ids=ids, id_column=id_column, vector_column=vector_column,
            format=format,
        )  # fmt: skip
        return building.shard_rows(source, paths, check_range(rows, "rows"), granted)


def merge(
    out: PathLike, *, keep_shards: bool = False, resources: Resources | None = None,
    memory: str | int | None = None, threads: int | None = None,
    progress: Progress | bool | None = None, engine: str = "local", workers: int | None = None,
    address: str | None = None,
) -> Manifest:  # fmt: skip
    """Merge all shards into slices and seal the index; the third stage.

    Parameters as for ``train``. The vectors of a stream stay in ``OUT.spool`` for
    ``calibrate``, which removes them.
    """
    with _granted(
        resources, memory, threads, progress, EngineOptions(engine, workers, address)
    ) as granted:
        paths, keep = IndexPaths(path_of(out, "out")), flag(keep_shards, "keep_shards")
        return building.merge_shards(paths, keep_shards=keep, resources=granted)


@contextmanager
def _granted(
    given: Resources | None, memory: str | int | None, threads: int | None,
    progress: Progress | bool | None, engine: EngineOptions, device: str = CPU,
) -> Iterator[Resources]:  # fmt: skip
    """What the caller grants, whose workers are the caller's to end; or what the others say."""
    if given is not None:
        yield instance(given, Resources, "resources")
        return
    with resources(memory, threads, progress, engine, device) as granted:
        yield granted


def _train_options(
    nlist: int | str | None, metric: str, transform: str | None, codec: str, sample: int | None,
    niter: int, seed: int, max_list_bytes: str | int | None,
) -> TrainOptions:  # fmt: skip
    if isinstance(nlist, str):
        if nlist != "auto":
            raise InvalidArgument(f"nlist is {nlist!r}; a whole number or 'auto' expected")
        nlist = None
    return TrainOptions(
        nlist, metric, transform, codec, sample, niter, seed,
        None if max_list_bytes is None else parse_bytes(max_list_bytes),
    )  # fmt: skip


def calibrate(
    path: PathLike,
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

    Replaces the calibration there is. An index opened before keeps what it has read.

    Parameters
    ----------
    path : path-like
        Index directory.
    queries : optional
        Queries like those to come, as ``build`` takes data. Not given: vectors drawn from
        ``data``, preferably such that the model was not trained on, each left out of its own
        neighbours.
    data : optional
        The vectors that the index was built from, as ``build`` takes them, for their exact
        neighbours. An index of vectors in memory knows them by their numbers: an array, a
        stream or a file of the same ones will do.
    truth : path-like, (distances, ids) or ids, optional
        Instead of data: the exact neighbours of ``queries``; a file, or the arrays that
        ``groundtruth`` returns.
    nqueries : int
        Vectors to draw, where no queries are given.
    ks : sequence of int
        Numbers of neighbours to measure the recall of; searches of other k use the next one.
    codes : int, optional
        Go on until a query scans so many codes. Not given: a 32nd of all, 30,000 at least; three
        times as many where 0.95 cannot be promised then.
    seconds : float, optional
        End the searches before this is over, with what was measured by then. Not given: go on.
        What it measures in time does not depend on the machine; how far it comes does.
    truth_format : str, optional
        Of the truth file, as "ibin", where its name and content do not tell.
    memory, threads, ids, id_column, vector_column, format, progress
        As for ``build``. The queries' files have the same vector column, if they have columns.
    query_column : str, optional
        Column of the queries' vectors, where it is another.

    Raises
    ------
    InvalidArgument
        Neither or both of data and truth; or they do not fit the index. The calibration there
        is stays.
    MemoryLimitTooSmall
    OutputExists
        Another process is writing into the index now.
    StorageError
        No permission to write into the index.
    """
    paths = IndexPaths(path_of(path, "the index"))
    options = CalibrationOptions(nqueries, whole_numbers(ks, "ks", 1), codes, seconds)
    limits = resources(memory, threads, progress)
    given = None
    if queries is not None:
        given = read_whole(
            queries, limits, "queries", query_column=query_column, vector_column=vector_column,
            format=format,
        )  # fmt: skip
    if paths.root.is_dir():
        check_place(paths.calibration)  # before hours of work
    if (data is None) == (truth is None) or (truth is not None and given is None):
        raise InvalidArgument(
            "exact neighbours are needed: give the data that the index was built from, or "
            "queries with a truth file"
        )
    with hold_directory(paths.root):
        if truth is not None and given is not None:
            neighbors = as_neighbors(truth, truth_format)
            return calibrate_with_truth(paths, given, neighbors, options, limits)
        source = building.open_vectors(
            data, paths, limits, ids=ids, id_column=id_column, vector_column=vector_column,
            format=format,
        )  # fmt: skip
        calibration = calibrate_index(paths, source, options, limits, given)
        building.remove_spool(paths, read_manifest(paths))
    return calibration


def verify(path: PathLike, *, progress: Progress | bool | None = None) -> None:
    """Compare every byte of an index with its checksums.

    Raises
    ------
    CorruptFile, MissingFile, ForeignFile
        The first damage found; names the file.
    """
    damages = _verify(path_of(path, "the index"), as_progress(progress))
    if damages:
        raise damages[0]


def export_faiss(path: PathLike, out: PathLike, *, progress: Progress | bool | None = None) -> None:
    """Write an index file that ``faiss.read_index`` opens, with the same ids and results."""
    _export_faiss(path_of(path, "the index"), path_of(out, "out"), as_progress(progress))
