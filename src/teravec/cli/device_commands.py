"""bench-disk."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from teravec.bars import Bars
from teravec.cli import options as o
from teravec.cli.running import command, print_json
from teravec.cli.stats_table import print_table
from teravec.errors import OutputExists, StorageError
from teravec.index.manifest import read_manifest
from teravec.memory import parse_bytes
from teravec.storage.device import DEPTHS, DeviceProfile, measure_device
from teravec.storage.device_cache import keep_profile
from teravec.storage.layout import IndexPaths
from teravec.storage.output_lock import hold_directory

__all__ = ["add_device_commands"]

_LARGE_ENOUGH = 256 << 20  # a slice too large for most caches between kernel and disk


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
    paths = IndexPaths(path)
    is_index = paths.manifest.exists()
    target = path
    if is_index:
        largest = max(read_manifest(paths).slices, key=lambda entry: entry.size)
        read_only = not os.access(path, os.W_OK | os.X_OK)
        target = path / largest.file if largest.size >= _LARGE_ENOUGH or read_only else path
    with hold_directory(path) if is_index and not read_only else nullcontext():
        profile = measure_device(
            target,
            seconds=seconds,
            scratch_bytes=parse_bytes(size),
            progress=Bars(quiet=quiet or json),
        )
    kept, why_not = _keep(profile, paths.root / paths.slices.name if is_index else path)
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


def _keep(profile: DeviceProfile, path: Path) -> tuple[Path | None, str]:
    """Save the result for this file system; return the file, or the reason why there is none."""
    try:
        return keep_profile(profile, path), ""
    except (StorageError, OutputExists) as error:
        return None, str(error)


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
