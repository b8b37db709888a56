"""Evaluations of one index or of several: a table, and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from teravec.arguments import PathArgument, path_of
from teravec.evaluation.evaluation import Evaluation
from teravec.evaluation.plotting import check_plot, draw, figure_of
from teravec.report import Report

__all__ = ["Evaluations"]


class Evaluations(Report[Evaluation]):
    """What ``evaluate`` measured: a sequence of ``Evaluation``."""

    @property
    def indexes(self) -> tuple[str, ...]:
        """Names of the indexes, in order."""
        return tuple(dict.fromkeys(row.index for row in self))

    def of(self, index: str) -> Evaluations:
        """Return the rows of one index."""
        return Evaluations(row for row in self if row.index == index)

    def table(self) -> Table:
        """Return recall, speed and bytes of each effort, as a table for a terminal."""
        k = self[0].k if self else 0
        # Without padding at its edges it fits into 80 columns, which is what a pipe has.
        table = Table(title=f"recall@{k}, speed and bytes read", pad_edge=False)
        several = len(self.indexes) > 1
        if several:
            table.add_column("index")
        for heading in (
            "asked",
            "nprobe",
            "lists",
            f"recall@{k}",
            "queries/s",
            "p50 ms",
            "p99 ms",
            "bytes/query",
        ):
            table.add_column(heading, justify="right")
        for r in self:
            table.add_row(
                *([r.index] if several else []),
                "" if r.asked is None else f"{r.asked:g}",
                f"{r.nprobe:,}",
                f"{r.lists_per_query:,.1f}",
                f"{r.recall:.4f}",
                f"{r.queries_per_s:,.0f}",
                f"{1e3 * r.latency_p50_s:.2f}",
                f"{1e3 * r.latency_p99_s:.2f}",
                f"{r.bytes_per_query:,.0f}",
            )
        return table

    def plot(self, path: PathArgument | None = None, title: str | None = None) -> Any:
        """Draw recall against speed and against bytes read, a curve for each index.

        Parameters
        ----------
        path : path-like, optional
            Write the drawing to this .png, .svg or .pdf file. Not given: return the figure, which
            a notebook shows.
        title : str, optional
            Not given: the names of the indexes.

        Returns
        -------
        matplotlib.figure.Figure or None

        Raises
        ------
        InvalidArgument
            There is nothing to draw, matplotlib is missing (``pip install 'teravec[plot]'``), or
            the extension is unknown.
        """
        shown = ", ".join(self.indexes) if title is None else title
        if path is None:
            return figure_of(self, shown)
        place: Path = path_of(path, "path")
        check_plot(place)
        draw(self, shown, place)
        return None
