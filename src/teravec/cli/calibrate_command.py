"""calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from teravec import measuring
from teravec.bars import Bars, counted
from teravec.cli import options as o
from teravec.cli.place_options import FILES
from teravec.cli.running import command, parse_numbers, print_json

__all__ = ["add_calibrate_command"]


def add_calibrate_command(app: typer.Typer) -> None:
    """Register the command that measures recall against effort."""
    command(app, "calibrate")(calibrate)


def calibrate(
    index: o.IndexDir,
    queries_file: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERIES",
            help="File of queries like those to come.  [default: vectors drawn from the data]",
            show_default=False,
        ),
        FILES,
    ] = None,
    data: Annotated[
        list[str] | None,
        o.unset("The vectors that the index was built from; again for more files."),
        FILES,
    ] = None,
    truth: Annotated[
        Path | None, o.unset("Exact neighbours of QUERIES, instead of --data.")
    ] = None,
    queries: Annotated[int, typer.Option(help="Vectors to draw, where no file is given.")] = 1000,
    k: Annotated[
        str, typer.Option("-k", "--k", help="Numbers of neighbours to measure the recall of.")
    ] = "1,10,100",
    codes: Annotated[
        int | None,
        o.unset(
            "Go on until a query scans so many codes.  [default: a 32nd of all, 30,000 at "
            "least; three times as many where 0.95 cannot be promised then]"
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        o.unset(
            "End before so many seconds of searching, with what was measured by then.  "
            "[default: no limit]"
        ),
    ] = None,
    truth_format: o.TruthFormat = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    id_column: o.IdColumn = None,
    vector_column: o.VectorColumn = None,
    query_column: o.QueryColumn = None,
    format: o.Format = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure recall against effort, for searches by recall; replaces an earlier calibration."""
    bars = Bars(quiet=quiet or json)
    calibration = measuring.calibrate(
        index,
        queries_file,
        data=data,
        truth=truth,
        nqueries=queries,
        ks=parse_numbers(k, "k"),
        codes=codes,
        seconds=seconds,
        truth_format=truth_format,
        memory=memory,
        threads=threads,
        id_column=id_column,
        vector_column=vector_column,
        query_column=query_column,
        format=format,
        progress=bars,
    )
    if json:
        print_json({"index": str(index), **calibration.summary(), "stages": bars.summary()})
        return
    heads = [f"recall@{known}" for known in calibration.ks]
    print("  ".join(f"{head:>10}" for head in ["nprobe", "lists", "codes", *heads]))
    for point in calibration.points:
        cells = [f"{point.nprobe:,}", f"{point.lists:,.1f}", f"{point.codes:,.0f}"]
        cells += [f"{recall:.4f}" for recall in point.recall]
        print("  ".join(f"{cell:>10}" for cell in cells))
    queries_text = counted(calibration.queries, "queries")
    print(f"{index}: calibrated on {queries_text} ({calibration.origin})")
