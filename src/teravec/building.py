"""Building an index: train, shard, merge and calibrate, each skipping work that is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from teravec.arguments import flag
from teravec.engines.resources import Resources
from teravec.errors import (
    CorruptFile,
    InvalidSource,
    MemoryLimitTooSmall,
    OutputExists,
    storage_errors,
)
from teravec.evaluation.calibrating import CalibrationOptions, calibrate_index
from teravec.index.calibration import Calibration, read_calibration
from teravec.index.manifest import Manifest, describe_repeated, read_manifest, write_manifest
from teravec.index.replacing import (
    check_only_index,
    check_replaceable,
    finish_replacing,
    put_in_place,
    successor,
)
from teravec.model.description import ModelDescription
from teravec.native.extensions import warn_if_missing
from teravec.search.effort import shortfall
from teravec.segments.merge import MergeOptions, merge
from teravec.segments.repeated import find_repeated
from teravec.segments.segment import Segment
from teravec.segments.shard import count_clipped, shard
from teravec.segments.shard_plan import RowRange
from teravec.sources import (
    Data,
    Source,
    Weights,
    are_paths,
    match_description,
    open_data,
    open_queries,
    open_source,
    read_bad,
    write_bad,
)
from teravec.sources.column_spool import columns_spool
from teravec.sources.spool import discard_spool, is_spooled
from teravec.storage.arrays import describe_file
from teravec.storage.column_types import schema_content
from teravec.storage.columnfile import ColumnFile
from teravec.storage.files import remove
from teravec.storage.layout import IndexPaths
from teravec.storage.local_store import local_path
from teravec.storage.output_lock import hold_index
from teravec.storage.places import PlaceLike, place_of
from teravec.training.given_centroids import GivenCentroids
from teravec.training.options import TrainOptions
from teravec.training.record import (
    BuildRecord,
    LayoutOptions,
    OtherBuild,
    begin_build,
    check_free,
    read_record,
)
from teravec.training.train import train

__all__ = [
    "build_index",
    "merge_shards",
    "open_centroids",
    "open_vectors",
    "open_weights",
    "remove_spool",
    "shard_rows",
    "train_model",
]

log = logging.getLogger(__name__)

_MANY_CLIPPED = 0.01  # share of all vectors above which a warning is due
_ID_ROWS = 1 << 20  # rows whose ids are read at a time
_LEAST_CALIBRATION_S = 30.0  # allowed even after a very quick build


def train_model(
    source: Source,
    paths: IndexPaths,
    options: TrainOptions,
    layout: LayoutOptions,
    resources: Resources,
    weights: Weights | None = None,
    centroids: GivenCentroids | None = None,
) -> ModelDescription:
    """Begin or continue a build, up to its sealed model."""
    warn_if_missing()
    with begin_build(paths, source, options, layout, weights, centroids) as record:
        _list_skipped(source, paths)
        return train(source, record, paths, resources, weights, centroids)


def open_vectors(
    data: Data,
    paths: IndexPaths,
    resources: Resources,
    *,
    ids: Any = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    columns: Sequence[str] | None = None,
    attributes: Any = None,
) -> Source:
    """Open a build's vectors in the order, and without the bad rows, that its record has.

    A build that began without bad rows continues without them; a new build leaves them out if
    ``skip_bad`` is set. Without ``columns``, those of the record are kept. Streams are spooled
    beside the index, and so are data in memory that other processes need.
    """
    check_free(paths)  # fail before reading a stream
    begun = _read_described(paths)
    if columns is None:
        columns = [each["name"] for each in begun.get("columns", {}).get("schema", ())]
    source = open_data(
        data,
        ids=ids,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
        skip_bad=skip_bad or "skipped" in begun,
        spool_path=paths.spool,
        shared=not resources.engine.in_process,
        memory_bytes=resources.memory_bytes,
        progress=resources.progress,
        columns=columns,
        attributes=attributes,
    )
    return match_description(source, begun, paths.skipped, resources.threads, resources.progress)


def _read_described(paths: IndexPaths) -> dict[str, Any]:
    """Read the recorded description of a build's source; empty if no build began."""
    return read_record(paths).source if paths.build.exists() else {}


