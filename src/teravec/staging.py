"""The package's functions for the stages of a build: train, shard and merge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from teravec import building
from teravec.arguments import check_range, flag, instance
from teravec.engines.options import CPU, EngineOptions
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.granting import granted as _granted
from teravec.index.manifest import Manifest
from teravec.memory import parse_bytes
from teravec.model.description import ModelDescription
from teravec.progress import Progress
from teravec.sources import Data, PathLike, parse_columns
from teravec.storage.layout import IndexPaths
from teravec.storage.places import PlaceLike, place_of
from teravec.training.options import TrainOptions
from teravec.training.record import LayoutOptions

__all__ = ["merge", "shard", "train", "training_options"]


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
    nlist: int | str | None = "auto",
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
    trained = training_options(nlist, metric, transform, codec, sample, niter, seed, max_list_bytes)
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


def training_options(
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
