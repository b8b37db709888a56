"""The package's functions that change a finished index, and those of its versions and copies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.arguments import flag, whole_number
from teravec.engines.options import EngineOptions
from teravec.errors import InvalidArgument
from teravec.granting import resources
from teravec.index.manifest import Manifest, read_manifest
from teravec.memory import parse_bytes
from teravec.native.extensions import warn_if_missing
from teravec.progress import Progress, as_progress
from teravec.sources import Data, as_query, parse_columns
from teravec.storage.layout import IndexPaths
from teravec.storage.places import PlaceLike, place_of
from teravec.storage.text_ids import as_texts, digest_texts
from teravec.writing.adding import AddOptions, add_rows
from teravec.writing.collisions import CollisionCheck
from teravec.writing.compacting import compact_index
from teravec.writing.copying import Copied, copy_index
from teravec.writing.deleting import delete_rows
from teravec.writing.erasing import erase_queries
from teravec.writing.history import Vacuumed, list_history, roll_back
from teravec.writing.history import vacuum as _vacuum
from teravec.writing.maintaining import Maintained, maintain_index
from teravec.writing.rebalancing import rebalance_index

__all__ = [
    "add",
    "compact",
    "copy",
    "delete",
    "maintain",
    "parse_age",
    "rebalance",
    "rollback",
    "vacuum",
    "versions",
]

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add(
    path: PlaceLike,
    data: Data,
    *,
    ids: npt.ArrayLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    query: str | None = None,
    partition_by: str | None = None,
    readers: int | None = None,
    bytes_type: str | None = None,
    since_column: str | None = None,
    keep_partitions: bool = False,
    append: bool = False,
    columns: Sequence[str] | str | None = None,
    filterable: Sequence[str] | str | None = None,
    attributes: Any = None,
    memory: str | int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    progress: Progress | bool | None = None,
) -> Manifest:
    """Add rows to an index. A row whose id the index has already replaces that row.

    Rows are encoded by the index's model into segments of their own, and become visible together.
    Indexes that are open stay on their version. After a kill, the same call goes on.

    Parameters
    ----------
    path : path-like
        Index directory.
    data
        Vectors in any form that ``build`` takes, of the index's dimension.
    ids : array-like of shape (n,), integers, optional
        Ids of data in memory. Without ids of any kind, rows are numbered after the index's last
        row; an index that was built with an id column needs ids.
    id_column : str, optional
        Column with the ids. Not given: the column that the index was built with.
    query, partition_by, readers, bytes_type, keep_partitions
        As for ``build``, if the data are the address of a database.
    since_column : str, optional
        Column of the query that grows when a row changes, as ``updated_at``. Only rows from the
        largest value on are read that the index has of the same query; without one, all. If none
        of them is new, the index stays as it is.
    append : bool
        Vouch that the ids are new: nothing is looked for to be replaced.
    columns : sequence of str or str, optional
        Not given: an index with columns takes those of the same names.
    filterable : sequence of str or str, optional
        Columns that get an inverted file too, as for ``build``: for these rows now, for those that
        are there when they are compacted. Not given: those that the index has.
    attributes : path-like or table, optional
        As for ``build``: a table beside the vectors with these columns.
    vector_column, format, memory, threads, device, engine, workers, address, progress
        As for ``build``.

    Returns
    -------
    Manifest
        The version that has the rows; ``number`` is its number.

    Raises
    ------
    InvalidArgument
        Dimensions that differ, or no ids where the index has an id column.
    InvalidSource
        The data cannot be read, or an id occurs twice.
    OutputExists
        Another process is adding the same rows now.
    """
    warn_if_missing()
    given = as_query(
        data,
        query=query,
        partition_by=partition_by,
        readers=readers,
        bytes_type=bytes_type,
        since_column=since_column,
        keep_partitions=keep_partitions,
    )
    options = AddOptions(
        ids,
        id_column,
        vector_column,
        format,
        flag(append, "append"),
        parse_columns(columns),
        attributes,
        parse_columns(filterable),
    )
    chosen = EngineOptions(engine, workers, address)
    with resources(memory, threads, progress, chosen, device) as granted:
        return add_rows(IndexPaths(place_of(path, "the index")), given, options, granted)


def delete(path: PlaceLike, ids: Any) -> Manifest:
    """Delete rows by id: no search of the new version finds them.

    Ids that no row has are no error. A row that is added later with such an id is visible.

    Parameters
    ----------
    path : path-like
        Index directory.
    ids : array-like of shape (n,), integers
        Or texts, or UUIDs, if the index has such ids.

    Returns
    -------
    Manifest
        The version without the rows.

    Raises
    ------
    InvalidArgument
        Ids of another kind than the index's.
    """
    paths = IndexPaths(place_of(path, "the index"))
    manifest = read_manifest(paths)
    column = manifest.text_ids
    if column is None:
        return delete_rows(paths, _as_ids(ids))
    texts = as_texts(ids, manifest.schema.field(column).type)
    if not len(texts):
        raise InvalidArgument("no ids to delete found; at least one expected")
    digests = digest_texts(texts).sorted()
    return delete_rows(paths, digests.ids, CollisionCheck(paths, column, digests))


def _as_ids(ids: Any) -> npt.NDArray[np.int64]:
    found = np.asarray(ids)
    if found.size == 0:
        raise InvalidArgument("no ids to delete found; at least one expected")
    if found.ndim > 1 or found.dtype.kind not in "iu":
        raise InvalidArgument(
            f"ids of type {found.dtype} and shape {found.shape} found, integers (n,) expected"
        )
    if found.dtype == np.uint64 and found.max() > np.iinfo(np.int64).max:
        raise InvalidArgument(f"id {found.max()} found, at most {np.iinfo(np.int64).max} expected")
    return np.atleast_1d(found).astype(np.int64)


def compact(
    path: PlaceLike,
    *,
    full: bool = False,
    purge: bool = False,
    memory: str | int | None = None,
    threads: int | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    progress: Progress | bool | None = None,
) -> Manifest | None:
    """Join segments, so that queries read few runs, and leave out deleted rows.

    The newest segments are joined until the next older one is eight times as large. Additions and
    deletions may go on meanwhile. A killed compaction goes on with the same call.

    Parameters
    ----------
    path : path-like
        Index directory.
    full : bool
        Join all segments.
    purge : bool
        Join all segments, and remove all older versions: no deleted row stays on the disk. Readers
        of older versions lose their files.
    memory, threads, engine, workers, address, progress
        As for ``build``.

    Returns
    -------
    Manifest or None
        The version with the result; None if nothing was worth joining.

    Raises
    ------
    OutputExists
        Another process compacts the same segments.
    """
    full, purge = flag(full, "full"), flag(purge, "purge")
    paths = IndexPaths(place_of(path, "the index"))
    chosen = EngineOptions(engine, workers, address)
    with resources(memory, threads, progress, chosen) as granted:
        manifest = compact_index(paths, granted, full=full or purge)
    if purge:
        manifest = erase_queries(paths) or manifest
        _vacuum(paths, timedelta(0))
    return manifest


def rebalance(
    path: PlaceLike,
    *,
    max_list_bytes: str | int | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    progress: Progress | bool | None = None,
) -> Manifest | None:
    """Split lists that have grown too large, and join those that have become small.

    A list is split above four times the vectors that it should have, and joined to its neighbours
    below a quarter. Only rows of these lists and of the lists near them move; they are decoded
    from their finest code and encoded again. Additions and deletions may go on meanwhile. A killed
    rebalance goes on with the same call.

    Parameters
    ----------
    path : path-like
        Index directory.
    max_list_bytes : str or int, optional
        Split also lists that take more, as "64MiB". Not given: what the index was built with.
    memory, threads, engine, workers, address, progress
        As for ``build``.

    Returns
    -------
    Manifest or None
        The version with the result; None if no list is out of balance.

    Raises
    ------
    OutputExists
        Another process rebalances, compacted, or rolled back meanwhile.
    """
    most = None if max_list_bytes is None else parse_bytes(max_list_bytes, "max_list_bytes")
    paths = IndexPaths(place_of(path, "the index"))
    chosen = EngineOptions(engine, workers, address)
    with resources(memory, threads, progress, chosen) as granted:
        return rebalance_index(paths, granted, max_list_bytes=most)


def maintain(
    path: PlaceLike,
    *,
    budget: str | timedelta | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    progress: Progress | bool | None = None,
) -> Maintained:
    """Rebalance, compact and calibrate, each if what reading costs makes it worth it.

    Meant to be called regularly: nothing to do takes milliseconds. What others do meanwhile to the
    same files is no error; the result says what is left.

    Parameters
    ----------
    path : path-like
        Index directory.
    budget : str or timedelta, optional
        Time after which work stops, as "10min"; the next call goes on from there. Not given: as
        long as it takes.
    memory, threads, engine, workers, address, progress
        As for ``build``.

    Returns
    -------
    Maintained
        What was decided, why, and what came of it.
    """
    time = budget if budget is None or isinstance(budget, timedelta) else parse_age(budget)
    paths = IndexPaths(place_of(path, "the index"))
    chosen = EngineOptions(engine, workers, address)
    with resources(memory, threads, progress, chosen) as granted:
        return maintain_index(paths, granted, budget=time)


def versions(path: PlaceLike) -> list[Manifest]:
    """List the versions of an index, the oldest first.

    Each has its ``number``, when it was ``created``, ``what`` it changed, and its ``ntotal`` rows.
    """
    return list_history(IndexPaths(place_of(path, "the index")))


def rollback(path: PlaceLike, number: int) -> Manifest:
    """Make an older version the newest again; nothing is removed, so this can be undone.

    Raises
    ------
    MissingFile
        There is no such version.
    """
    number = whole_number(number, "number", 0)
    return roll_back(IndexPaths(place_of(path, "the index")), number)


def vacuum(
    path: PlaceLike, *, older_than: str | timedelta = "7d", grace: str | timedelta = "1d"
) -> Vacuumed:
    """Remove versions that were replaced longer ago than this, and files that no other needs.

    Parameters
    ----------
    path : path-like
        Index directory.
    older_than : str or timedelta
        As "7d", "12h", "30min". Readers that opened a version longer ago lose its files.
    grace : str or timedelta
        In an object store, which has no locks: changes that began within this time count as being
        made, and their files and unfinished uploads stay. Elsewhere locks tell.
    """
    age, spared = (
        each if isinstance(each, timedelta) else parse_age(each) for each in (older_than, grace)
    )
    return _vacuum(IndexPaths(place_of(path, "the index")), age, spared)


def copy(
    source: PlaceLike,
    target: PlaceLike,
    *,
    version: int | None = None,
    progress: Progress | bool | None = None,
) -> Copied:
    """Copy a version of an index to another place: a directory or an object store.

    A killed copy goes on with the same call. A newer version copied to the same place costs only
    what is new in it. Every file is verified before it gets its name; the version is written last.

    Parameters
    ----------
    source : path-like or Store
        Index directory, a URL, or what ``teravec.store`` returned.
    target : path-like or Store
        New, empty, or holding other versions of the same index.
    version : int, optional
        Not given: the newest.

    Raises
    ------
    OutputExists
        The target holds something else.
    CorruptFile
        A file of the source is damaged.
    """
    number = None if version is None else whole_number(version, "version", 0)
    paths = IndexPaths(place_of(source, "source")), IndexPaths(place_of(target, "target"))
    return copy_index(*paths, number, as_progress(progress))


def parse_age(text: str) -> timedelta:
    """Parse a time such as "7d", "12h", "30min" or "45s".

    Raises
    ------
    InvalidArgument
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", str(text).lower())
    if match is None or match.group(2) not in _UNITS:
        units = ", ".join(_UNITS)
        raise InvalidArgument(f"time {text!r} found; a number with a unit ({units}) expected")
    return timedelta(seconds=float(match.group(1)) * _UNITS[match.group(2)])
