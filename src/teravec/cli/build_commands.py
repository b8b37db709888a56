"""build, train, shard, merge and import-faiss."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from teravec import building, staging
from teravec.bars import Bars, counted
from teravec.choosing import options_for_recall
from teravec.cli import options as o
from teravec.cli.running import command, peak_rss_bytes, print_json
from teravec.engines.engine import ProcessPeak
from teravec.engines.options import CPU, EngineOptions
from teravec.engines.resources import Resources
from teravec.errors import CorruptFile, InvalidArgument
from teravec.granting import resources
from teravec.index.balance import index_lists, shard_lists
from teravec.index.calibration import read_calibration
from teravec.index.manifest import Manifest
from teravec.interchange import importing
from teravec.memory import MIB
from teravec.model.description import ModelDescription
from teravec.search.effort import shortfall
from teravec.sources import as_query, parse_columns
from teravec.storage.layout import IndexPaths
from teravec.storage.places import Place
from teravec.training.record import LayoutOptions

__all__ = ["add_build_commands"]


def add_build_commands(app: typer.Typer) -> None:
    """Register the commands that make an index."""
    command(app, "build")(build)
    command(app, "train")(train)
    command(app, "shard")(shard)
    command(app, "merge")(merge)
    command(app, "import-faiss")(import_faiss)


def build(
    data: o.Data,
    out: o.Out,
    nlist: o.Nlist = "auto",
    codec: o.Codec = "sq8",
    metric: o.Metric = "l2",
    transform: o.Transform = None,
    for_recall: Annotated[
        float | None,
        o.unset(
            "Choose codec, transform and lists for searches that ask for this recall, as advise "
            "does.  [default: as the options say]"
        ),
    ] = None,
    shards: o.Shards = None,
    slices: o.Slices = None,
    sample: o.Sample = None,
    niter: o.Niter = 10,
    seed: o.Seed = 1234,
    max_list_bytes: o.MaxListBytes = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    id_column: o.IdColumn = None,
    vector_column: o.VectorColumn = None,
    format: o.Format = None,
    skip_bad: o.SkipBad = False,
    columns: o.Columns = None,
    filterable: o.Filterable = None,
    attributes: o.Attributes = None,
    weights: o.Weights = None,
    centroids: o.Centroids = None,
    query: o.Query = None,
    partition_by: o.PartitionBy = None,
    readers: o.Readers = None,
    bytes_type: o.BytesType = None,
    since_column: o.SinceColumn = None,
    keep_partitions: o.KeepPartitions = False,
    keep_shards: o.KeepShards = False,
    no_calibrate: Annotated[
        bool, typer.Option("--no-calibrate", help="Leave the index without a calibration.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace another index at --out once the new one is complete. The new one is "
            "built beside it, as OUT.new.",
        ),
    ] = False,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    address: o.Address = None,
    device: o.Device = CPU,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Build an index: train, shard, merge and calibrate. Run it again to continue after a crash."""
    started = time.monotonic()
    options = o.train_options(nlist, metric, transform, codec, sample, niter, seed, max_list_bytes)
    chosen = EngineOptions(engine, workers, address)
    given = as_query(
        data,
        query=query,
        partition_by=partition_by,
        readers=readers,
        bytes_type=bytes_type,
        since_column=since_column,
        keep_partitions=keep_partitions,
    )
    if for_recall is not None:
        if (codec, transform) != ("sq8", None):
            raise InvalidArgument("--for-recall chooses codec and transform: leave these out")
        options = options_for_recall(
            for_recall,
            given,
            out,
            options,
            threads=threads,
            vector_column=vector_column,
            format=format,
            skip_bad=skip_bad,
            progress=Bars(quiet=quiet or json),
        )
    with _resources(memory, threads, quiet or json, chosen, device) as resources:
        manifest = building.build_index(
            given,
            out,
            options=options,
            layout=LayoutOptions(shards, slices, parse_columns(filterable)),
            keep_shards=keep_shards,
            calibrate=not no_calibrate,
            resources=resources,
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
    _report_index(manifest, out, started, resources, json)


def train(
    data: o.Data,
    out: o.Out,
    nlist: o.Nlist = "auto",
    codec: o.Codec = "sq8",
    metric: o.Metric = "l2",
    transform: o.Transform = None,
    shards: o.Shards = None,
    slices: o.Slices = None,
    sample: o.Sample = None,
    niter: o.Niter = 10,
    seed: o.Seed = 1234,
    max_list_bytes: o.MaxListBytes = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    id_column: o.IdColumn = None,
    vector_column: o.VectorColumn = None,
    format: o.Format = None,
    skip_bad: o.SkipBad = False,
    columns: o.Columns = None,
    filterable: o.Filterable = None,
    attributes: o.Attributes = None,
    weights: o.Weights = None,
    centroids: o.Centroids = None,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    address: o.Address = None,
    device: o.Device = CPU,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Stage 1: train an empty index from a uniform sample."""
    started = time.monotonic()
    options = o.train_options(nlist, metric, transform, codec, sample, niter, seed, max_list_bytes)
    chosen = EngineOptions(engine, workers, address)
    with _resources(memory, threads, quiet or json, chosen, device) as resources:
        model = staging.train(
            data,
            out,
            options=options,
            layout=LayoutOptions(shards, slices, parse_columns(filterable)),
            resources=resources,
            id_column=id_column,
            vector_column=vector_column,
            weights=weights,
            centroids=centroids,
            format=format,
            skip_bad=skip_bad,
            columns=columns,
            attributes=attributes,
        )
    result = {"index": str(out), **_model_summary(model), **_cost(started, resources)}
    if json:
        print_json(result)
    else:
        agreement = f"{100 * model.assignment['agreement']:.2f} % assigned as exact"
        print(f"{out}: model of {counted(model.nlist, 'lists')}, {model.codec}, {agreement}")
        if model.lists is not None:
            print(_lists_line(model.lists))


def shard(
    data: o.Data,
    out: o.Out,
    rows: Annotated[
        str | None, o.unset("Encode only rows START:STOP.  [default: all that no shard covers]")
    ] = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    id_column: o.IdColumn = None,
    vector_column: o.VectorColumn = None,
    format: o.Format = None,
    attributes: o.Attributes = None,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    address: o.Address = None,
    device: o.Device = CPU,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Stage 2: encode ranges of rows into sealed shards, in any order or in parallel."""
    started = time.monotonic()
    chosen = EngineOptions(engine, workers, address)
    with _resources(memory, threads, quiet or json, chosen, device) as resources:
        written = staging.shard(
            data,
            out,
            rows=None if rows is None else _rows(rows),
            resources=resources,
            id_column=id_column,
            vector_column=vector_column,
            format=format,
            attributes=attributes,
        )
    lists = shard_lists(IndexPaths(out))
    if json:
        names = [path.name for path in written]
        cost = _cost(started, resources)
        print_json({"index": str(out), "shards": names, "lists": lists, **cost})
    else:
        print(f"{out}: {counted(len(written), 'shards')} written")
        if lists is not None:
            print(_lists_line(lists))


def merge(
    out: o.Out,
    keep_shards: o.KeepShards = False,
    memory: o.Memory = None,
    threads: o.Threads = None,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    address: o.Address = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Stage 3: merge all shards into slices and seal the index."""
    started = time.monotonic()
    chosen = EngineOptions(engine, workers, address)
    with _resources(memory, threads, quiet or json, chosen) as resources:
        manifest = staging.merge(out, keep_shards=keep_shards, resources=resources)
    _report_index(manifest, out, started, resources, json)


def import_faiss(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="File that Faiss wrote; or the trained index with shards or slices of it.",
            show_default=False,
        ),
    ],
    out: o.Out,
    slices: o.Slices = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Make an index of an IVF index of Faiss, its codes as they are. Run it again after a crash."""
    started = time.monotonic()
    with _resources(memory, threads, quiet or json, EngineOptions()) as resources:
        manifest = importing.import_faiss(files, IndexPaths(out), slices, resources)
    _report_index(manifest, out, started, resources, json)


def _rows(text: str) -> tuple[int, int]:
    start, colon, stop = text.partition(":")
    if not (colon and start.isdigit() and stop.isdigit()):
        raise InvalidArgument(f"rows are {text!r}; START:STOP expected")
    return int(start), int(stop)


def _resources(
    memory: str | None, threads: int | None, quiet: bool, engine: EngineOptions, device: str = CPU
) -> Resources:
    return resources(memory, threads, Bars(quiet=quiet), engine, device)


def _cost(started: float, resources: Resources) -> dict[str, Any]:
    cost: dict[str, Any] = {
        "seconds": round(time.monotonic() - started, 3),
        "peak_rss_bytes": peak_rss_bytes(),
        "memory_bytes": resources.memory_bytes,
    }
    if isinstance(resources.progress, Bars):
        cost["stages"] = resources.progress.summary()
    peaks = resources.engine.peaks()
    return cost | ({"workers": [asdict(peak) for peak in peaks]} if peaks else {})


def _model_summary(model: ModelDescription) -> dict[str, Any]:
    last = model.history[-1] if model.history else {}
    return {
        "nlist": model.nlist,
        "codec": model.codec,
        "metric": model.metric,
        "transform": model.transform,
        "assignment": model.assignment,
        "last": last,
        "lists": model.lists,
    }


def _skipped_line(manifest: Manifest, out: Place) -> str:
    skipped = manifest.source["skipped"]["rows"]
    return f"{IndexPaths(out).skipped}: {skipped:,} bad rows were left out"


def _lists_line(lists: dict[str, Any]) -> str:
    line = (
        f"lists: imbalance {lists['imbalance']:.3f}, largest {lists['largest']:,} vectors "
        f"({lists['largest_bytes']:,} bytes)"
    )
    if lists["max_bytes"] is not None:
        line += f", {lists['above']:,} above {lists['max_bytes']:,} bytes"
    if lists.get("added"):
        line += f", {lists['added']:,} added by splitting"
    return line


def _report_index(
    manifest: Manifest, out: Place, started: float, resources: Resources, as_json: bool
) -> None:
    size = sum(entry.files_size for entry in manifest.slices)
    cost, lists = _cost(started, resources), index_lists(IndexPaths(out), manifest)
    try:
        calibration = read_calibration(IndexPaths(out), manifest)
    except CorruptFile:  # verify reports it; an index is complete without a calibration
        calibration = None
    if as_json:
        print_json(
            {
                "index": str(out),
                "ntotal": manifest.ntotal,
                "d": manifest.d,
                "nlist": manifest.nlist,
                "codec": manifest.codec,
                "code_size": manifest.code_size,
                "metric": manifest.metric,
                "transform": manifest.transform,
                "slices": len(manifest.slices),
                "bytes": size,
                "clipped": manifest.clipped,
                "lists": lists,
                "skipped": manifest.source.get("skipped", {}).get("rows", 0),
                "reach": None if calibration is None else asdict(calibration.reach()),
                "shortfall": None
                if calibration is None
                else shortfall(calibration, manifest.nlist),
                **cost,
            }
        )
    else:
        held = f"{counted(manifest.ntotal, 'vectors')} in {counted(manifest.nlist, 'lists')}"
        slices = f"{size / 1e6:,.1f} MB in {counted(len(manifest.slices), 'slices')}"
        peak_memory = f"peak memory {cost['peak_rss_bytes'] / MIB:,.0f} MiB"
        print(f"{out}: {held}, {slices}; {cost['seconds']:.1f} s, {peak_memory}")
        print(_lists_line(lists))
        if "skipped" in manifest.source:
            print(_skipped_line(manifest, out))
        if workers := resources.engine.peaks():
            own = ProcessPeak("this process", cost["peak_rss_bytes"], resources.memory_bytes)
            for peak in (own, *workers):
                used, declared = peak.peak_rss_bytes / MIB, peak.memory_bytes / MIB
                print(f"{peak.name}: peak memory {used:,.0f} MiB, {declared:,.0f} MiB declared")
