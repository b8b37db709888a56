"""advise: which codec, transform and number of lists."""

from __future__ import annotations

from typing import Annotated

import typer

from teravec import predicting
from teravec.advising.advice import Advice
from teravec.arguments import real_number
from teravec.bars import Bars, counted
from teravec.changing import parse_age
from teravec.cli import options as o
from teravec.cli.running import command, print_json
from teravec.cli.stats_table import print_table
from teravec.errors import InvalidArgument

__all__ = ["Machine", "add_advise_command", "parse_latency"]

Machine = Annotated[
    str | None,
    o.unset(
        "Machine whose speeds are taken: epyc, epyc-16, epyc-16-network, or this, as plan "
        "--calibrate measured it.  [default: this, if it was measured, else epyc]"
    ),
]


def add_advise_command(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "advise")(advise)


def advise(
    data: o.Data,
    recall: Annotated[
        float, typer.Option(help="Recall of the k nearest that searches will ask for.")
    ] = 0.95,
    k: o.K = 10,
    memory: Annotated[
        str | None,
        o.unset(
            "Memory of the machine that builds and searches, as 8GiB: half of it keeps lists.  "
            "[default: every query reads from disk]"
        ),
    ] = None,
    bytes_per_vector: Annotated[
        float | None, o.unset("Most bytes of the index for each vector.")
    ] = None,
    latency: Annotated[
        str | None,
        o.unset("Most time of a query alone, as 10ms; the smallest index that meets it is best."),
    ] = None,
    queries: Annotated[
        str | None,
        o.unset("File of typical queries.  [default: vectors of the data, outside the sample]"),
    ] = None,
    metric: o.Metric = "l2",
    nlist: o.Nlist = "auto",
    codecs: Annotated[
        str | None, o.unset("Try only these, as sq8,sq6.  [default: those that are usual]")
    ] = None,
    transform: o.Transform = None,
    seconds: Annotated[float, typer.Option(help="Time limit; what is begun is finished.")] = 300.0,
    machine: Machine = None,
    threads: o.Threads = None,
    vector_column: o.VectorColumn = None,
    query_column: o.QueryColumn = None,
    format: o.Format = None,
    skip_bad: o.SkipBad = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Try codecs and lists on a sample; foresee size, recall, bytes and time of full indexes."""
    advice = predicting.advise(
        data,
        recall=recall,
        k=k,
        memory=memory,
        bytes_per_vector=bytes_per_vector,
        latency=None if latency is None else parse_latency(latency),
        queries=queries,
        metric=metric,
        nlist=nlist,
        codecs=codecs,
        transform=transform,
        seconds=seconds,
        machine=machine,
        threads=threads,
        vector_column=vector_column,
        query_column=query_column,
        format=format,
        skip_bad=skip_bad,
        progress=Bars(quiet=quiet or json),
    )
    if json:
        print_json(advice.content())
        return
    print_table(advice.table())
    for line in explain(advice):
        print(line)


def parse_latency(text: str) -> float:
    """Parse a time such as 10ms or 0.5s; return seconds."""
    if text.strip().lower().endswith("ms"):
        try:
            return real_number(float(text.strip()[:-2]), "latency", 1e-6) / 1e3
        except ValueError:
            raise InvalidArgument(f"latency is {text!r}; a time as 10ms expected") from None
    return parse_age(text).total_seconds()


def explain(advice: Advice) -> list[str]:
    """Return lines that say what the table rests on, and what to do."""
    basis, lines = advice.basis, []
    compared = "all" if basis["compared"] == basis["ntotal"] else f"{basis['compared']:,}"
    lines.append(
        f"from {basis['sampled']:,} of {basis['ntotal']:,} vectors, and the neighbours of "
        f"{counted(basis['queries'], 'queries')} among {compared}; "
        f"{basis['lists_tried']:,} lists tried; {basis['seconds']:,.0f} s"
    )
    if advice.untried:
        lines.append(f"no time was left for {'; '.join(advice.untried)}: give more --seconds")
    if advice.command is not None:
        return [*lines, f"best: {advice.command}"]
    if not len(advice):
        return lines
    highest = max(row.highest_recall for row in advice)
    asked = advice.bounds.recall
    if highest < asked:
        return [*lines, f"none reaches recall {asked:g}: at most {highest:.3f} is in reach"]
    return [*lines, "none meets every bound: the last column says which it misses"]