def open_weights(weights: Any, source: Source) -> Weights | None:
    """Open a file or array of weights, one for each row of the source's files."""
    return None if weights is None else Weights(weights, source.nrows, source.skipped)


def open_centroids(
    centroids: Data | None, source: Source, vector_column: str | None = None
) -> GivenCentroids | None:
    """Open a file or array of centroids, in the space of the source's vectors."""
    if centroids is None:
        return None
    if (files := are_paths(centroids)) is not None:
        opened = open_queries(files, vector_column=vector_column)
    else:
        opened = open_data(centroids, name="centroids")
    return GivenCentroids(opened, source.d)


def _list_skipped(source: Source, paths: IndexPaths) -> None:
    """Seal the list of skipped rows, unless it exists."""
    skipped = source.skipped
    if skipped and skipped.rows and read_bad(paths.skipped, skipped.describe()) is None:
        write_bad(paths.skipped, source)


def shard_rows(
    source: Source, paths: IndexPaths, rows: RowRange | None, resources: Resources
) -> list[Path]:
    """Encode a range of rows, or every row that no shard covers; return the files written.

    In an object store, these are names in it.

    Other processes may encode other rows at the same time.
    """
    warn_if_missing()
    fits = rows is not None and 0 <= rows[0] < rows[1] <= source.ntotal
    with hold_index(paths, rows if fits else None):
        return _shard_rows(source, paths, rows, resources)


def _shard_rows(
    source: Source, paths: IndexPaths, rows: RowRange | None, resources: Resources
) -> list[Path]:
    record = read_record(paths)
    record.check_source(source, paths)
    if paths.manifest.exists():
        return []
    model = ModelDescription.read(paths.model)
    written = shard(source, model, paths, record.layout.shards, rows, resources)
    return [local_path(path) or Path(path.name) for path in written]


def merge_shards(paths: IndexPaths, *, keep_shards: bool, resources: Resources) -> Manifest:
    """Merge all shards into slices, seal the manifest, and only then remove the shards."""
    with hold_index(paths):
        return _merge_shards(paths, keep_shards=keep_shards, resources=resources)


def _merge_shards(
    paths: IndexPaths, *, keep_shards: bool, resources: Resources, source: Source | None = None
) -> Manifest:
    record = read_record(paths)
    if paths.manifest.exists():
        manifest = read_manifest(paths)
    else:
        model = ModelDescription.read(paths.model)
        options = MergeOptions(
            model.tag,
            model.code_size,
            model.sketch_size,
            model.nlist,
            record.ntotal,
            record.layout.slices,
            record.schema,
        )
        slices = merge(paths, options, resources)
        manifest = _make_manifest(
            record, model, slices, paths, _count_repeated(record, slices, paths, resources)
        )
        if manifest.repeated_ids is not None:
            rows = [] if source is None else _find_rows(source, manifest.repeated_ids["example"])
            if manifest.text_ids is not None:
                _refuse_repeated_texts(manifest, source, rows)
            log.warning("%s: %s", paths, describe_repeated(manifest.repeated_ids, rows))
        _warn_if_clipped(manifest)
        write_manifest(paths, manifest)
    if not keep_shards:
        paths.shards.remove_all()
    return manifest


def _refuse_repeated_texts(manifest: Manifest, source: Source | None, rows: list[int]) -> None:
    """Raise InvalidSource: of two rows with the number of one text, one could replace the other."""
    where = "" if source is None else ": " + ", ".join(map(source.place_of, rows))
    raise InvalidSource(
        f"ids of column {manifest.text_ids!r} occur more than once{where}; ids that are texts must "
        "each occur once"
    )


