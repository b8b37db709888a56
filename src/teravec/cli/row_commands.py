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
from teravec.cli.id_options import Ids, IdsFile, has_text_ids, read_ids
from teravec.cli.place_options import PLACE, PlaceText
from teravec.cli.remote import Ca, MinVersion, Server, TlsCert, TlsKey, TokenFile, remote_of
from teravec.cli.running import command, print_json
from teravec.errors import InvalidArgument
from teravec.progress import NoProgress
from teravec.search.options import SearchOptions
from teravec.search.searchable import Searchable
from teravec.sources import Source
from teravec.storage.output_lock import hold_file

__all__ = ["add_row_commands", "answer_with_columns"]


def add_row_commands(app: typer.Typer) -> None:
    """Register the command that returns rows by id."""
    command(app, "get")(get)


def get(
    index: Annotated[
        PlaceText | None,
        typer.Argument(
            metavar="INDEX",
            help="Index directory, or its URL in an object store; none with --server.",
            show_default=False,
        ),
        PLACE,
    ] = None,
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
    server: Server = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    min_version: MinVersion = None,
) -> None:
    """Print rows by id, with their columns; ids that no row has are left out."""
    remote = remote_of(server, token_file, ca, tls_cert, tls_key, min_version=min_version)
    asked: dict[str, Any] = {"columns": columns, "vectors": vectors, "out": out}
    if remote is not None and index is None:
        with remote.open(None, memory) as served:
            wanted = read_ids(ids, ids_file, texts=served.has_text_ids)
            table = tables.get(served, wanted, **asked)
    elif remote is None and index is not None:
        wanted = read_ids(ids, ids_file, texts=has_text_ids(index))
        table = tables.get(index, wanted, **asked, memory=memory, threads=threads)
    else:
        raise InvalidArgument("INDEX or --server expected, and not both")
    if out is None:
        sys.stdout.writelines(jsonl_of_table(table))
    else:
        print(f"{out}: {counted(len(table), 'rows')} of {counted(len(wanted), 'ids')}")


def answer_with_columns(
    index: Searchable,
    source: Source,
    options: SearchOptions,
    columns: str | None,
    out: Path | None,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Search for every query; write the results with columns to a file, or print lines of JSON."""
    if out is not None:
        check_table_output(out)
    wanted = tables.RowsWanted(columns)
    if out is None:
        with NoProgress().stage("search", source.ntotal, "queries") as bar:
            for table in tables.tables_of(index, source, options, wanted, bar):
                sys.stdout.writelines(jsonl_of_table(table))
        return
    bars = Bars(quiet=quiet or json)
    with hold_file(out), bars.stage("search", source.ntotal, "queries") as bar:
        rows = write_tables(out, tables.tables_of(index, source, options, wanted, bar))
    if json:
        stages = bars.summary()
        print_json({"out": str(out), "queries": source.ntotal, "results": rows, "stages": stages})
    else:
        print(f"{out}: {counted(rows, 'results')} of {counted(source.ntotal, 'queries')}")
