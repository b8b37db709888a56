"""get, and searches that return columns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from teravec import tables
from teravec.bars import Bars, counted
from teravec.bulk.formats.tables import check_table_output, jsonl_of_table, write_tables
from teravec.cli import options as o
from teravec.cli.id_options import Ids, IdsFile, read_ids
from teravec.cli.running import command, print_json
from teravec.errors import InvalidArgument
from teravec.progress import NoProgress
from teravec.search.index import Index
from teravec.search.options import SearchOptions
from teravec.sources import Source
from teravec.storage.output_lock import hold_file

__all__ = ["add_row_commands", "answer_with_columns"]


def add_row_commands(app: typer.Typer) -> None:
    """Register the command that returns rows by id."""
    command(app, "get")(get)


def get(
    index: o.IndexDir,
    ids: Ids = None,
    ids_file: IdsFile = None,
    columns: Annotated[
        str | None, o.unset("Columns to return, as url,title.  [default: all]")
    ] = None,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Return the vectors too, as their codes say.")
    ] = False,
    out: Annotated[
        Path | None,
        o.unset(
            "Write the rows to .parquet, .csv or .jsonl.  [default: a line of JSON each]",
            "--out",
            "-o",
        ),
    ] = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
) -> None:
    """Print rows by id, with their columns; ids that no row has are left out."""
    wanted = read_ids(index, ids, ids_file)
    table = tables.get(
        index, wanted, columns, vectors=vectors, out=out, memory=memory, threads=threads
    )
    if out is None:
        sys.stdout.writelines(jsonl_of_table(table))
    else:
        print(f"{out}: {counted(len(table), 'rows')} of {counted(len(wanted), 'ids')}")


def answer_with_columns(
    index: Any,
    source: Source,
    options: SearchOptions,
    columns: str | None,
    out: Path | None,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Search for every query; write the results with columns to a file, or print lines of JSON."""
    if not isinstance(index, Index):
        raise InvalidArgument("--columns is for an index here; a server does not send columns yet")
    if options.exclude_own:
        raise InvalidArgument("--columns and --exclude-self given, one of them expected")
    if out is not None:
        check_table_output(out)
    asked = {
        "recall": options.recall,
        "candidates": options.candidates,
        "filter": options.filter,
        "columns": columns,
    }
    assert options.k is not None
    if out is None:
        with NoProgress().stage("search", source.ntotal, "queries") as bar:
            for table in tables.tables_of(index, source, options.k, options.nprobe, bar, **asked):
                sys.stdout.writelines(jsonl_of_table(table))
        return
    bars = Bars(quiet=quiet or json)
    with hold_file(out), bars.stage("search", source.ntotal, "queries") as bar:
        found = tables.tables_of(index, source, options.k, options.nprobe, bar, **asked)
        rows = write_tables(out, found)
    if json:
        stages = bars.summary()
        print_json({"out": str(out), "queries": source.ntotal, "results": rows, "stages": stages})
    else:
        print(f"{out}: {counted(rows, 'results')} of {counted(source.ntotal, 'queries')}")
