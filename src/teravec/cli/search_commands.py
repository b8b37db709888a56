"""search, range-search, eval and groundtruth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from teravec import measuring
from teravec.bars import Bars, counted
from teravec.bulk.filtered import parse_filters
from teravec.bulk.formats.found import FoundArrays
from teravec.bulk.formats.tables import TABLE_FORMATS
from teravec.bulk.questions import with_index_ids
from teravec.bulk.results import check_output, is_stdout, read_neighbors
from teravec.cli import options as o
from teravec.cli.answering import answer, check_one_output, explain_answer, print_texts
from teravec.cli.place_options import FILES, PLACES_AND_TWO
from teravec.cli.remote import Ca, MinVersion, Remote, Server, TlsCert, TlsKey, TokenFile, remote_of
from teravec.cli.row_commands import answer_with_columns
from teravec.cli.running import command, parse_decimals, parse_numbers, print_json
from teravec.cli.stats_table import print_table
from teravec.errors import InvalidArgument
from teravec.evaluation.plotting import check_plot
from teravec.index.manifest import read_manifest
from teravec.search.index import open_index
from teravec.search.options import SearchOptions
from teravec.search.searchable import Searchable
from teravec.sources import Source, open_rows, open_source
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_file

__all__ = ["add_search_commands"]

Result = Annotated[
    Path | None,
    o.unset(
        "Result file; its extension says the format: .npz .parquet .csv .jsonl .ibin .bin .ivecs "
        ".npy. To standard output: - or -.jsonl, -.csv.",
        "--out",
        "-o",
    ),
]
RangeResult = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Result file; its extension says the format: .npz .parquet "
        ".csv .jsonl. To standard output: - or -.jsonl, -.csv.",
        show_default=False,
    ),
]
ExcludeSelf = Annotated[
    bool,
    typer.Option(
        "--exclude-self",
        help="Leave out the vector with the query's own id: for the "
        "neighbours within one data set.",
    ),
]
Filter = Annotated[
    str | None,
    o.unset(
        "Only rows that pass, as \"lang = 'en' and price < 10\": a condition on columns in SQL."
    ),
]
FilterColumn = Annotated[
    str | None,
    o.unset("Column of the queries that holds the filter of each, as text; null finds all rows."),
]
ReturnedColumns = Annotated[
    str | None,
    o.unset(
        "Columns of the index to return with each result, as url,title, or all; the output is "
        "then .parquet, .csv or .jsonl."
    ),
]
Stats = Annotated[bool, typer.Option("--stats", help="Print what the search cost.")]


def add_search_commands(app: typer.Typer) -> None:
    """Register the commands that query an index, or make what to compare it with."""
    command(app, "search")(search)
    command(app, "range-search")(range_search)
    command(app, "eval")(evaluate_index)
    command(app, "groundtruth")(groundtruth)


def search(
    index: o.IndexDir,
    queries: o.QuerySource = None,
    k: o.K = 10,
    nprobe: o.Nprobe = None,
    recall: o.Recall = None,
    candidates: o.Candidates = None,
    filter: Filter = None,
    filter_column: FilterColumn = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Tell how a search under the filter goes, instead of its results."
        ),
    ] = False,
    out: Result = None,
    columns: ReturnedColumns = None,
    exclude_self: ExcludeSelf = False,
    memory: o.Memory = None,
    threads: o.Threads = None,
    id_column: o.IdColumn = None,
    vector_column: o.VectorColumn = None,
    format: o.Format = None,
    stats: Stats = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    server: Server = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    min_version: MinVersion = None,
) -> None:
    """Find the k nearest neighbours of every query, however many there are; resumable."""
    if out is not None and columns is None:
        check_output(out)
    check_one_output(out, json=json)
    if explain and filter is None:
        raise InvalidArgument("--explain tells how a search under a filter goes: give --filter")
    options = SearchOptions(
        k=k,
        nprobe=nprobe,
        recall=recall,
        candidates=candidates,
        exclude_own=exclude_self,
        filter=parse_filters(filter),
        filter_column=filter_column,
    )
    remote = remote_of(server, token_file, ca, tls_cert, tls_key, min_version=min_version)
    with _opened(
        index,
        queries,
        options,
        remote,
        memory=memory,
        threads=threads,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
    ) as (searched, source):
        if explain:
            explain_answer(searched, source, options, json=json)
        elif columns is None and not _gives_texts(searched, out, json=json):
            answer(searched, source, options, out, stats=stats, json=json, quiet=quiet)
        else:
            answer_with_columns(searched, source, options, columns, out, json=json, quiet=quiet)


def _gives_texts(searched: Searchable, out: Path | None, *, json: bool) -> bool:
    """Whether the index's ids are texts, and the output can hold them."""
    if not searched.has_text_ids:
        return False
    return not json if out is None else out.suffix.lower() in TABLE_FORMATS


