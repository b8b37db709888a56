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

__all__ = ["check_plot", "draw"]

_EXTENSIONS = (".png", ".svg", ".pdf")
_COLOR, _GREY = "#1f5fa8", "#6b6b6b"


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
        Name of the index.
    path : Path
        Replaced if it exists; its extension chooses the format.
    """
    _import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ordered = sorted(results, key=lambda result: result.nprobe)
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    speed, cost = figure.subplots(1, 2, sharey=True)
    _panel(speed, ordered, lambda r: r.queries_per_s, side="left", shown=lambda v, _: f"{v:,.0f}")
    speed.set_xlabel("queries a second, all in one batch (right is better)")
    _panel(cost, ordered, lambda r: r.bytes_per_query, side="right", shown=_bytes)
    cost.set_xlabel("bytes read for a query alone (left is better)")
    speed.set_ylabel(f"recall@{ordered[0].k}; numbers at the points: nprobe")
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=150)
    with publishing(path) as file:
        write_all(file, drawn.getvalue(), 0)


def _panel(
    axes: Axes,
    results: Sequence[Evaluation],
    value: Callable[[Evaluation], float],
    side: str,
    shown: Callable[[float, Any], str],
) -> None:
    """Draw one curve on a logarithmic axis, with labels below it on its free side."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    recalls, values = [r.recall for r in results], [value(r) for r in results]
    axes.plot(values, recalls, marker="o", color=_COLOR, linewidth=1.8, markersize=5)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.08)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    # One label per decade is too few if the curve spans less than two decades.
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(shown))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=9)
    for result, x in zip(results, values, strict=True):
        axes.annotate(
            f"{result.nprobe:,}",
            (x, result.recall),
            xytext=(-5 if side == "left" else 5, -5),
            textcoords="offset points",
            ha="right" if side == "left" else "left",
            va="top",
            fontsize=9,
            color=_GREY,
        )


def _bytes(value: float, _: Any) -> str:
    return decimal(int(value)).replace(".0 ", " ")
