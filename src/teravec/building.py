"""Building an index: train, shard, merge, each of which does only what is missing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from teravec.engines.resources import Resources
from teravec.errors import CorruptFile, InvalidSource, MemoryLimitTooSmall, storage_errors
from teravec.index.calibration import read_calibration
from teravec.index.manifest import Manifest, read_manifest, write_manifest
from teravec.kernels.native import warn_if_missing
from teravec.search.calibrating import CalibrationOptions, calibrate_index
from teravec.shards.plan import RowRange
from teravec.shards.shard import clipped_vectors, shard
from teravec.slices.entry import SliceEntry
from teravec.slices.merge import MergeOptions, merge
from teravec.sources import Data, PathLike, Source, Weights, checked_path, open_data, open_source
from teravec.storage.arrays import describe_file
from teravec.storage.files import remove, sync_directory
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_directory
from teravec.training.description import ModelDescription
from teravec.training.options import TrainOptions
from teravec.training.record import BuildRecord, LayoutOptions, begin_build, check_free, read_record
from teravec.training.train import train

__all__ = [
    "build_index",
    "merge_shards",
    "open_vectors",
    "remove_spool",
    "shard_rows",
    "train_model",
]

log = logging.getLogger(__name__)

_MANY_CLIPPED = 0.01  # of all vectors; more are a warning


def train_model(
    source: Source, paths: IndexPaths, options: TrainOptions, layout: LayoutOptions,
    resources: Resources, weights: Weights | None = None,
) -> ModelDescription:  # fmt: skip
    """Begin or continue a build, up to its sealed model."""
    with begin_build(paths, source, options, layout, weights) as record:
        return train(source, record, paths, resources, weights)


def shard_rows(
    source: Source, paths: IndexPaths, rows: RowRange | None, resources: Resources
) -> list[Path]:
    """Encode a range of rows, or every row that no shard covers; return the files written.

    Other processes may encode other rows at the same time.
    """
    fits = rows is not None and 0 <= rows[0] < rows[1] <= source.ntotal
    with hold_directory(paths.root, rows if fits else None):
        return _shard_rows(source, paths, rows, resources)


def _shard_rows(
    source: Source, paths: IndexPaths, rows: RowRange | None, resources: Resources
) -> list[Path]:
    record = read_record(paths)
    record.check_source(source, paths.root)
    if paths.manifest.exists():
        return []
    model = ModelDescription.read(paths.model)
    return shard(source, model, paths, record.layout.shards, rows, resources)


def merge_shards(paths: IndexPaths, *, keep_shards: bool, resources: Resources) -> Manifest:
    """Merge all shards into slices, seal the manifest, and only then remove the shards."""
    with hold_directory(paths.root):
        return _merge_shards(paths, keep_shards=keep_shards, resources=resources)


def _merge_shards(paths: IndexPaths, *, keep_shards: bool, resources: Resources) -> Manifest:
    record = read_record(paths)
    if paths.manifest.exists():
        manifest = read_manifest(paths)
    else:
        model = ModelDescription.read(paths.model)
        options = MergeOptions(
            model.tag, model.code_size, model.sketch_size, model.nlist, record.ntotal,
            record.layout.slices,
        )  # fmt: skip
        slices = merge(paths, options, resources)
        manifest = _manifest(record, model, slices, paths)
        _warn_if_clipped(manifest)
        write_manifest(paths, manifest)
    if not keep_shards and paths.shards.exists():
        with storage_errors(paths.shards, "remove"):
            shutil.rmtree(paths.shards)
        sync_directory(paths.root)
    return manifest


def _manifest(
    record: BuildRecord, model: ModelDescription, slices: Sequence[SliceEntry], paths: IndexPaths
) -> Manifest:
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
        files={paths.build.name: describe_file(paths.build)},
        slices=tuple(slices),
        source=record.source,
        clipped=clipped_vectors(paths),
    )


def _warn_if_clipped(manifest: Manifest) -> None:
    """Say so where codes do not fit the vectors; a few that lie outside are in every set."""
    if manifest.clipped > _MANY_CLIPPED * manifest.ntotal:
        log.warning(
            "%d of %d vectors lie outside of the range that %s was trained on, and are encoded as "
            "the nearest inside: the sample does not represent the data; build anew with a larger "
            "--sample, or with another codec (flat, fp16)",
            manifest.clipped, manifest.ntotal, manifest.codec,
        )  # fmt: skip


def build_index(
    data: Data, out: PathLike, *,
    options: TrainOptions, layout: LayoutOptions, keep_shards: bool, resources: Resources,
    ids: Any = None, id_column: str | None = None, vector_column: str | None = None,
    calibrate: bool = True, weights: Any = None,
) -> Manifest:  # fmt: skip
    """Train, shard, merge and calibrate; a rerun does only what is missing."""
    warn_if_missing()
    paths = IndexPaths(checked_path(out, "out"))
    source = open_vectors(
        data, paths, resources, ids=ids, id_column=id_column, vector_column=vector_column
    )
    weighed = None if weights is None else Weights(weights, source.ntotal)
    with begin_build(paths, source, options, layout, weighed) as record:
        if not paths.manifest.exists():
            with _no_spool_of_bad_vectors(source, paths):
                train(source, record, paths, resources, weighed)
                _shard_rows(source, paths, None, resources)
        manifest = _merge_shards(paths, keep_shards=keep_shards, resources=resources)
        if calibrate and not _calibrated(paths, manifest):
            _calibrate(source, paths, resources)
        if not calibrate or source.ntotal < 2 or _calibrated(paths, manifest):
            remove_spool(paths, manifest)
    return manifest


def open_vectors(
    data: Data, paths: IndexPaths, resources: Resources, *, ids: Any = None,
    id_column: str | None = None, vector_column: str | None = None,
) -> Source:  # fmt: skip
    """Open the vectors of an index; streams, and what other processes need, spooled beside it."""
    check_free(paths)  # before a stream is read for it
    return open_data(
        data, ids=ids, id_column=id_column, vector_column=vector_column, spool_path=paths.spool,
        shared=not resources.engine.in_process, progress=resources.progress,
    )  # fmt: skip


@contextmanager
def _no_spool_of_bad_vectors(source: Source, paths: IndexPaths) -> Iterator[None]:
    """Remove the spool of vectors that turn out to be bad: they can never be indexed."""
    try:
        yield
    except InvalidSource:
        if source.files[0].path == paths.spool:
            remove(paths.spool)
        raise


def remove_spool(paths: IndexPaths, manifest: Manifest) -> None:
    """Remove the vectors spooled beside an index that is whole, if they are its own."""
    with suppress(CorruptFile, InvalidSource):  # a file of this name that is none of ours stays
        if paths.spool.exists() and open_source(paths.spool).is_described_by(manifest.source):
            remove(paths.spool)


def _calibrated(paths: IndexPaths, manifest: Manifest) -> bool:
    try:
        return read_calibration(paths, manifest) is not None
    except CorruptFile as error:
        log.warning("%s; calibrating again", error)
        return False


def _calibrate(source: Source, paths: IndexPaths, resources: Resources) -> None:
    """Calibrate, if memory suffices and there is a vector to compare a query with."""
    if source.ntotal < 2:
        return
    try:
        calibrate_index(paths, source, CalibrationOptions(), resources)
    except MemoryLimitTooSmall as error:
        log.warning("%s; the index is whole, but not calibrated", error)
