"""The package's function that builds an index, and those that open what is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from teravec import building
from teravec.choosing import options_for_recall
from teravec.engines.options import CPU, EngineOptions
from teravec.errors import InvalidArgument
from teravec.granting import resources
from teravec.index.manifest import Manifest
from teravec.progress import Progress
from teravec.search.index import open_index as open
from teravec.serving.wire.client import connect
from teravec.sources import Data, PathLike, as_query, parse_columns
from teravec.sources import remote_files as files
from teravec.staging import training_options
from teravec.storage.places import PlaceLike
from teravec.storage.places import open_store as store
from teravec.training.record import LayoutOptions

__all__ = ["build", "connect", "files", "open", "store"]


def build(
    data: Data,
    out: PlaceLike,
    *,
    nlist: int | str | None = "auto",
    metric: str = "l2",
    transform: str | None = None,
    codec: str = "sq8",
    sample: int | None = None,
    niter: int = 10,
    seed: int = 1234,
    max_list_bytes: str | int | None = None,
    for_recall: float | None = None,
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
    nlist : int or "auto"
        Inverted lists. "auto": the power of two nearest 4 sqrt(ntotal), at most
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
    for_recall : float, optional
        Choose codec, transform and nlist (unless it is given) for searches that ask for this
        recall: those that ``teravec.advise`` marks, which is called first. ``codec`` and
        ``transform`` then stay as they are by default.
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
    train = training_options(nlist, metric, transform, codec, sample, niter, seed, max_list_bytes)
    if for_recall is not None:
        if (codec, transform) != ("sq8", None):
            raise InvalidArgument("for_recall chooses codec and transform: leave these out")
        train = options_for_recall(
            for_recall,
            given,
            out,
            train,
            threads=threads,
            vector_column=vector_column,
            format=format,
            skip_bad=skip_bad,
            progress=progress,
        )
    with resources(memory, threads, progress, options, device) as granted:
        return building.build_index(
            given,
            out,
            options=train,
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
