"""search, range-search, eval and groundtruth."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from teravec import api
from teravec.cli import options as o
from teravec.cli.bars import Bars
from teravec.cli.running import command, parse_numbers, print_json
from teravec.errors import InvalidArgument
from teravec.kernels.metric import Metric
from teravec.memory import require
from teravec.search.checkpoint import remove_checkpoint
from teravec.search.evaluation import Evaluation, evaluate
from teravec.search.groundtruth import groundtruth as exact_neighbors
from teravec.search.index import open_index
from teravec.search.results import check_output, read_neighbors, write_neighbors, write_range
from teravec.sources import open_source

__all__ = ["add_search_commands"]

Result = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Result file; its extension says the format: .npz "
                 ".parquet .ibin .bin .ivecs .npy.", show_default=False),
]  # fmt: skip
Stats = Annotated[bool, typer.Option("--stats", help="Print what the search cost.")]


def add_search_commands(app: typer.Typer) -> None:
    """Register the commands that query an index, or make what to compare it with."""
    command(app, "search")(search)
    command(app, "range-search")(range_search)
    command(app, "eval")(evaluate_index)
    command(app, "groundtruth")(groundtruth)


def search(
    index: o.IndexDir, queries: o.Queries, k: o.K = 10, nprobe: o.Nprobe = 16,
    out: Result = None, memory: o.Memory = None, threads: o.Threads = None, stats: Stats = False,
    json: o.Json = False,
) -> None:  # fmt: skip
    """Find the k nearest neighbours of every query."""
    if out is not None:
        check_output(out)
    with open_index(index, memory=memory, threads=threads) as opened:
        vectors = _read_queries(queries, memory)
        distances, ids = opened.search(vectors, k, nprobe)
        cost = asdict(opened.stats)
    if out is not None:
        write_neighbors(out, distances, ids)
    result: dict[str, Any] = {"queries": len(ids), "k": k}
    if out is None and json:
        result |= {"ids": ids.tolist(), "distances": _finite(distances)}
    if json:
        print_json(result | ({"stats": cost} if stats else {}))
        return
    if out is None:
        for number, (row, values) in enumerate(zip(ids, distances, strict=True)):
            found = " ".join(f"{i}:{v:.6g}" for i, v in zip(row, values, strict=True) if i != -1)
            print(f"{number}\t{found}")
    if stats:
        _print_stats(cost)


def range_search(
    index: o.IndexDir, queries: o.Queries,
    radius: Annotated[
        float,
        typer.Option(help="Squared L2 below it (l2), or similarity above it (ip, cosine).",
                     show_default=False),
    ],
    nprobe: o.Nprobe = 16, out: Result = None, memory: o.Memory = None,
    threads: o.Threads = None, stats: Stats = False, json: o.Json = False,
) -> None:  # fmt: skip
    """Find all vectors within a radius of every query."""
    if out is not None:
        check_output(out, within_radius=True)
    with open_index(index, memory=memory, threads=threads) as opened:
        vectors = _read_queries(queries, memory)
        lims, distances, ids = opened.range_search(vectors, radius, nprobe)
        cost = asdict(opened.stats)
    if out is not None:
        write_range(out, lims, distances, ids)
    result: dict[str, Any] = {"queries": len(lims) - 1, "radius": radius, "results": len(ids)}
    if json:
        if out is None:
            lists = {"lims": lims.tolist(), "ids": ids.tolist(), "distances": _finite(distances)}
            result |= lists
        print_json(result | ({"stats": cost} if stats else {}))
        return
    if out is None:
        for number in range(len(lims) - 1):
            part = slice(lims[number], lims[number + 1])
            found = zip(ids[part], distances[part], strict=True)
            print(f"{number}\t" + " ".join(f"{i}:{v:.6g}" for i, v in found))
    if stats:
        _print_stats(cost)


def evaluate_index(
    index: o.IndexDir, queries: o.Queries,
    truth: Annotated[
        Path,
        typer.Argument(metavar="GROUNDTRUTH", help="Exact neighbours: .ibin .bin .npz .ivecs .npy "
                       ".parquet.", show_default=False),
    ],
    k: o.K = 10,
    nprobe: Annotated[str, typer.Option(help="Numbers of lists to try.")] = "1,4,16,64",
    memory: o.Memory = None, threads: o.Threads = None, json: o.Json = False,
) -> None:  # fmt: skip
    """Measure recall, speed and bytes read against nprobe; every search reads its lists again."""
    nprobes = parse_numbers(nprobe, "nprobe")
    neighbors = read_neighbors(truth)
    with open_index(index, memory=memory, threads=threads, keep_lists=False) as opened:
        results = evaluate(opened, _read_queries(queries, memory), neighbors, k, nprobes)
    if json:
        print_json({"index": str(index), "k": k, "results": [r.to_dict() for r in results]})
    else:
        Console().print(_evaluation_table(results, k))


def groundtruth(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA... QUERIES", help="Vectors to search, then the queries.",
                       show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Result file, as GT.ibin.", show_default=False)
    ],
    k: o.K = 100, metric: o.Metric = "l2", memory: o.Memory = None, threads: o.Threads = None,
    id_column: o.IdColumn = None, vector_column: o.VectorColumn = None, json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:  # fmt: skip
    """Find the exact neighbours by brute force, in bounded memory; resumable."""
    if len(data) < 2:
        raise InvalidArgument("only one path found; DATA... and QUERIES expected")
    check_output(out)
    resources = api.resources(memory, threads, Bars(quiet=quiet or json))
    source = open_source(data[:-1], id_column=id_column, vector_column=vector_column)
    checkpoint = out.with_name(out.name + ".partial")
    distances, ids = exact_neighbors(
        source, _read_queries(data[-1], memory), k, metric=Metric.parse(metric),
        memory_bytes=resources.memory_bytes, threads=resources.threads,
        progress=resources.progress, checkpoint=checkpoint,
    )  # fmt: skip
    write_neighbors(out, distances, ids)
    remove_checkpoint(checkpoint)
    if json:
        print_json({"out": str(out), "queries": len(ids), "k": k})
    else:
        print(
            f"{out}: {k} exact neighbours of {len(ids):,} queries among {source.ntotal:,} vectors"
        )


def _read_queries(path: str, memory: str | None) -> npt.NDArray[np.float32]:
    source = open_source(path)
    limit = api.resources(memory, None, None).memory_bytes
    require(source.ntotal * source.d * 4, limit, f"holding the queries of {path}")
    vectors: npt.NDArray[np.float32] = source.read(0, source.ntotal)
    return vectors


def _finite(values: npt.NDArray[np.float32]) -> Any:
    """Distances for JSON, which has no infinity: a missing result has null."""
    rows = values.tolist()
    if values.ndim == 1:
        return [v if math.isfinite(v) else None for v in rows]
    return [[v if math.isfinite(v) else None for v in row] for row in rows]


def _print_stats(cost: dict[str, Any]) -> None:
    for name, value in cost.items():
        print(f"{name:>14} {value:,.3f}" if isinstance(value, float) else f"{name:>14} {value:,}")


def _evaluation_table(results: list[Evaluation], k: int) -> Table:
    table = Table(title=f"recall@{k}, speed and bytes read")
    for heading in ("nprobe", f"recall@{k}", "queries/s", "p50 ms", "p99 ms", "bytes/query"):
        table.add_column(heading, justify="right")
    for r in results:
        table.add_row(
            f"{r.nprobe:,}", f"{r.recall:.4f}", f"{r.queries_per_s:,.0f}",
            f"{1e3 * r.latency_p50_s:.2f}", f"{1e3 * r.latency_p99_s:.2f}",
            f"{r.bytes_per_query:,.0f}",
        )  # fmt: skip
    return table
