"""Adding rows to an index: encoded by its model, sealed as segments, committed as a version."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.engines.resources import Resources
from teravec.errors import (
    CorruptFile,
    InvalidArgument,
    InvalidSource,
    MemoryLimitTooSmall,
    MissingFile,
    OutputExists,
)
from teravec.evaluation.keeping import compare_rows
from teravec.filters.kinds import check_filterable
from teravec.index.calibration import read_kept
from teravec.index.kept_queries import KeptQueries, NeighboursEntry, QueriesEntry
from teravec.index.manifest import Manifest, list_versions, read_manifest, read_model_description
from teravec.index.pending import PendingPaths, begin_change, check_pending, list_pending
from teravec.index.versions import commit_version
from teravec.memory import require
from teravec.model.description import ModelDescription
from teravec.segments.delete_set import DeleteSet
from teravec.segments.direct import encode_directly
from teravec.segments.merge import MergeOptions, merge
from teravec.segments.segment import Segment
from teravec.segments.shard import shard
from teravec.sources import Data, DatabaseQuery, Source, open_data, same_vectors
from teravec.sources.column_spool import columns_spool
from teravec.sources.databases.spilling import NothingNew
from teravec.sources.databases.watermark import value_of
from teravec.sources.spool import SPOOL, discard_spool
from teravec.storage.column_types import (
    filterable_names,
    mark_filterable,
    name_type,
    schema_content,
)
from teravec.storage.files import make_directory, remove
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_file
from teravec.storage.places import work_directory, work_name
from teravec.storage.text_ids import TextDigests, digest_texts
from teravec.writing.collisions import CollisionCheck
from teravec.writing.deleting import write_deletes
from teravec.writing.joining import join_small_segments

__all__ = ["AddOptions", "add_rows"]

log = logging.getLogger(__name__)

Int64 = npt.NDArray[np.int64]

_TRIES = 10  # models that rows are encoded by, until one is still the newest at the commit
_ID_ROWS = 1 << 20  # ids read at a time
_SORT_BYTES = 24  # an id's memory while all are sorted


@dataclass(frozen=True)
class AddOptions:
    """How rows are added.

    Parameters
    ----------
    ids : array-like of shape (n,), integers, optional
        Ids of data in memory.
    id_column, vector_column, format : str, optional
        As for ``build``. An index with an id column takes the column of the same name.
    append : bool
        The caller vouches that the ids are new: nothing is replaced.
    columns : tuple of str
        The data's columns, in the order of the index's; those of the same names if empty.
    attributes : path-like or table, optional
        Has these columns, in the order of the rows.
    filterable : tuple of str
        Columns that get an inverted file, besides those that have one: for these rows now, for
        others when they are compacted.
    """

    ids: Any = None
    id_column: str | None = None
    vector_column: str | None = None
    format: str | None = None
    append: bool = False
    columns: tuple[str, ...] = ()
    attributes: Any = None
    filterable: tuple[str, ...] = ()


def add_rows(paths: IndexPaths, data: Data, options: AddOptions, resources: Resources) -> Manifest:
    """Add rows to the newest version of an index; rows whose id exists replace it.

    A killed addition of the same rows goes on where it was; one that was already committed is
    only cleaned up. Readers see either none or all of the rows.

    Returns
    -------
    Manifest
        The version that has the rows.

    Raises
    ------
    InvalidArgument
        The rows do not fit the index: their dimension, or no ids where the index has an id column.
    InvalidSource
        An id occurs twice among the rows.
    MemoryLimitTooSmall
    """
    manifest = read_manifest(paths)
    known = None
    if isinstance(data, DatabaseQuery):
        known = manifest.watermark(data.digest)
        data = data if known is None else data.read_since(value_of(known).value)
    with _spooling(paths, data) as spool_path:
        try:
            source = _open(data, spool_path, paths, manifest, options, resources)
        except NothingNew:
            return manifest
        if known is not None and _has_nothing_new(source, known):
            return manifest
        added = _add(source, paths, manifest, options, resources)
    join_small_segments(paths, added, resources)
    return added


def _has_nothing_new(source: Source, known: dict[str, Any]) -> bool:
    """Whether all rows of a query have the known largest value, and were there the last time."""
    found = [value_of(each) for each in source.watermarks.values()]
    return found == [value_of(known)] and found[0].ties == source.nrows


@contextmanager
def _spooling(paths: IndexPaths, data: Data) -> Iterator[Path]:
    """Yield where a stream may be spooled to; the spool goes with the body.

    That of a query stays after an error, so that the same addition goes on with its ranges.
    ``vacuum`` removes a spool that was left behind, which nobody holds.
    """
    lasting = isinstance(data, DatabaseQuery)
    name = data.rows_digest if lasting else secrets.token_hex(8)
    if paths.is_local:
        directory = paths.root / "adding"
        make_directory(directory)
    else:
        directory, name = work_directory(paths.store), f"{work_name(paths.store)}-{name}"
    path = directory / f"{name}{SPOOL}"
    with hold_file(path):
        try:
            yield path
        except BaseException:
            if not lasting:
                discard_spool(path)
                remove(columns_spool(path))
            raise
        discard_spool(path)
        remove(columns_spool(path))


def _add(
    source: Source, paths: IndexPaths, known: Manifest, options: AddOptions, resources: Resources
) -> Manifest:
    ids = _read_ids(source, resources) if source.has_ids else None
    collisions, column = None, known.text_ids
    if column is not None:
        collisions = CollisionCheck(paths, column, _digest(source, column, resources))
    described: dict[str, Any] = {"append": options.append, "source": source.describe()}

    def is_same(content: dict[str, Any]) -> bool:
        if content.get("append") != options.append:
            return False
        before, now = content["source"], described["source"]
        return same_vectors(before, now) and before.get("columns") == now.get("columns")

    beside = ThreadPoolExecutor(1, thread_name_prefix="teravec-ids")
    with begin_change(paths, described, is_same) as pending, beside:
        committed = _find_committed(pending, known)
        if committed is not None:
            return committed
        deleted: Future[DeleteSet] | None = None
        if ids is not None and not options.append:  # synced while rows are encoded
            deleted = beside.submit(write_deletes, pending, ids)
        comparison = _Comparison(pending, source, resources)
        for _ in range(_TRIES):
            newest = read_manifest(paths, known=known)
            # Files of one model are apart from those of another: a rebalance may come between.
            part = "" if newest.model_path == paths.model.name else newest.model
            here = replace(pending, model_path=newest.model_path, part=part)
            try:
                model = read_model_description(paths, newest)
                segments = _encode(source, model, here, resources)
                hidden = None if deleted is None else deleted.result()
                return _commit(
                    here, model, source, segments, hidden, ids, comparison, collisions, newest
                )
            except _OtherModel:
                log.info("%s was rebalanced meanwhile; the rows are encoded again", paths)
            except MissingFile:
                if read_manifest(paths).model == newest.model:
                    raise
    raise OutputExists(
        f"{paths} was rebalanced {_TRIES} times while the rows were encoded; add them again, at "
        "another time"
    )


class _OtherModel(Exception):
    """Rows were encoded by a model that is not the newest version's."""


