"""plan: the predicted cost of a build and of a query."""

from __future__ import annotations

import json as json_text
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from teravec import predicting
from teravec.arguments import text
from teravec.cli import options as o
from teravec.cli.advise_command import Machine as MachineOption
from teravec.cli.running import command, print_json
from teravec.cli.stats_table import print_table
from teravec.errors import InvalidArgument, storage_errors
from teravec.memory import parse_bytes
from teravec.planning.calibrate import calibrate as measure
from teravec.planning.constants import WORDS, default_path, read_constants, write_constants
from teravec.planning.machines import Machine, find_machine, machine_of
from teravec.processors import check_threads
from teravec.storage.files import make_directory
from teravec.storage.layout import absolute
from teravec.storage.output_lock import hold_file

__all__ = ["add_plan_command"]


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
    recall: Annotated[
        float | None, o.unset("Recall of the k nearest that searches ask for.  [default: 0.9]")
    ] = None,
    nprobe: Annotated[
        float | None, o.unset("Instead of --recall: lists that a query visits.")
    ] = None,
    k: o.K = 10,
    like: Annotated[
        str | None,
        o.unset(
            "Typical data whose lists for a recall are taken: descriptors, sentences or words.  "
            "[default: descriptors]"
        ),
    ] = None,
    index: Annotated[
        Path | None,
        o.unset("Take them from the calibration of this index of similar data, of any size."),
    ] = None,
    advice: Annotated[
        Path | None, o.unset("Take them, and the codec, from a file of what advise --json printed.")
    ] = None,
    machine: MachineOption = None,
    machines: Annotated[int, typer.Option(help="Machines, one process on each.")] = 1,
    within: Annotated[
        str | None, o.unset("Find how many machines build within this time, as 6h.")
    ] = None,
    servers: Annotated[int | None, o.unset("Machines that answer queries.  [default: all]")] = None,
    shards: o.Shards = None,
    slices: o.Slices = None,
    memory: Annotated[
        str | None,
        o.unset(
            "Memory of each process, as 64GiB, to build and to serve.  [default: the machine's]"
        ),
    ] = None,
    threads: Annotated[
        int | None, o.unset("Threads of each machine.  [default: the machine's]")
    ] = None,
    item_bytes: Annotated[
        int, typer.Option(help="Bytes per element of the source: 1, 2 or 4.")
    ] = 4,
    imbalance: Annotated[float, typer.Option(help="Expected imbalance; 1 is even lists.")] = 1.5,
    machine_hour: Annotated[float, typer.Option(help="Price of a machine's hour.")] = 0.0,
    disk_month: Annotated[float, typer.Option(help="Price of 10^9 bytes for a month.")] = 0.0,
    constants: Annotated[
        Path | None,
        o.unset(
            "File of speeds instead of a machine's; it may be edited. With --calibrate, where to "
            "keep them.  [default: constants.json in the user's cache directory]"
        ),
    ] = None,
    read_rate: Annotated[
        str | None, o.unset("A machine's disk reads, in bytes a second, instead of the machine's.")
    ] = None,
    write_rate: Annotated[str | None, o.unset("A machine's disk writes, likewise.")] = None,
    network_rate: Annotated[
        str | None, o.unset("Bytes a second that a machine sends, likewise.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First measure this machine, for some 10 seconds.")
    ] = False,
    folder: Annotated[
        Path | None, o.unset("Directory on the disk to measure.  [default: the temporary one]")
    ] = None,
    json: o.Json = False,
) -> None:
    """Predict time, bytes, memory, disk and cost of a build, and of a query.

    Nothing is measured, unless with --calibrate. Without --ntotal and --d, the speeds are shown.
    """
    check_threads(threads)
    if calibrate:
        chosen = _measure(constants or default_path(), folder, threads)
        constants = constants or default_path()
        machine = None
    else:
        chosen = (
            find_machine(machine)
            if constants is None
            else machine_of(read_constants(constants), constants)
        )
    if ntotal is None or d is None:
        if (ntotal, d) != (None, None):
            raise InvalidArgument("both --ntotal and --d are needed")
        print_json(asdict(chosen.constants)) if json else _show_constants(chosen)
        return
    rates = {"read_bytes": read_rate, "write_bytes": write_rate, "network_bytes": network_rate}
    planned = predicting.plan(
        _count(ntotal),
        d,
        nlist=nlist
        if nlist == "auto"
        else o.train_options(nlist, "l2", None, "flat", None, 1).nlist,
        codec=codec,
        metric=metric,
        transform=transform,
        sample=sample,
        niter=niter,
        recall=recall,
        nprobe=nprobe,
        k=k,
        like=like,
        index=index,
        advice=None if advice is None else _read_advice(advice),
        machine=machine,
        machines=machines,
        threads=threads,
        memory=memory,
        servers=servers,
        shards=shards,
        slices=slices,
        within=within,
        item_bytes=item_bytes,
        imbalance=imbalance,
        machine_hour=machine_hour,
        disk_month=disk_month,
        constants=constants,
        rates={name: _rate(rate) for name, rate in rates.items() if rate is not None},
    )
    print_json(planned.content()) if json else print(planned)


def _measure(path: Path, folder: Path | None, threads: int | None) -> Machine:
    make_directory(absolute(path).parent)
    with hold_file(path):
        write_constants(path, measure(folder, threads))
    return machine_of(read_constants(path), path)


def _count(given: str) -> int:
    try:
        value = float(text(given, "ntotal"))
        if not (value >= 1 and value == int(value)):
            raise ValueError
    except (ValueError, OverflowError):
        raise InvalidArgument(f"ntotal is {given!r}; a whole number as 1.5e12 expected") from None
    return int(given) if given.isdigit() else int(value)


def _rate(rate: str) -> float:
    found = float(parse_bytes(rate))
    if found <= 0:
        raise InvalidArgument("a rate is 0; more expected")
    return found


def _read_advice(path: Path) -> dict[str, Any]:
    with storage_errors(path, "read"):
        data = path.read_bytes()
    try:
        return dict(json_text.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument(f"{path}: no output of teravec advise --json") from error


def _show_constants(machine: Machine) -> None:
    """Print each constant with its unit, its meaning and its source."""
    print(f"{machine.name}: {machine.about}")
    sources = list(dict.fromkeys(machine.source_of(name) for name in WORDS))
    table = Table("constant", "value", "unit", "of", "source")
    for name, (unit, words) in WORDS.items():
        value = f"{getattr(machine.constants, name):,.4g}"
        number = str(sources.index(machine.source_of(name)) + 1)
        table.add_row(name, value, unit, words, number)
    print_table(table)
    for place, source in enumerate(sources, 1):
        print(f"source {place}: {source}")
