"""Building an index: train, shard, merge, each of which does only what is missing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from teravec.arguments import flag, path_of
from teravec.engines.resources import Resources
from teravec.errors import CorruptFile, MemoryLimitTooSmall, OutputExists, storage_errors
from teravec.index.calibration import read_calibration
from teravec.index.manifest import Manifest, read_manifest, write_manifest
from teravec.index.replacing import (
    check_only_index,
    finish_replacing,
    put_in_place,
    successor,
)
from teravec.kernels.native import warn_if_missing
from teravec.search.calibrating import CalibrationOptions, calibrate_index
from teravec.shards.plan import RowRange
from teravec.shards.shard import clipped_vectors, shard
from teravec.slices.entry import SliceEntry
from teravec.slices.merge import MergeOptions, merge
from teravec.sources import PathLike, Source, Weights, open_source
from teravec.storage.arrays import describe_file
from teravec.storage.files import sync_directory
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_directory
from teravec.training.description import ModelDescription
from teravec.training.options import TrainOptions
from teravec.training.record import (
    BuildRecord,
    LayoutOptions,
    OtherBuild,
    begin_build,
    read_record,
)
from teravec.training.train import train

__all__ = ["build_index", "merge_shards", "shard_rows", "train_model"]

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
    data: PathLike | Sequence[PathLike], out: PathLike, *,
    options: TrainOptions, layout: LayoutOptions, keep_shards: bool, resources: Resources,
    id_column: str | None = None, vector_column: str | None = None, calibrate: bool = True,
    weights: PathLike | None = None, overwrite: bool = False,
) -> Manifest:  # fmt: skip
    """Train, shard, merge and calibrate; a rerun does only what is missing.

    With ``overwrite``, another index that is at ``out`` is replaced when the new one is whole.
    """
    warn_if_missing()
    paths = IndexPaths(path_of(out, "out"))
    keep_shards, calibrate = flag(keep_shards, "keep_shards"), flag(calibrate, "calibrate")
    overwrite = flag(overwrite, "overwrite")
    source = open_source(data, id_column=id_column, vector_column=vector_column)

    def build(paths: IndexPaths) -> Manifest:
        return _build(source, paths, options, layout, resources, keep_shards, calibrate, weights)

    if overwrite:
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
            f"{error.found}: it was begun to replace {paths.root}; remove it to begin anew"
        ) from error
    put_in_place(paths)
    return manifest


def _build(
    source: Source, paths: IndexPaths, options: TrainOptions, layout: LayoutOptions,
    resources: Resources, keep_shards: bool, calibrate: bool, weights: PathLike | None,
) -> Manifest:  # fmt: skip
    weighed = None if weights is None else Weights(weights, source.ntotal)
    with begin_build(paths, source, options, layout, weighed) as record:
        if not paths.manifest.exists():
            train(source, record, paths, resources, weighed)
            _shard_rows(source, paths, None, resources)
        manifest = _merge_shards(paths, keep_shards=keep_shards, resources=resources)
        if calibrate and not _calibrated(paths, manifest):
            _calibrate(source, paths, resources)
    return manifest


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