def range_search(
    index: o.IndexDir,
    radius: Annotated[
        float, o.unset("Squared L2 below it (l2), or similarity above it (ip, cosine).")
    ],
    queries: o.QuerySource = None,
    nprobe: o.Nprobe = None,
    recall: o.Recall = None,
    filter: Filter = None,
    filter_column: FilterColumn = None,
    out: RangeResult = None,
    columns: ReturnedColumns = None,
    exclude_self: ExcludeSelf = False,
    memory: o.Memory = None,
    threads: o.Threads = None,
    id_column: o.IdColumn = None,
    vector_column: o.VectorColumn = None,
    format: o.Format = None,
    stats: Stats = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    server: Server = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    min_version: MinVersion = None,
) -> None:
    """Find all vectors within a radius of every query, however many there are; resumable."""
    if out is not None and columns is None:
        check_output(out, within_radius=True)
    check_one_output(out, json=json)
    options = SearchOptions(
        radius=radius,
        nprobe=nprobe,
        recall=recall,
        exclude_own=exclude_self,
        filter=parse_filters(filter),
        filter_column=filter_column,
    )
    remote = remote_of(server, token_file, ca, tls_cert, tls_key, min_version=min_version)
    with _opened(
        index,
        queries,
        options,
        remote,
        memory=memory,
        threads=threads,
        id_column=id_column,
        vector_column=vector_column,
        format=format,
    ) as (searched, source):
        if columns is None and not _gives_texts(searched, out, json=json):
            answer(searched, source, options, out, stats=stats, json=json, quiet=quiet)
        else:
            answer_with_columns(searched, source, options, columns, out, json=json, quiet=quiet)


@contextmanager
def _opened(
    index: o.IndexDir,
    queries: list[str] | None,
    options: SearchOptions,
    remote: Remote | None,
    *,
    memory: str | None,
    threads: int | None,
    id_column: str | None,
    vector_column: str | None,
    format: str | None,
) -> Iterator[tuple[Searchable, Source]]:
    """What is searched, and the queries: INDEX and QUERIES, or all of them QUERIES for a server.

    Queries that are indexed vectors have the index's ids, unless an id column is named. So a
    result's queries and its ids are of one kind, and a vector is known as its own neighbour.
    """
    paths = [str(index), *(queries or [])] if remote is not None else queries
    if not paths:
        raise InvalidArgument("INDEX and QUERIES expected, or --server and QUERIES")

    def rows(column: str | None) -> Source:
        kept = () if options.filter_column is None else (options.filter_column,)
        return open_rows(
            paths, id_column=column, vector_column=vector_column, format=format, columns=kept
        )

    def source_of(made_of: Callable[[], dict[str, Any]]) -> Source:
        if id_column is not None:
            return rows(id_column)
        return with_index_ids(made_of(), rows, options.exclude_own)

    if remote is not None:
        with remote.open(paths[0], memory) as served:
            yield served, source_of(lambda: served.source)
        return
    source = source_of(lambda: read_manifest(IndexPaths(index)).source)
    with open_index(index, memory=memory, threads=threads) as opened:
        yield opened, source


