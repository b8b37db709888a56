"""info, verify and export-faiss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from teravec import checking
from teravec.bars import Bars, counted
from teravec.cli import options as o
from teravec.cli.id_options import read_id_numbers
from teravec.cli.running import as_typed, command, print_json
from teravec.index.erasure import find_ids
from teravec.index.manifest import describe_repeated, read_manifest
from teravec.index.verify import verify as verify_index
from teravec.interchange.export import export_faiss
from teravec.storage.layout import IndexPaths

__all__ = ["add_inspect_commands"]

_BAR = 40
_MEANING = {
    "l2": "squared distances, smaller is nearer",
    "ip": "inner products, larger is nearer",
    "cosine": "similarities, larger is nearer",
}
_CALIBRATE = "teravec calibrate INDEX --data DATA makes one"
_FILES = 10  # files shown at the start of the list, and as many at its end


def add_inspect_commands(app: typer.Typer) -> None:
    """Register the commands that inspect an index."""
    command(app, "info")(info)
    command(app, "verify")(verify)
    command(app, "export-faiss")(export)


def _hidden(content: dict[str, Any]) -> str:
    """What the count of vectors includes that no search finds."""
    deleted = content["deleted_ids"]
    return f", of which up to {deleted:,} are deleted" if deleted else ""


def info(index: o.IndexDir, json: o.Json = False) -> None:
    """Show sizes, codec, imbalance and a histogram of list sizes."""
    content = checking.info(index)
    why = content["shortfall"]
    if json:
        print_json(content)
        return
    lists, sizes = content["lists"], content["bytes"]
    rows = {
        "vectors": f"{content['ntotal']:,} x {content['d']}" + _hidden(content),
        "metric": f"{content['metric']}: {_MEANING[content['metric']]}",
        "transform": f"{content['transform']} to {content['d_index']} dimensions",
        "codec": f"{content['codec']}, {content['code_size']} bytes a code"
        + (f", of which {content['sketch_size']} are scanned" if content["sketch_size"] else ""),
        **_clipped_row(content),
        "lists": f"{content['nlist']:,}, {content['quantizer']} coarse quantizer",
        "slices": f"{content['slices']}, {sizes['slices']:,} bytes",
        "model": f"{sizes['model']:,} bytes",
        "open": f"takes about {content['open_memory_bytes']:,} bytes of memory",
        **_ids_row(content),
        "list size": f"mean {lists['mean']:,.1f}, largest {lists['largest']:,} "
        f"({lists['largest_bytes']:,} bytes), {lists['empty']:,} empty",
        "imbalance": f"{lists['imbalance']:.3f} (1 is even; scans cost this many times more)",
        **_limit_row(lists),
        "assignment": f"{100 * content['training']['assignment']['agreement']:.2f} % as exact",
        "calibrated": _calibrated(content["calibration"]),
        **({"shortfall": why} if why else {}),
        **_skipped_row(content["source"]),
        "written by": content["creator"],
    }
    for name, value in rows.items():
        print(f"{name:>11}  {value}")
    _print_columns(content["columns"])
    _print_histogram(lists["histogram"])
    _print_files(content["source"]["files"])


def _print_columns(columns: list[dict[str, Any]] | None) -> None:
    """Print a row for each column that the index keeps."""
    if columns is None:
        return
    inverted = any("inverted_bytes" in column for column in columns)
    print(f"\n  {'column':<20} {'type':<30} {'bytes':>15}" + f"{'inverted':>15}" * inverted)
    for column in columns:
        kind = column["type"] + ("" if column.get("nullable", True) else ", no nulls")
        line = f"  {column['name']:<20} {kind:<30} {column['bytes']:>15,}"
        print(line + (f"{column['inverted_bytes']:>15,}" if "inverted_bytes" in column else ""))


def _calibrated(calibration: dict[str, Any] | None) -> str:
    """Summarise a calibration: mean lists for some recalls of the 10 nearest (or the next k)."""
    if calibration is None:
        return f"no; {_CALIBRATE}"
    reach, points = calibration["reach"], calibration["points"]
    column = calibration["ks"].index(reach["k"])
    reached = []
    for recall in (0.8, 0.9, 0.95, 0.98):
        lists = next((p["lists"] for p in points if p["recall"][column] >= recall), None)
        reached += [] if lists is None else [f"{recall:g} with {lists:,.1f}"]
    taken = f"{', '.join(reached)} lists; " if reached else ""
    with_lists = "" if reached else f" with {reach['lists']:,.1f} lists"
    stopped = calibration.get("stopped_s")
    return (
        f"recall@{reach['k']} {taken}at most {reach['highest']:.4f} measured{with_lists}, "
        f"on {calibration['queries']:,} queries ({calibration['origin']})"
        + ("" if stopped is None else f"; stopped after {stopped:,.0f} s")
        + _since(calibration["since"])
    )


def _since(since: dict[str, Any]) -> str:
    """Say what has changed since a calibration, if anything has."""
    changed = [f"{counted(since['added'], 'rows')} added"] * bool(since["added"])
    changed += [f"{counted(since['deleted'], 'ids')} deleted"] * bool(since["deleted"])
    changed += ["lists split or joined"] * since["another_model"]
    return f"; since version {since['version']}: {', '.join(changed)}" if changed else ""


def _clipped_row(content: dict[str, Any]) -> dict[str, str]:
    """Return the row about clipped vectors, if there are any."""
    if not content["clipped"]:
        return {}
    share = 100 * content["clipped"] / content["ntotal"]
    clipped = counted(content["clipped"], "vectors")
    return {"clipped": f"{clipped} ({share:.2g} %), outside of the sample's range"}


def _ids_row(content: dict[str, Any]) -> dict[str, str]:
    """Return the row about the id column, if there is one."""
    column, repeated = content["source"].get("id_column"), content["repeated_ids"]
    if column is None:
        return {}
    return {"ids": f"column {column}" + (f"; {describe_repeated(repeated)}" if repeated else "")}


def _limit_row(lists: dict[str, Any]) -> dict[str, str]:
    """Return the row about the limit on a list's bytes, if there is one."""
    if lists["max_bytes"] is None:
        return {}
    return {"list limit": f"{lists['max_bytes']:,} bytes, {lists['above']:,} lists above it"}


