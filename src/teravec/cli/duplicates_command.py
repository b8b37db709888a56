"""duplicates."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from teravec import duplicating
from teravec.bars import Bars, counted
from teravec.cli import options as o
from teravec.cli.running import command, print_json

__all__ = ["add_duplicates_command"]


def add_duplicates_command(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "duplicates")(duplicates)


def duplicates(
    index: o.IndexDir,
    data: o.Data,
    threshold: Annotated[
        float, o.unset("Similarity above it (ip, cosine), or squared L2 below it (l2).")
    ],
    out: Annotated[
        Path, o.unset("A .parquet file: id, group and kept of each row in a group.", "--out", "-o")
    ],
    nprobe: o.Nprobe = None,
    recall: o.Recall = None,
    id_column: o.IdColumn = None,
    vector_column: o.VectorColumn = None,
    format: o.Format = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Join rows that are near to each other to groups, and mark one row of each; resumable."""
    started, bars = time.monotonic(), Bars(quiet=quiet or json)
    found = duplicating.duplicates(
        index,
        data,
        threshold,
        out=out,
        nprobe=nprobe,
        recall=recall,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
        memory=memory,
        threads=threads,
        progress=bars,
    )
    if json:
        seconds = round(time.monotonic() - started, 3)
        print_json({"out": str(out), **asdict(found), "seconds": seconds})
        return
    print(
        f"{out}: {counted(found.groups, 'groups')} among {counted(found.rows, 'vectors')}; "
        f"{found.duplicates:,} may go"
    )