def _open(
    data: Data,
    spool_path: Path,
    paths: IndexPaths,
    manifest: Manifest,
    options: AddOptions,
    resources: Resources,
) -> Source:
    column = options.id_column
    if options.ids is None and column is None:
        column = manifest.source.get("id_column")
    source = open_data(
        data,
        ids=options.ids,
        id_column=column,
        vector_column=options.vector_column,
        format=options.format,
        spool_path=spool_path,
        shared=not resources.engine.in_process,
        memory_bytes=resources.memory_bytes,
        progress=resources.progress,
        columns=_choose_columns(manifest, options),
        attributes=options.attributes,
    )
    _check_names(source, manifest, paths)
    if manifest.schema is not None:
        _check_columns(source, manifest, paths)
        check_filterable(options.filterable, manifest.schema)
        source = source.declare_columns(mark_filterable(manifest.schema, options.filterable))
    if source.d != manifest.d:
        raise InvalidArgument(
            f"vectors of {source.d} dimensions found; {paths} has {manifest.d} dimensions"
        )
    if not source.has_ids and manifest.source.get("id_column") is not None:
        raise InvalidArgument(
            f"rows without ids found; {paths} has ids, of column "
            f"{manifest.source['id_column']!r}: name an id column, or give ids"
        )
    return source