def _skipped_row(source: dict[str, Any]) -> dict[str, str]:
    """Return the row about skipped rows of the source, if there are any."""
    if "skipped" not in source:
        return {}
    rows = source["skipped"]["rows"]
    return {"left out": f"{rows:,} bad rows, listed in skipped.json"}


def _print_files(files: list[dict[str, Any]]) -> None:
    """Print each file's rows; of many files, the first and the last ones."""
    print("\n  first row            rows  file")
    shown = [*files[:_FILES], None, *files[-_FILES:]] if len(files) > 2 * _FILES + 1 else files
    for file in shown:
        if file is None:
            print(f"        ... {len(files) - 2 * _FILES:,} more files (all of them: --json)")
            continue
        name = "/".join(filter(None, (file.get("folder"), file["name"])))
        print(f"  {file['first_row']:>15,} {file['n']:>15,}  {name}")


def _print_histogram(histogram: list[dict[str, int]]) -> None:
    print("\n  list size       lists")
    most = max(entry["lists"] for entry in histogram)
    for entry in histogram:
        span = f"{entry['from']:,}-{entry['to']:,}" if entry["to"] > entry["from"] else entry["to"]
        bar = "#" * round(_BAR * entry["lists"] / most)
        print(f"  {span!s:<15} {entry['lists']:>6,} {bar}")


def verify(
    index: o.IndexDir,
    erased: Annotated[
        Path | None,
        o.unset("Check too that none of these ids is in any file: .npy, .parquet, or a line each."),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check every byte; exit 1 and name the file on damage."""
    bars = Bars(quiet=quiet or json)
    damages = [as_typed(str(damage)) for damage in verify_index(index, bars)]
    paths = IndexPaths(index)
    left = [] if erased is None else find_ids(paths, read_id_numbers(index, erased), bars)
    manifest = None if damages else read_manifest(paths)
    calibrated = paths.calibration.exists()
    if manifest is not None and manifest.number:
        calibrated = manifest.calibration is not None
    if json:
        result: dict[str, Any] = {"index": str(index), "sound": not damages}
        result |= {"calibrated": calibrated, "damages": damages, "stages": bars.summary()}
        print_json(result | ({} if erased is None else {"not_erased": left}))
    for damage in damages:
        print(f"teravec: {damage}", file=sys.stderr)
    for place in left:
        print(f"teravec: not erased: {as_typed(place)}", file=sys.stderr)
    if damages or left:
        raise typer.Exit(1)
    if not json:
        print(f"{index}: sound" + ("" if calibrated else f"; without a calibration: {_CALIBRATE}"))


def export(
    index: o.IndexDir,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.", show_default=False)],
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write an index file that faiss.read_index opens, with the same results."""
    export_faiss(index, out, Bars(quiet=quiet or json))
    if json:
        print_json({"index": str(index), "out": str(out), "bytes": out.stat().st_size})
    else:
        print(f"{out}: open it with faiss.read_index")