def _count_repeated(
    record: BuildRecord, slices: Sequence[Segment], paths: IndexPaths, resources: Resources
) -> dict[str, Any] | None:
    """Count the ids of an id column that occur more than once; row numbers never do."""
    if record.source.get("id_column") is None:
        return None
    files = [paths.file(entry.file) for entry in slices]
    found = find_repeated(
        files,
        record.ntotal,
        resources.engine.memory_bytes,
        resources.progress,
        resources.sizes.id_block,
    )
    return None if found is None else asdict(found)


def _find_rows(source: Source, id_: int) -> list[int]:
    """Find the first two rows that have this id."""
    rows: list[int] = []
    for start in range(0, source.ntotal, _ID_ROWS):
        ids = source.read_ids(start, min(start + _ID_ROWS, source.ntotal))
        rows += (start + np.flatnonzero(ids == id_)).tolist()
        if len(rows) > 1:
            break
    return rows[:2]


def _make_manifest(
    record: BuildRecord,
    model: ModelDescription,
    slices: Sequence[Segment],
    paths: IndexPaths,
    repeated_ids: dict[str, Any] | None,
) -> Manifest:
    files = [paths.build, *([paths.skipped] if "skipped" in record.source else [])]
    return Manifest(
        creator=f"teravec {version('teravec')}",
        d=model.d,
        ntotal=record.ntotal,
        nlist=model.nlist,
        code_size=model.sketch_size or model.code_size,
        metric=model.metric,
        transform=model.transform,
        codec=model.codec,
        model=model.checksum,
        files={path.name: describe_file(path) for path in files},
        segments=tuple(slices),
        source=record.source,
        clipped=count_clipped(paths),
        repeated_ids=repeated_ids,
        columns=None if record.schema is None else schema_content(record.schema),
    )


def _warn_if_clipped(manifest: Manifest) -> None:
    """Warn if the codec's range does not fit the vectors; every set has a few outliers."""
    if manifest.clipped > _MANY_CLIPPED * manifest.ntotal:
        log.warning(
            "%d of %d vectors lie outside of the range that %s was trained on, and are encoded as "
            "the nearest point inside: the sample does not represent the data; build again with a "
            "larger --sample, or with another codec (flat, fp16)",
            manifest.clipped,
            manifest.ntotal,
            manifest.codec,
        )


def build_index(
    data: Data,
    out: PlaceLike,
    *,
    options: TrainOptions,
    layout: LayoutOptions,
    keep_shards: bool,
    resources: Resources,
    ids: Any = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    calibrate: bool = True,
    weights: Any = None,
    centroids: Data | None = None,
    format: str | None = None,
    skip_bad: bool = False,
    columns: Sequence[str] = (),
    attributes: Any = None,
    overwrite: bool = False,
) -> Manifest:
    """Train, shard, merge and calibrate; a rerun does only the missing work.

    The searches of the calibration take at most about as long as the rest of the build, since
    some codecs are slow to search. With ``overwrite``, another index at ``out`` is replaced once
    the new one is complete.
    """
    warn_if_missing()
    paths = IndexPaths(place_of(out, "out"))
    keep_shards, calibrate = flag(keep_shards, "keep_shards"), flag(calibrate, "calibrate")
    overwrite, skip_bad = flag(overwrite, "overwrite"), flag(skip_bad, "skip_bad")
    given = data

    def build(paths: IndexPaths) -> Manifest:
        nonlocal given
        started = time.monotonic()
        source = open_vectors(
            given,
            paths,
            resources,
            ids=ids,
            id_column=id_column,
            vector_column=vector_column,
            format=format,
            skip_bad=skip_bad,
            columns=columns,
            attributes=attributes,
        )
        if are_paths(given) is None:
            given = source  # a stream can be read once only
        return _build(
            source,
            paths,
            options,
            layout,
            resources,
            keep_shards,
            calibrate,
            open_weights(weights, source),
            open_centroids(centroids, source, vector_column),
            started,
        )

    if overwrite:
        check_replaceable(paths)
        finish_replacing(paths)
    try:
        return build(paths)
    except OtherBuild:
        if not overwrite:
            raise
    check_only_index(paths)
    try:
        manifest = build(successor(paths))
    except OtherBuild as error:
        raise OutputExists(
            f"{error.found}: it was begun to replace {paths}; remove it to start again"
        ) from error
    put_in_place(paths)
    remove_spool(paths, manifest)
    return manifest


