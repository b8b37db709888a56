"""bench-disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from teravec.bars import Bars
from teravec.checking import measure_disk
from teravec.cli import options as o
from teravec.cli.running import command, print_json
from teravec.cli.stats_table import print_table
from teravec.memory import parse_bytes
from teravec.storage.device import DEPTHS, DeviceProfile

__all__ = ["add_device_commands"]


def add_device_commands(app: typer.Typer) -> None:
    """Register the commands that measure disks."""
    command(app, "bench-disk")(bench_disk)


def bench_disk(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="Index, whose largest slice is read; or a file to read; or a directory, for a "
            "scratch file. The result is kept in the user's cache directory, and searches use "
            "it for every index on the same file system.",
        ),
    ],
    seconds: Annotated[float, typer.Option(help="Time to read for, in all.")] = 10.0,
    size: Annotated[str, typer.Option(help="Size of a scratch file.")] = "1GiB",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure how fast the disk reads, cold: in order, and at random by size and depth."""
    profile, kept, why_not = measure_disk(
        path, seconds, parse_bytes(size), Bars(quiet=quiet or json)
    )
    if json:
        print_json({"path": str(path), **profile.to_dict(), "kept": kept is not None})
        return
    for table in _tables(profile):
        print_table(table)
    _print_advice(profile)
    if kept is None:
        print(f"not saved, so searches do not use it: {why_not}")
    else:
        print(f"saved in {kept}")


def _tables(profile: DeviceProfile) -> list[Table]:
    random = {(r.method, r.block_bytes, r.depth): r for r in profile.rates if not r.sequential}
    tables = []
    for method in dict.fromkeys(method for method, _, _ in random):
        table = Table(title=f"{method}: MB/s of random reads, by reads in flight")
        for heading in ("block", *map(str, DEPTHS)):
            table.add_column(heading, justify="right")
        for block in dict.fromkeys(block for _, block, _ in random):
            rates = (random[method, block, depth] for depth in DEPTHS)
            cells = (f"{rate.bytes_per_s / 1e6:,.0f}" for rate in rates)
            table.add_row(f"{block >> 10:,} KiB", *cells)
        tables.append(table)
    return tables


def _print_advice(profile: DeviceProfile) -> None:
    for rate in profile.rates:
        if rate.sequential:
            print(f"{rate.method}, in order: {rate.bytes_per_s / 1e6:,.0f} MB/s")
    for method, why in profile.unavailable.items():
        print(f"{method}: not measured: {why}")
    if profile.cold is False:
        print("this file stays in the page cache: these are rates of memory, not of a disk")
    chosen, best = profile.recommended, profile.best
    wait_s = profile.cost_model(depth=1)[0]
    print(
        f"at random three settings reach {best.bytes_per_s / 1e6:,.0f} MB/s; enough: "
        f"{chosen.method}, {chosen.block_bytes >> 10:,} KiB, {chosen.depth} in flight, "
        f"{chosen.bytes_per_s / 1e6:,.0f} MB/s"
    )
    print(
        f"a lone read waits {1e6 * wait_s:,.0f} us; one read is cheaper than two across a gap "
        f"of up to {profile.worthwhile_gap_bytes:,} bytes"
    )