def _choose_columns(manifest: Manifest, options: AddOptions) -> tuple[str, ...]:
    known = () if manifest.schema is None else tuple(manifest.schema.names)
    if not known and (options.columns or options.filterable or options.attributes is not None):
        raise InvalidArgument("columns given; the index was built without columns")
    if options.columns and set(options.columns) != set(known):
        raise InvalidArgument(
            f"columns {', '.join(options.columns)} given; the index has {', '.join(known)}, and "
            "takes columns of the same names"
        )
    return known


def _check_names(source: Source, manifest: Manifest, paths: IndexPaths) -> None:
    """Check that the rows have the index's kind of ids, and its columns."""
    text = manifest.text_ids
    found = [] if source.attributes is None else source.attributes.schema.names
    expected = [] if manifest.schema is None else manifest.schema.names
    if text is not None and source.id_column != text:
        raise InvalidArgument(
            f"{paths} has ids that are texts, of column {text!r}: rows with this column expected"
        )
    if found != expected:
        raise InvalidArgument(
            f"ids that are texts found, of column {source.id_column!r}; {paths} has numbers as ids"
        )


def _check_columns(source: Source, manifest: Manifest, paths: IndexPaths) -> None:
    """Check that the columns have the index's types."""
    assert source.attributes is not None
    for ours, theirs in zip(manifest.schema, source.attributes.schema, strict=True):
        if ours.type != theirs.type:
            raise InvalidArgument(
                f"column {ours.name!r} of type {name_type(theirs.type)} found; in {paths} it is "
                f"{name_type(ours.type)}: convert it"
            )


def _read_ids(source: Source, resources: Resources) -> Int64:
    """Read the ids of all rows, ascending."""
    require(_SORT_BYTES * source.ntotal, resources.memory_bytes, f"sorting {source.ntotal:,} ids")
    ids = np.empty(source.ntotal, np.int64)
    for start in range(0, source.ntotal, _ID_ROWS):
        stop = min(start + _ID_ROWS, source.ntotal)
        ids[start:stop] = source.read_ids(start, stop)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    repeated = np.flatnonzero(ids[1:] == ids[:-1])
    if len(repeated):
        first = int(repeated[0])
        rows = source.place_of(int(order[first])), source.place_of(int(order[first + 1]))
        raise InvalidSource(
            f"id {int(ids[first])} occurs twice, at {rows[0]} and {rows[1]}; add each id once"
        )
    return ids


def _digest(source: Source, column: str, resources: Resources) -> TextDigests:
    """Digest the ids of all rows, which are texts."""
    require(
        2 * _SORT_BYTES * source.ntotal,
        resources.memory_bytes,
        f"comparing {source.ntotal:,} ids that are texts",
    )
    parts = [
        digest_texts(batch.column(batch.schema.get_field_index(column)))
        for batch in source.column_batches(0, source.ntotal)
    ]
    return TextDigests(*map(np.concatenate, zip(*parts, strict=True))).sorted()


def _unfinished(pending: PendingPaths, manifest: Manifest) -> list[str]:
    """List committed additions whose records are still there: they were killed meanwhile."""
    there = {change.token for change in list_pending(pending)}
    return [token for token in manifest.committed if token in there]


def _find_committed(pending: PendingPaths, known: Manifest) -> Manifest | None:
    """Find the version that has this addition's rows; the newest if that is gone."""
    prefix = f"segments/{pending.token}"
    newest = read_manifest(pending, known=known)
    if pending.token not in newest.committed and not pending.store.names(prefix):
        return None  # as usual: it was begun just now
    for number in reversed(list_versions(pending)):
        manifest = read_manifest(pending, number)
        if any(segment.file.startswith(prefix) for segment in manifest.segments):
            first = min(s.sequences[0] for s in manifest.segments if s.file.startswith(prefix))
            return read_manifest(pending, first)
    return newest if pending.token in newest.committed else None


