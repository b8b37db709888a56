"""The cost of a search, as a table."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console
from rich.filesize import decimal
from rich.measure import Measurement
from rich.table import Table

from teravec.search.stats import SearchStats
from teravec.storage.cache_counts import all_counts

__all__ = ["print_table", "stats_table"]

# Labels of the counters whose names need one.
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


def print_table(table: Table, *, to_stderr: bool = False) -> None:
    """Print a table in its full width, so that no number is cut in a narrow terminal or pipe."""
    console = Console(stderr=to_stderr)
    wide = console.options.update(width=1 << 16)
    needed = Measurement.get(console, wide, table).maximum
    console.width = max(console.width, needed)
    console.print(table, crop=False)


def stats_table(stats: SearchStats) -> Table:
    """Make a table of all counts and times, in total and per query."""
    values = asdict(stats)
    queries = values.pop("queries")
    table = Table(title=f"cost of {queries:,} queries")
    for heading in ("", "in all", "per query"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, value in values.items():
        label = _NAMES.get(name, name.removesuffix("_s").replace("_", " "))
        table.add_row(label, _shown(name, value), _shown(name, value / max(1, queries)))
    return table


def cache_table() -> Table:
    """Make a table of what caches on local disks did, for all searches of this process."""
    table = Table(title="caches on local disks")
    headings = ("", "hit rate", "from the cache", "from the store", "damaged")
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right")
    for directory, counts in all_counts().items():
        table.add_row(
            directory,
            f"{counts.hit_rate:.1%}",
            f"{counts.hits:,} blocks, {decimal(counts.hit_bytes)}",
            f"{counts.misses:,} blocks, {decimal(counts.miss_bytes)}",
            f"{counts.damaged:,}",
        )
    return table


def print_costs(stats: SearchStats, *, to_stderr: bool = False) -> None:
    """Print what searches cost, and what caches on local disks did for them."""
    print_table(stats_table(stats), to_stderr=to_stderr)
    if all_counts():
        print_table(cache_table(), to_stderr=to_stderr)


def _shown(name: str, value: float) -> str:
    if name.endswith("_s"):
        return f"{value:,.3f} s" if value >= 1 else f"{1e3 * value:,.3f} ms"
    if name.startswith("bytes") or name.endswith("bytes"):
        return decimal(int(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
