"""Building an index: train, shard, merge, each of which does only what is missing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from teravec.arguments import flag, path_of
from teravec.engines.resources import Resources
from teravec.errors import (
    CorruptFile,
    InvalidArgument,
    InvalidSource,
    MemoryLimitTooSmall,
    OutputExists,
    storage_errors,
)
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
from teravec.shards.shard import shard
from teravec.slices.entry import SliceEntry
from teravec.slices.merge import MergeOptions, merge
from teravec.sources import PathLike, Source, Weights, open_source
from teravec.storage.arrays import describe_file
from teravec.storage.files import sync_directory
from teravec.storage.layout import IndexPaths
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


def train_model(
    source: Source, paths: IndexPaths, options: TrainOptions, layout: LayoutOptions,
    resources: Resources, weights: Weights | None = None,
) -> ModelDescription:  # fmt: skip
    """Begin or continue a build, up to its sealed model."""
    with _nothing_left_of_bad_input(paths):
        record = begin_build(paths, source, options, layout, weights)
        return train(source, record, paths, resources, weights)


@contextmanager
def _nothing_left_of_bad_input(paths: IndexPaths) -> Iterator[None]:
    """Remove a build that the body began if its input turns out to be bad.

    Bad vectors can never be indexed, and before the model is sealed there is nothing to save.
    """
    with storage_errors(paths.root, "read"):
        there = paths.root.is_dir()
        kept = set(paths.root.iterdir()) if there else set()
    try:
        yield
    except InvalidArgument as error:
        trained = ModelDescription.is_sealed(paths.model)
        begun = paths.build not in kept and paths.build.exists()
        if begun and (isinstance(error, InvalidSource) or not trained):
            _remove_new(paths.root, there, kept)
        raise


def _remove_new(root: Path, there: bool, kept: set[Path]) -> None:
    with storage_errors(root, "remove"):
        for path in () if not there else set(root.iterdir()) - kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not there:
            shutil.rmtree(root)


def shard_rows(
    source: Source, paths: IndexPaths, rows: RowRange | None, resources: Resources
) -> list[Path]:
    """Encode a range of rows, or every row that no shard covers; return the files written."""
    record = read_record(paths)
    record.check_source(source, paths.root)
    if paths.manifest.exists():
        return []
    model = ModelDescription.read(paths.model)
    return shard(source, model, paths, record.layout.shards, rows, resources)


def merge_shards(paths: IndexPaths, *, keep_shards: bool, resources: Resources) -> Manifest:
    """Merge all shards into slices, seal the manifest, and only then remove the shards."""
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
    )


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
    with _nothing_left_of_bad_input(paths):
        weighed = None if weights is None else Weights(weights, source.ntotal)
        record = begin_build(paths, source, options, layout, weighed)
        if not paths.manifest.exists():
            train(source, record, paths, resources, weighed)
            shard_rows(source, paths, None, resources)
    manifest = merge_shards(paths, keep_shards=keep_shards, resources=resources)
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
