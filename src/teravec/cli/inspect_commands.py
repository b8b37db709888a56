"""info, verify and export-faiss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from teravec.bars import Bars
from teravec.cli import options as o
from teravec.cli.running import as_typed, command, print_json
from teravec.index.export import export_faiss
from teravec.index.info import describe_index
from teravec.index.opened import OpenedIndex
from teravec.index.verify import verify as verify_index

__all__ = ["add_inspect_commands"]

_BAR = 40
_MEANING = {
    "l2": "squared distances, smaller is nearer",
    "ip": "inner products, larger is nearer",
    "cosine": "similarities, larger is nearer",
}


def add_inspect_commands(app: typer.Typer) -> None:
    """Register the commands that look at an index."""
    command(app, "info")(info)
    command(app, "verify")(verify)
    command(app, "export-faiss")(export)


def info(index: o.IndexDir, json: o.Json = False) -> None:
    """Show sizes, codec, imbalance and a histogram of list sizes."""
    with OpenedIndex(index) as opened:
        content = describe_index(opened)
    if json:
        print_json(content)
        return
    lists, sizes = content["lists"], content["bytes"]
    rows = {
        "vectors": f"{content['ntotal']:,} x {content['d']}",
        "metric": f"{content['metric']}: {_MEANING[content['metric']]}",
        "transform": f"{content['transform']} to {content['d_index']} dimensions",
        "codec": f"{content['codec']}, {content['code_size']} bytes a code"
        + (f", of which {content['sketch_size']} are scanned" if content["sketch_size"] else ""),
        **_clipped_row(content),
        "lists": f"{content['nlist']:,}, {content['quantizer']} coarse quantizer",
        "slices": f"{content['slices']}, {sizes['slices']:,} bytes",
        "model": f"{sizes['model']:,} bytes",
        "open": f"takes about {content['open_memory_bytes']:,} bytes of memory",
        "list size": f"mean {lists['mean']:,.1f}, largest {lists['largest']:,} "
        f"({lists['largest_bytes']:,} bytes), {lists['empty']:,} empty",
        "imbalance": f"{lists['imbalance']:.3f} (1 is even; scans cost this many times more)",
        **_limit_row(lists),
        "assignment": f"{100 * content['training']['assignment']['agreement']:.2f} % as exact",
        "calibrated": _calibrated(content["calibration"]),
        "written by": content["creator"],
    }
    for name, value in rows.items():
        print(f"{name:>11}  {value}")
    _print_histogram(lists["histogram"])


def _calibrated(calibration: dict[str, Any] | None) -> str:
    """Lists that recalls of the 10 nearest, or of what was measured, took on average."""
    if calibration is None:
        return "no; teravec calibrate does it"
    ks, points = calibration["ks"], calibration["points"]
    column = ks.index(10) if 10 in ks else len(ks) - 1
    reached = []
    for recall in (0.8, 0.9, 0.95, 0.98):
        lists = next((p["lists"] for p in points if p["recall"][column] >= recall), None)
        reached += [] if lists is None else [f"{recall:g} with {lists:,.1f}"]
    best = max(point["recall"][column] for point in points)
    return (
        f"recall@{ks[column]} {', '.join(reached)} lists; at most {best:.4f} measured, "
        f"on {calibration['queries']:,} queries ({calibration['origin']})"
    )


def _clipped_row(content: dict[str, Any]) -> dict[str, str]:
    """What to say of vectors that the codec could not hold, where there are any."""
    if not content["clipped"]:
        return {}
    share = 100 * content["clipped"] / content["ntotal"]
    return {
        "clipped": f"{content['clipped']:,} vectors ({share:.2g} %), outside of the sample's range"
    }


def _limit_row(lists: dict[str, Any]) -> dict[str, str]:
    """What to say of the limit on a list's bytes, where there is one."""
    if lists["max_bytes"] is None:
        return {}
    return {"list limit": f"{lists['max_bytes']:,} bytes, {lists['above']:,} lists above it"}


def _print_histogram(histogram: list[dict[str, int]]) -> None:
    print("\n  list size       lists")
    most = max(entry["lists"] for entry in histogram)
    for entry in histogram:
        span = f"{entry['from']:,}-{entry['to']:,}" if entry["to"] > entry["from"] else entry["to"]
        bar = "#" * round(_BAR * entry["lists"] / most)
        print(f"  {span!s:<15} {entry['lists']:>6,} {bar}")


def verify(index: o.IndexDir, json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Check every byte; exit 1 and name the file on damage."""
    bars = Bars(quiet=quiet or json)
    damages = verify_index(index, bars)
    if json:
        result: dict[str, Any] = {"index": str(index), "sound": not damages}
        told = [as_typed(str(damage)) for damage in damages]
        print_json(result | {"damages": told, "stages": bars.summary()})
    for damage in damages:
        print(f"teravec: {as_typed(str(damage))}", file=sys.stderr)
    if damages:
        raise typer.Exit(1)
    if not json:
        print(f"{index}: sound")


def export(
    index: o.IndexDir,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.", show_default=False)],
    json: o.Json = False, quiet: o.Quiet = False,
) -> None:  # fmt: skip
    """Write an index file that faiss.read_index opens, with the same results."""
    export_faiss(index, out, Bars(quiet=quiet or json))
    if json:
        print_json({"index": str(index), "out": str(out), "bytes": out.stat().st_size})
    else:
        print(f"{out}: open it with faiss.read_index")