def _build(
    source: Source,
    paths: IndexPaths,
    options: TrainOptions,
    layout: LayoutOptions,
    resources: Resources,
    keep_shards: bool,
    calibrate: bool,
    weights: Weights | None,
    centroids: GivenCentroids | None,
    started: float,
) -> Manifest:
    with begin_build(paths, source, options, layout, weights, centroids) as record:
        _list_skipped(source, paths)
        if not paths.manifest.exists():
            with _removing_bad_spool(source, paths):
                train(source, record, paths, resources, weights, centroids)
                _shard_rows(source, paths, None, resources)
        manifest = _merge_shards(paths, keep_shards=keep_shards, resources=resources, source=source)
        calibration = None
        if calibrate and not manifest.number:  # the source of a changed index is not all of it
            calibration = _read_own_calibration(paths, manifest)
            if calibration is None:
                seconds = max(
                    _count_build_s(paths), time.monotonic() - started, _LEAST_CALIBRATION_S
                )
                calibration = _calibrate(source, paths, resources, seconds)
            if calibration is not None and (why := shortfall(calibration, manifest.nlist)):
                log.warning("%s: %s", paths, why)
        if not calibrate or source.ntotal < 2 or calibration is not None:
            remove_spool(paths, manifest)
    return manifest


def _count_build_s(paths: IndexPaths) -> float:
    """Count the seconds from the beginning of a build to its manifest, over all its runs.

    0 where files have no times that can be compared.
    """
    if not paths.is_local:
        return 0.0
    with storage_errors(paths.root, "read"):
        began, ended = ((paths.root / f.name).stat() for f in (paths.build, paths.manifest))
    return ended.st_mtime - began.st_mtime


@contextmanager
def _removing_bad_spool(source: Source, paths: IndexPaths) -> Iterator[None]:
    """Remove the spool if its vectors turn out to be bad: they can never be indexed."""
    try:
        yield
    except InvalidSource:
        if is_spooled(source.files[0].file, paths.spool):
            discard_spool(paths.spool)
        raise


def remove_spool(paths: IndexPaths, manifest: Manifest) -> None:
    """Remove the spool of a finished index, if it holds this index's vectors."""
    with suppress(CorruptFile, InvalidSource):  # leave a file of this name that is not our spool
        if paths.spool.exists() and _open_spooled(paths, manifest).is_described_by(manifest.source):
            discard_spool(paths.spool)
        columns = columns_spool(paths.spool)
        if manifest.schema is not None and not paths.spool.exists() and columns.exists():
            with ColumnFile(columns) as file:
                is_ours = set(manifest.schema.names) <= set(file.schema.names)
            if is_ours:
                remove(columns)


def _open_spooled(paths: IndexPaths, manifest: Manifest) -> Source:
    """Open the spool without the bad rows that the build left out."""
    described = manifest.source.get("skipped")
    source = open_source(paths.spool, skip_bad=described is not None)
    known = None if described is None else read_bad(paths.skipped, described)
    return source if known is None else source.drop_rows(known)


def _read_own_calibration(paths: IndexPaths, manifest: Manifest) -> Calibration | None:
    try:
        return read_calibration(paths, manifest)
    except CorruptFile as error:
        log.warning("%s; calibrating again", error)
        return None


def _calibrate(
    source: Source, paths: IndexPaths, resources: Resources, seconds: float
) -> Calibration | None:
    """Calibrate, if memory suffices and the source has two vectors to compare."""
    if source.ntotal < 2:
        return None
    try:
        return calibrate_index(paths, source, CalibrationOptions(seconds=seconds), resources)
    except MemoryLimitTooSmall as error:
        log.warning("%s; the index is complete, but not calibrated", error)
        return None
