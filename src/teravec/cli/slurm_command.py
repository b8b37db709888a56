"""slurm: a command on the nodes of a Slurm allocation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from teravec.bulk.results import check_place
from teravec.cli import options as o
from teravec.cli.running import command, print_json
from teravec.errors import storage_errors
from teravec.memory import parse_bytes
from teravec.slurm import SlurmOptions, script, submit
from teravec.storage.files import publishing, write_all
from teravec.storage.output_lock import hold_file

__all__ = ["add_slurm_command"]


_SCRIPT = Path("teravec.sbatch")


def add_slurm_command(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "slurm")(slurm)


def slurm(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="-- COMMAND...",
            show_default=False,
            help="What to run, as build DATA --out INDEX; engine and address are set.",
        ),
    ],
    nodes: Annotated[int, typer.Option(help="Nodes, with one Ray process each.")],
    time: Annotated[str, typer.Option(help="Time limit, in sbatch's form: 90, 12:00:00, 2-12.")],
    cpus: Annotated[int | None, o.unset("Processors of a node.  [default: Slurm's]")] = None,
    memory: Annotated[
        str | None, o.unset("Memory of a node, in sbatch's form.  [default: Slurm's]")
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="As sbatch takes it.  [default: Slurm's]", show_default=False)
    ] = None,
    store: Annotated[
        str | None, o.unset("Ray's object store on a node, as 8GiB.  [default: Ray's]")
    ] = None,
    sbatch: Annotated[
        list[str] | None, o.unset("Another option for sbatch, as --sbatch=--account=x; repeatable.")
    ] = None,
    wait: Annotated[int, typer.Option(help="Seconds that nodes may take to come up.")] = 300,
    out: Annotated[Path, typer.Option("--script", help="Where to write the script.")] = _SCRIPT,
    do_submit: Annotated[bool, typer.Option("--submit", help="Submit it with sbatch.")] = False,
    json: o.Json = False,
) -> None:
    """Write (and submit) a script that runs a command on Ray across Slurm's nodes."""
    options = SlurmOptions(
        nodes,
        time,
        cpus,
        memory,
        partition,
        parse_bytes(store) if store else None,
        tuple(sbatch or ()),
        wait,
    )
    text = script(options, run)
    _write(out, text)
    job = submit(out) if do_submit else None
    if json:
        print_json({"script": str(out), "job": job})
    elif job is None:
        print(f"{out}: submit it with sbatch {out}")
    else:
        print(f"job {job}; it writes to teravec-{job}.log")


def _write(out: Path, text: str) -> None:
    if out.exists() and not out.is_file():  # a pipe, or /dev/stdout
        with storage_errors(out, "write"):
            out.write_text(text)
        return
    check_place(out)
    with hold_file(out), publishing(out, executable=True) as file:
        write_all(file, text.encode(), 0)
