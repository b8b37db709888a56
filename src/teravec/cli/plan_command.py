"""plan: the predicted cost of a build and of a query."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from teravec.bars import counted
from teravec.cli import options as o
from teravec.cli.running import command, print_json
from teravec.cli.stats_table import print_table
from teravec.errors import InvalidArgument
from teravec.memory import parse_bytes
from teravec.planning.calibrate import calibrate as measure
from teravec.planning.constants import Constants, default_path, read_constants, write_constants
from teravec.planning.model import predict
from teravec.planning.original import beside_original, is_original
from teravec.planning.prediction import Plan
from teravec.planning.workload import Cluster, Prices, Queries, Workload
from teravec.processors import check_threads, default_threads
from teravec.storage.files import make_directory
from teravec.storage.layout import absolute
from teravec.storage.output_lock import hold_file

__all__ = ["add_plan_command"]

_Nprobe = Annotated[int, typer.Option(help="Lists that a query visits.")]
_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_TIMES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def add_plan_command(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "plan")(plan)


def plan(
    ntotal: Annotated[str | None, o.unset("Vectors, as 1000000 or 1.5e12.")] = None,
    d: Annotated[int | None, o.unset("Dimensions.")] = None,
    nlist: o.Nlist = "auto",
    codec: o.Codec = "sq8",
    metric: o.Metric = "l2",
    transform: o.Transform = None,
    sample: o.Sample = None,
    niter: o.Niter = 10,
    item_bytes: Annotated[
        int, typer.Option(help="Bytes per element of the source: 1, 2 or 4.")
    ] = 4,
    imbalance: Annotated[float, typer.Option(help="Expected imbalance; 1 is even lists.")] = 1.5,
    machines: Annotated[int, typer.Option(help="Machines, one process on each.")] = 1,
    servers: Annotated[int | None, o.unset("Machines that answer queries.  [default: all]")] = None,
    shards: o.Shards = None,
    slices: o.Slices = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    nprobe: _Nprobe = 64,
    k: o.K = 10,
    machine_hour: Annotated[float, typer.Option(help="Price of a machine's hour.")] = 0.0,
    disk_month: Annotated[float, typer.Option(help="Price of 10^9 bytes for a month.")] = 0.0,
    constants: Annotated[
        Path | None,
        o.unset(
            "File of measured speeds; it may be edited.  [default: constants.json in the user's "
            "cache directory]"
        ),
    ] = None,
    read_rate: Annotated[
        str | None, o.unset("A machine's disk reads, in bytes a second, instead of the file's.")
    ] = None,
    write_rate: Annotated[str | None, o.unset("A machine's disk writes, likewise.")] = None,
    network_rate: Annotated[
        str | None, o.unset("Bytes a second that a machine sends, instead of the file's.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First measure this machine, for some 10 seconds.")
    ] = False,
    folder: Annotated[
        Path | None, o.unset("Directory on the disk to measure.  [default: the temporary one]")
    ] = None,
    json: o.Json = False,
) -> None:
    """Predict time, bytes, memory, disk and cost of a build, and of a query."""
    check_threads(threads)
    path = constants or default_path()
    if calibrate:
        make_directory(absolute(path).parent)
        with hold_file(path):
            write_constants(path, measure(folder, threads))
    elif not path.exists():
        raise InvalidArgument(f"{path} does not exist: run teravec plan --calibrate first")
    speeds = _with_rates(read_constants(path), read_rate, write_rate, network_rate)
    if ntotal is None or d is None:
        if not calibrate:
            raise InvalidArgument("--ntotal and --d are needed, or --calibrate")
        print_json(asdict(speeds)) if json else _show_constants(path, speeds)
        return
    work = Workload.of(
        _count(ntotal),
        d,
        o.train_options(nlist, metric, transform, codec, sample, niter),
        item_bytes=item_bytes,
        imbalance=imbalance,
    )
    cluster = Cluster(
        machines,
        threads or default_threads(),
        parse_bytes(memory) if memory else 4 << 30,
        shards,
        slices,
        servers,
    )
    result = predict(work, cluster, Queries(nprobe, k), Prices(machine_hour, disk_month), speeds)
    if json:
        print_json(_content(work, result))
    else:
        _show(work, cluster, result)


def _count(text: str) -> int:
    try:
        value = float(text)
        if not (value >= 1 and value == int(value)):
            raise ValueError
    except (ValueError, OverflowError):
        raise InvalidArgument(f"ntotal is {text!r}; a whole number as 1.5e12 expected") from None
    return int(text) if text.isdigit() else int(value)


def _with_rates(speeds: Constants, *rates: str | None) -> Constants:
    names = ("read_bytes", "write_bytes", "network_bytes")
    given = {n: float(parse_bytes(r)) for n, r in zip(names, rates, strict=True) if r is not None}
    if any(rate <= 0 for rate in given.values()):
        raise InvalidArgument("a rate is 0; more expected")
    return replace(speeds, **given)


def _content(work: Workload, result: Plan) -> dict[str, Any]:
    stages = [{**asdict(stage), "limit": stage.limit} for stage in result.stages]
    content = {
        "nlist": work.train.nlist,
        "sample": work.train.sample,
        "code_size": work.code_size,
        "index_bytes": work.ntotal * work.row_bytes,
        "seconds": result.seconds,
        "stages": stages,
        "query": {**asdict(result.query), "limit": result.query.limit},
        "build_cost": result.build_cost,
        "month_cost": result.month_cost,
    }
    if is_original(work):
        content["reported"] = [asdict(line) for line in beside_original(result)]
    return content


def _show_constants(path: Path, speeds: Constants) -> None:
    for name, value in asdict(speeds).items():
        print(f"{name:>16}  {value:,.4g}")
    print(f"saved in {path}")


def _show(work: Workload, cluster: Cluster, result: Plan) -> None:
    train, query = work.train, result.query
    print(
        f"{work.ntotal:,} x {train.d} in {train.nlist:,} lists of {work.row_bytes} bytes a vector, "
        f"{counted(cluster.machines, 'machines')} of {counted(cluster.threads, 'threads')}"
    )
    table = Table("stage", "time", "limited by", "read", "written", "sent", "memory", "disk")
    for stage in result.stages:
        table.add_row(
            stage.name,
            _time(stage.seconds),
            stage.limit,
            _bytes(stage.read_bytes),
            _bytes(stage.written_bytes),
            _bytes(stage.sent_bytes),
            _bytes(stage.memory_bytes),
            _bytes(stage.disk_bytes),
        )
    print_table(table)
    print(f"build: {_time(result.seconds)}; memory is per process, the rest for all machines")
    print(
        f"query of {query.lists:,} lists, cold: {_time(query.latency_s)}, "
        f"{_bytes(query.read_bytes)}, limited by {query.limit}"
    )
    print(
        f"queries a second on all servers: {query.cold_qps:,.1f} cold, {query.warm_qps:,.0f} "
        f"where lists are in memory; a server: memory {_bytes(query.memory_bytes)}, "
        f"disk {_bytes(query.disk_bytes)}"
    )
    if result.build_cost or result.month_cost:
        print(f"cost: {result.build_cost:,.2f} for the build, {result.month_cost:,.2f} a month")
    if is_original(work):
        table = Table("", "as reported", "job hours", "predicted", "machine hours")
        for line in beside_original(result):
            hours = "" if line.reported_hours is None else f"{line.reported_hours[1]:,.0f}"
            ours = "" if line.ours_hours is None else f"{line.ours_hours:,.0f}"
            table.add_row(line.what, line.reported, hours, line.ours, ours)
        print_table(table)


def _bytes(count: float) -> str:
    unit, name = next((u for u in _UNITS if count >= u[0]), (1.0, "B"))
    return f"{count / unit:,.1f} {name}" if name != "B" else f"{count:,.0f} B"


def _time(seconds: float) -> str:
    unit, name = next((u for u in _TIMES if seconds >= u[0]), (1.0, "s"))
    return f"{seconds / unit:,.2f} {name}"
