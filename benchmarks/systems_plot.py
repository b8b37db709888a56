"""Systems' points drawn: recall against speed, latency and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["draw"]

_PANELS = {
    "batch_qps": "warm batch, queries/s",
    "alone_qps": "warm, one by one, queries/s",
    "p50_ms": "cold single query, p50 ms",
    "mb": "cold single query, MB read",
}
_COLORS = {
    "teravec": "#1f5fa8",
    "teravec, two stages": "#4aa3df",
    "teravec, 256MiB": "#6f86c9",
    "teravec, two stages, 256MiB": "#7fcfe0",
    "Faiss in RAM": "#6b6b6b",
    "Faiss on disk": "#b0b0b0",
    "Faiss on disk, MADV_RANDOM": "#8a7a5c",
    "LanceDB IVF_SQ": "#d9822b",
    "DiskANN": "#a8325e",
}


def draw(found: dict[str, list[dict[str, Any]]], title: str, path: Path) -> None:
    """Draw a panel for each figure, a line for each system that has it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    for (field, label), axis in zip(_PANELS.items(), axes.flat, strict=True):
        for name, points in found.items():
            with_it = sorted((p["recall"], p[field]) for p in points if p.get(field))
            if with_it:
                axis.plot(*zip(*with_it, strict=True), "o-", ms=4, color=_COLORS[name], label=name)
        axis.set(xlabel="recall@10", ylabel=label, yscale="log", xlim=(0.7, 1.0))
        axis.grid(alpha=0.3, which="both")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    by_name = {
        label: line
        for axis in axes.flat
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(by_name.values(), by_name.keys(), loc="outside lower center", ncols=4)
    figure.suptitle(title)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)