def _encode(
    source: Source, model: ModelDescription, pending: PendingPaths, resources: Resources
) -> list[Segment]:
    options = MergeOptions(
        model.tag,
        model.code_size,
        model.sketch_size,
        model.nlist,
        source.ntotal,
        None,
        None if source.attributes is None else source.attributes.schema,
    )
    segments = encode_directly(source, model, pending, options, resources)
    if segments is None:
        shard(source, model, pending, None, None, resources)
        segments = merge(pending, options, resources)
    return segments


def _commit(
    pending: PendingPaths,
    model: ModelDescription,
    source: Source,
    segments: Sequence[Segment],
    deleted: DeleteSet | None,
    ids: Int64 | None,
    comparison: _Comparison,
    collisions: CollisionCheck | None,
    known: Manifest,
) -> Manifest:
    def change(newest: Manifest) -> Manifest | None:
        if any(pending.owns(segment.file) for segment in newest.segments):
            return None  # another process went on with the same addition, and was first
        check_pending(pending)
        if newest.model != model.checksum:
            raise _OtherModel
        if collisions is not None:
            collisions.check(newest)
        number, next_id = newest.number + 1, _next_id(newest)
        base = next_id if ids is None else 0
        voids_through = number if newest.voided else 0  # which the model knows already
        added = tuple(
            replace(segment, sequences=(number, number), id_base=base, voids_through=voids_through)
            for segment in segments
        )
        deletes = newest.deletes
        if deleted is not None:
            deletes = (*deletes, replace(deleted, sequence=number))
        after = next_id + source.nrows if ids is None else max(next_id, int(ids[-1]) + 1)
        columns = newest.columns
        if newest.schema is not None and source.attributes is not None:
            named = filterable_names(source.attributes.schema)
            columns = schema_content(mark_filterable(newest.schema, named))
        return replace(
            newest,
            segments=(*newest.segments, *added),
            columns=columns,
            ntotal=newest.ntotal + source.ntotal,
            deletes=deletes,
            next_id=after,
            added=newest.added + source.ntotal,
            watermarks={**newest.watermarks, **source.watermarks},
            known=comparison.known(newest, number, base),
            committed=(*_unfinished(pending, newest), pending.token),
            what=f"add {source.ntotal:,} rows",
        )

    comparison.known(known, 0, 0)  # so that the commit need not wait for it
    return commit_version(pending, change, known)


class _Comparison:
    """Compares the added rows with the index's known queries, once for each set of queries."""

    def __init__(self, pending: PendingPaths, source: Source, resources: Resources) -> None:
        self._pending, self._source, self._resources = pending, source, resources
        self._near: dict[QueriesEntry, NeighboursEntry | None] = {}

    def known(self, newest: Manifest, number: int, id_base: int) -> KeptQueries | None:
        """Return what the version with the rows knows of the queries of the one before it."""
        kept = read_kept(self._pending, newest)
        if kept is None:
            return None
        if kept.queries not in self._near:
            self._near[kept.queries] = self._compare(newest, kept)
        near = self._near[kept.queries]
        if near is None:
            return None
        added = replace(near, sequences=(number, number), id_base=id_base)
        return replace(kept, neighbours=(*kept.neighbours, added))

    def _compare(self, newest: Manifest, kept: KeptQueries) -> NeighboursEntry | None:
        try:
            return compare_rows(self._pending, newest, kept, self._source, self._resources)
        except MemoryLimitTooSmall as error:
            log.warning("%s; calibrating again will need data or a truth", error)
        except (MissingFile, CorruptFile) as error:
            log.warning("%s; the rows are added, and the known queries given up", error)
        return None


def _next_id(manifest: Manifest) -> int:
    """Return the id of the next row without one; a build numbers the rows of its files."""
    rows = sum(int(file["n"]) for file in manifest.source["files"])
    return max(manifest.next_id, rows)