def evaluate_index(
    indexes: Annotated[
        list[str],
        typer.Argument(
            metavar="INDEX... QUERIES GROUNDTRUTH",
            help="One index or several; then the file of queries; then that of their exact "
            "neighbours: .ibin .bin .npz .ivecs .npy .parquet, or one of these by another name.",
            show_default=False,
        ),
        PLACES_AND_TWO,
    ],
    k: o.K = 10,
    nprobe: Annotated[
        str | None, o.unset("Numbers of lists to try.  [default: 1,4,16,64 without --recall]")
    ] = None,
    recall: Annotated[
        str | None,
        o.unset("Recalls to ask for, as 0.8,0.9, after the nprobes; needs a calibrated index."),
    ] = None,
    candidates: o.Candidates = None,
    plot: Annotated[
        Path | None, o.unset("Draw the curves as .png, .svg or .pdf; needs teravec[plot].")
    ] = None,
    truth_format: o.TruthFormat = None,
    memory: o.Memory = None,
    threads: o.Threads = None,
    vector_column: o.QueryVectors = None,
    format: o.Format = None,
    json: o.Json = False,
) -> None:
    """Measure recall, speed and bytes read against nprobe, or against the recall asked for.

    Every search reads its lists again. Several indexes share a table and a plot.
    """
    if len(indexes) < 3:
        raise InvalidArgument(
            f"{counted(len(indexes), 'paths')} found; INDEX..., QUERIES and GROUNDTRUTH expected"
        )
    *places, queries, truth = indexes
    nprobes = None if nprobe is None else parse_numbers(nprobe, "nprobe")
    recalls = None if recall is None else parse_decimals(recall, "recall")
    if plot is not None:
        check_plot(plot)
    neighbors = read_neighbors(Path(truth), truth_format)
    with nullcontext() if plot is None else hold_file(plot):
        results = measuring.evaluate(
            places,
            queries,
            neighbors,
            k,
            nprobe=nprobes,
            recall=recalls,
            candidates=candidates,
            vector_column=vector_column,
            format=format,
            memory=memory,
            threads=threads,
        )
        if plot is not None:
            names = ", ".join(results.indexes)
            results.plot(plot, f"{names}, {counted(len(neighbors.ids), 'queries')}")
    if not json:
        print_table(results.table())
    elif len(places) == 1:
        found = [asdict(r) for r in results]
        print_json({"index": results.indexes[0], "k": k, "results": found})
    else:
        print_json({"indexes": results.indexes, "k": k, "results": [asdict(r) for r in results]})


def groundtruth(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA... QUERIES",
            help="Vectors to search, then the queries.",
            show_default=False,
        ),
        FILES,
    ],
    out: Annotated[Path, o.unset("Result file, as GT.ibin.", "--out", "-o")],
    k: o.K = 100,
    metric: o.Metric = "l2",
    memory: o.Memory = None,
    threads: o.Threads = None,
    id_column: o.IdColumn = None,
    vector_column: o.VectorColumn = None,
    query_column: o.QueryColumn = None,
    format: o.Format = None,
    skip_bad: o.SkipBad = False,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    address: o.Address = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Find the exact neighbours by brute force, in bounded memory; resumable."""
    if len(data) < 2:
        raise InvalidArgument("only one path found; DATA... and QUERIES expected")
    check_output(out)
    check_one_output(out, json=json)
    source = open_source(
        data[:-1],
        id_column=id_column,
        vector_column=vector_column,
        format=format,
        skip_bad=skip_bad,
    )
    to_stdout = is_stdout(out)
    bars = Bars(quiet=quiet or json or to_stdout)
    distances, ids = measuring.groundtruth(
        source,
        data[-1],
        k,
        metric=metric,
        out=None if to_stdout else out,
        query_column=query_column,
        vector_column=vector_column,
        format=format,
        memory=memory,
        threads=threads,
        progress=bars,
        engine=engine,
        workers=workers,
        address=address,
    )
    if to_stdout:
        print_texts(out, 0, FoundArrays.of_rows(distances, ids))
        return
    skipped = measuring.skipped_rows(out)
    if json:
        print_json(
            {
                "out": str(out),
                "queries": len(ids),
                "k": k,
                "skipped": skipped,
                "stages": bars.summary(),
            }
        )
    else:
        if skipped:
            print(f"{out}.skipped.json: {skipped:,} rows that are no vectors were left out")
        print(
            f"{out}: {counted(k, 'exact neighbours')} of {counted(len(ids), 'queries')} among "
            f"{counted(source.ntotal, 'vectors')}"
        )
