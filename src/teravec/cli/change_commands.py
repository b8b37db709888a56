"""add, delete, compact, maintain, versions, rollback and vacuum."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from teravec import changing
from teravec.bars import Bars, counted
from teravec.cli import options as o
from teravec.cli.id_options import Ids, IdsFile, has_text_ids, read_ids
from teravec.cli.place_options import PLACE, PlaceText
from teravec.cli.running import command, print_json
from teravec.index.manifest import Manifest
from teravec.storage.places import Place

__all__ = ["add_change_commands"]

Number = Annotated[
    int, typer.Argument(metavar="NUMBER", help="The version's number.", show_default=False)
]


def add_change_commands(app: typer.Typer) -> None:
    """Register the commands that change a finished index."""
    command(app, "add")(add)
    command(app, "delete")(delete)
    command(app, "compact")(compact)
    command(app, "rebalance")(rebalance)
    command(app, "maintain")(maintain)
    command(app, "versions")(versions)
    command(app, "rollback")(rollback)
    command(app, "vacuum")(vacuum)
    command(app, "cp")(cp)


def add(
    index: o.IndexDir,
    data: o.Data,
    id_column: o.IdColumn = None,
    vector_column: o.VectorColumn = None,
    format: o.Format = None,
    query: o.Query = None,
    partition_by: o.PartitionBy = None,
    readers: o.Readers = None,
    bytes_type: o.BytesType = None,
    since_column: o.SinceColumn = None,
    keep_partitions: o.KeepPartitions = False,
    columns: o.Columns = None,
    filterable: o.Filterable = None,
    attributes: o.Attributes = None,
    append: Annotated[
        bool,
        typer.Option("--append", help="The ids are new, so no row is looked for to be replaced."),
    ] = False,
    memory: o.Memory = None,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    engine: o.Engine = "local",
    workers: o.Workers = None,
    address: o.Address = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Add rows to an index; a row whose id exists replaces that row."""
    started, bars = time.monotonic(), Bars(quiet=quiet or json)
    manifest = changing.add(
        index,
        data,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
        query=query,
        partition_by=partition_by,
        readers=readers,
        bytes_type=bytes_type,
        since_column=since_column,
        keep_partitions=keep_partitions,
        append=append,
        columns=columns,
        filterable=filterable,
        attributes=attributes,
        memory=memory,
        threads=threads,
        device=device,
        engine=engine,
        workers=workers,
        address=address,
        progress=bars,
    )
    _report_work(index, manifest, json, started, bars)


def delete(
    index: o.IndexDir, ids: Ids = None, ids_file: IdsFile = None, json: o.Json = False
) -> None:
    """Delete rows by id; searches that begin afterwards do not find them."""
    given = read_ids(ids, ids_file, texts=has_text_ids(index))
    _report(index, changing.delete(index, given), json, {})


def compact(
    index: o.IndexDir,
    full: Annotated[bool, typer.Option("--full", help="Join all segments.")] = False,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge",
            help="Join all segments and remove older versions, so that no deleted row stays on "
            "the disk.",
        ),
    ] = False,
    memory: o.Memory = None,
    threads: o.Threads = None,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    address: o.Address = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Join segments, so that queries read few runs, and leave out deleted rows."""
    started, bars = time.monotonic(), Bars(quiet=quiet or json)
    manifest = changing.compact(
        index,
        full=full,
        purge=purge,
        memory=memory,
        threads=threads,
        engine=engine,
        workers=workers,
        address=address,
        progress=bars,
    )
    _report_work(index, manifest, json, started, bars, nothing="nothing is worth compacting")


def rebalance(
    index: o.IndexDir,
    max_list_bytes: Annotated[
        str | None,
        o.unset(
            "Split also lists that take more, as 64MiB.  [default: what the index was built with]"
        ),
    ] = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    address: o.Address = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Split lists that have grown too large, and join those that have become small."""
    started, bars = time.monotonic(), Bars(quiet=quiet or json)
    manifest = changing.rebalance(
        index,
        max_list_bytes=max_list_bytes,
        memory=memory,
        threads=threads,
        engine=engine,
        workers=workers,
        address=address,
        progress=bars,
    )
    _report_work(index, manifest, json, started, bars, nothing="no list is out of balance")


