"""What a search cost, as a table."""

from __future__ import annotations

from dataclasses import asdict

from rich.filesize import decimal
from rich.table import Table

from teravec.search.stats import SearchStats

__all__ = ["stats_table"]

# Of those whose own names do not say it.
_NAMES = {
    "lists_wanted": "lists scanned",
    "lists_read": "lists read",
    "lists_cached": "lists in the cache",
    "codes_scanned": "codes scanned",
    "bytes_read": "bytes read",
    "coarse_s": "finding lists",
    "wait_s": "waiting for the disk",
    "scan_s": "scanning",
}


def stats_table(stats: SearchStats) -> Table:
    """Every count and time, in all and for a query."""
    values = asdict(stats)
    queries = values.pop("queries")
    table = Table(title=f"cost of {queries:,} queries")
    for heading in ("", "in all", "a query"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, value in values.items():
        label = _NAMES.get(name, name.removesuffix("_s").replace("_", " "))
        table.add_row(label, _shown(name, value), _shown(name, value / max(1, queries)))
    return table


def _shown(name: str, value: float) -> str:
    if name.endswith("_s"):
        return f"{value:,.3f} s" if value >= 1 else f"{1e3 * value:,.3f} ms"
    if name.startswith("bytes") or name.endswith("bytes"):
        return decimal(int(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
