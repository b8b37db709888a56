"""Plots of recall against speed and bytes read; the only module that uses matplotlib."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from teravec.arguments import install
from teravec.errors import InvalidArgument
from teravec.evaluation.evaluation import Evaluation
from teravec.storage.files import publishing, write_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_plot", "draw", "figure_of"]

_EXTENSIONS = (".png", ".svg", ".pdf")
_GREY = "#6b6b6b"
# Distinct in print and to colour-blind readers: Okabe and Ito, 2008, darkened for contrast.
_COLORS = ("#1f5fa8", "#c4500c", "#1b7f5c", "#9a4f86", "#6b6b00", "#3a8fb7")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def check_plot(path: Path) -> None:
    """Refuse a plot that could not be drawn, before any other work.

    Raises
    ------
    InvalidArgument
        matplotlib is missing, or the extension is unknown.
    """
    if path.suffix.lower() not in _EXTENSIONS:
        raise InvalidArgument(
            f"{path}: extension {path.suffix!r} found, plots are drawn as {', '.join(_EXTENSIONS)}"
        )
    if not path.parent.is_dir():
        raise InvalidArgument(f"{path}: cannot write: no directory {path.parent}")
    _check_matplotlib()


def _check_matplotlib() -> None:
    try:
        _import_matplotlib()
    except ImportError as error:
        raise InvalidArgument(
            f"drawing needs matplotlib, which is not installed: {install('plot')}"
        ) from error


def _import_matplotlib() -> None:
    """Import matplotlib whatever MPLBACKEND says: plots go to files, not to a window."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named


def draw(results: Sequence[Evaluation], title: str, path: Path) -> None:
    """Draw recall against queries a second, and against bytes read a query.

    Parameters
    ----------
    results : sequence of Evaluation
    title : str
    path : Path
        Replaced if it exists; its extension chooses the format.
    """
    drawn = io.BytesIO()
    figure_of(results, title).savefig(drawn, format=path.suffix[1:].lower(), dpi=150)
    with publishing(path) as file:
        write_all(file, drawn.getvalue(), 0)


def figure_of(results: Sequence[Evaluation], title: str) -> Figure:
    """Draw both panels into a figure: a curve for each index, by recall.

    Raises
    ------
    InvalidArgument
        There are no results, or matplotlib is missing.
    """
    if not results:
        raise InvalidArgument("no evaluations to draw; at least one expected")
    _check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    speed, cost = figure.subplots(1, 2, sharey=True)
    _panel(speed, results, lambda r: r.queries_per_s, side="left", shown=lambda v, _: f"{v:,.0f}")
    speed.set_xlabel("queries a second, all in one batch (right is better)")
    _panel(cost, results, lambda r: r.bytes_per_query, side="right", shown=_bytes)
    cost.set_xlabel("bytes read for a query alone (left is better)")
    speed.set_ylabel(f"recall@{results[0].k}")
    figure.supxlabel("numbers at the points: nprobe, or the recall asked for", fontsize=9)
    if len({result.index for result in results}) > 1:
        speed.legend(fontsize=9, frameon=False)
    return figure


def _panel(
    axes: Axes,
    results: Sequence[Evaluation],
    value: Callable[[Evaluation], float],
    side: str,
    shown: Callable[[float, Any], str],
) -> None:
    """Draw a curve for each index on a logarithmic axis, with labels on its free side."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for number, name in enumerate(dict.fromkeys(result.index for result in results)):
        mine = sorted((r for r in results if r.index == name), key=lambda r: (r.recall, r.nprobe))
        color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
        points = [(value(r), r.recall) for r in mine]
        axes.plot(
            *zip(*points, strict=True),
            marker=marker,
            color=color,
            linewidth=1.8,
            markersize=5,
            label=name,
        )
        for result, point in zip(mine, points, strict=True):
            axes.annotate(
                f"{result.nprobe:,}" if result.asked is None else f"{result.asked:g} asked",
                point,
                xytext=(-5 if side == "left" else 5, -5),
                textcoords="offset points",
                ha="right" if side == "left" else "left",
                va="top",
                fontsize=9,
                color=_GREY,
            )
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.08)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    # One label per decade is too few if the curve spans less than two decades.
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(shown))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=9)


def _bytes(value: float, _: Any) -> str:
    return decimal(int(value)).replace(".0 ", " ")
