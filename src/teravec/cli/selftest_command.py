"""selftest: the same small build by every route of this installation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from teravec import checking
from teravec.cli import options as o
from teravec.cli.running import command, print_json
from teravec.cli.stats_table import print_table
from teravec.selftest.comparison import SelfTestResult

__all__ = ["add_selftest_command", "show_results"]


def add_selftest_command(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "selftest")(selftest)


def selftest(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA...]",
            help="Vectors to test with.  [default: random ones]",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="ray: a missing Ray is an error, not a line in the table.")
    ] = "local",
    workers: Annotated[int, typer.Option(help="Workers of the Ray route.")] = 2,
    address: Annotated[
        str | None, o.unset("Address of a Ray cluster.  [default: start Ray here]")
    ] = None,
    threads: o.Threads = None,
    format: o.Format = None,
    json: o.Json = False,
) -> None:
    """Build one small index by every route, and compare with plain Faiss; exit 1 if one differs."""
    results = checking.selftest(
        data or None,
        engine=engine,
        workers=workers,
        address=address,
        threads=threads,
        format=format,
    )
    if json:
        found = [_content(result) for result in results]
        print_json({"sound": results.sound, "results": found})
    else:
        show_results(results)
    if not results.sound:
        raise typer.Exit(1)


def _content(result: SelfTestResult) -> dict[str, Any]:
    content = asdict(result)
    return {k: None if isinstance(v, float) and isnan(v) else v for k, v in content.items()}


def show_results(results: Sequence[SelfTestResult]) -> None:
    """Print a table for each set of vectors."""
    for name in dict.fromkeys(result.set for result in results):
        table = Table("route", "objective", "imbalance", "s/iteration", "empty", "", title=name)
        for result in results:
            if result.set == name:
                table.add_row(result.route, *_numbers(result), _outcome(result))
        print_table(table)


def _numbers(result: SelfTestResult) -> tuple[str, ...]:
    if isnan(result.objective):
        return ("",) * 4
    return (
        f"{result.objective:,.6g}",
        f"{result.imbalance:.3f}",
        f"{result.seconds:.4f}",
        str(result.empty),
    )


def _outcome(result: SelfTestResult) -> str:
    # Escape brackets, as in 'teravec[gpu]', which rich would take for markup.
    return escape(f"FAILED: {result.fault}" if result.fault else result.note or "ok")