def maintain(
    index: o.IndexDir,
    budget: Annotated[
        str | None,
        o.unset("Time after which work stops, as 10min; the next run goes on.  [default: none]"),
    ] = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    address: o.Address = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Rebalance, compact and calibrate as what a query reads makes it worth it."""
    bars = Bars(quiet=quiet or json)
    maintained = changing.maintain(
        index,
        budget=budget,
        memory=memory,
        threads=threads,
        engine=engine,
        workers=workers,
        address=address,
        progress=bars,
    )
    if json:
        print_json({"index": str(index), **asdict(maintained), "stages": bars.summary()})
        return
    for step in maintained.steps:
        outcome = f"version {step.version}" if not step.left else f"not done: {step.left}"
        print(f"{index}: {step.what}, because {step.why}: {outcome}; {step.seconds:.1f} s")
    now = f"at most {counted(maintained.runs, 'runs')} a list, {maintained.deleted:.1%} deleted ids"
    print(f"{index}: {'nothing to do' if not maintained.steps else 'now'}: {now}")


def versions(index: o.IndexDir, json: o.Json = False) -> None:
    """List the versions of an index, the oldest first."""
    history = changing.versions(index)
    if json:
        print_json({"index": str(index), "versions": [_describe(each) for each in history]})
        return
    print(f"{'version':>10}  {'committed':20}  {'rows':>18}  change")
    for each in history:
        print(f"{each.number:>10}  {each.created or '':20}  {_rows(each):>18}  {each.what}")


def rollback(index: o.IndexDir, number: Number, json: o.Json = False) -> None:
    """Make an older version the newest again; nothing is removed."""
    _report(index, changing.rollback(index, number), json, {})


def vacuum(
    index: o.IndexDir,
    older_than: Annotated[
        str, typer.Option(help="Keep versions that were the newest within this time, as 7d or 12h.")
    ] = "7d",
    grace: Annotated[
        str,
        typer.Option(
            help="In an object store: changes begun within this time count as being made; their "
            "files and unfinished uploads stay."
        ),
    ] = "1d",
    json: o.Json = False,
) -> None:
    """Remove old versions, and the files that no version needs any more."""
    removed = changing.vacuum(index, older_than=older_than, grace=grace)
    if json:
        print_json({"index": str(index), **asdict(removed)})
        return
    count = counted(len(removed.versions), "versions")
    print(f"{index}: removed {count}, {counted(removed.files, 'files')}, {removed.size:,} bytes")


def cp(
    source: Annotated[
        PlaceText,
        typer.Argument(metavar="SRC", help="Index directory or URL.", show_default=False),
        PLACE,
    ],
    target: Annotated[
        PlaceText,
        typer.Argument(
            metavar="DST",
            help="New or empty directory or URL, or one with versions of the same index.",
            show_default=False,
        ),
        PLACE,
    ],
    version: Annotated[int | None, o.unset("Version to copy.  [default: the newest]")] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Copy an index from one place to another; resumable, verified."""
    bars = Bars(quiet=quiet or json)
    copied = changing.copy(source, target, version=version, progress=bars)
    if json:
        print_json({"index": str(target), **asdict(copied), "stages": bars.summary()})
        return
    kept = f"; {counted(copied.kept, 'files')} there already" if copied.kept else ""
    files = f"{counted(copied.files, 'files')}, {copied.size:,} bytes"
    print(f"{target}: version {copied.version}: {files}{kept}")


def _describe(manifest: Manifest) -> dict[str, Any]:
    return {
        "version": manifest.number,
        "parent": manifest.parent,
        "created": manifest.created,
        "change": manifest.what,
        "ntotal": manifest.ntotal,
        "segments": len(manifest.segments),
        "deleted_ids": manifest.deleted_ids,
    }


def _rows(manifest: Manifest) -> str:
    """Rows of a version: an upper bound where ids were deleted that may have had no row."""
    return f"{'at most ' if manifest.deleted_ids else ''}{manifest.ntotal:,}"


def _report_work(
    index: Place,
    manifest: Manifest | None,
    json: bool,
    started: float,
    bars: Bars,
    *,
    nothing: str = "",
) -> None:
    """Report a change that ran in stages; ``nothing`` says that none was worth it."""
    if manifest is not None:
        seconds = round(time.monotonic() - started, 3)
        _report(index, manifest, json, {"seconds": seconds, "stages": bars.summary()})
    elif json:
        print_json({"index": str(index), "change": None})
    else:
        print(f"{index}: {nothing}")


def _report(index: Place, manifest: Manifest, json: bool, more: dict[str, Any]) -> None:
    if json:
        print_json({"index": str(index), **_describe(manifest), **more})
        return
    print(f"{index}: version {manifest.number}: {manifest.what}; {_rows(manifest)} rows")
