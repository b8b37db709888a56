"""Search from disk beside Faiss, LanceDB and DiskANN, on the same vectors and queries.

    LANCE_PYTHON=... DISKANN_PYTHON=... python -m benchmarks.vs_disk FOLDER
        [--data long,large,million,sift,minilm] [--prepare]

Systems take turns, for some rounds, each in a process of its own; figures are medians over rounds.
Each peer runs in a Python of its own, named by those variables, as their requirements do not go
together; without one, that peer is left out. Cold means that the page cache is dropped before
every single query. FOLDER holds vectors and indexes, some 20 GB; ``--prepare`` makes them and
stops. Writes a record and a plot in docs/ for each data set.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import faiss
import numpy as np

import teravec
from benchmarks import data, measure, records, seed
from benchmarks.points import Point
from benchmarks.systems_plot import draw
from teravec.progress import NoProgress
from teravec.storage.device import DeviceProfile, measure_device

ROUNDS = 3
COLD = 20  # queries of a round
TARGETS = (0.8, 0.9, 0.95)
_BESIDE = 0.012
LANCE_NPROBES = "2,4,8,16,32,64,128"
COMPLEXITIES = "10,15,20,30,40,60,80,120"


@dataclass(frozen=True)
class Case:
    """A data set, how it is indexed, and whom it is compared with."""

    name: str
    set: data.Dataset
    nlist: int
    memory: str  # holds all lists, as Faiss in RAM does
    folder: Path
    peers: tuple[str, ...]  # DiskANN keeps its build in memory, and takes long; LanceDB takes long
    small_memory: str | None = None  # holds some

    def path(self, name: str) -> Path:
        """A file or directory of this case."""
        return self.folder / f"{self.name}-{name}"


BUILD_MEMORY = "1GiB"


def _synthetic(
    nb: int, nlist: int, memory: str, *peers: str, small_memory: str | None = None
) -> Callable[[str, Path, Path], Case]:
    def case(name: str, folder: Path, _: Path) -> Case:
        made = data.synthetic(folder, data.Synthetic(nb=nb))
        return Case(name, made, nlist, memory, folder, peers, small_memory)

    return case


CASES: dict[str, Callable[[str, Path, Path], Case]] = {
    "long": _synthetic(8_000_000, 2048, "2GiB", small_memory="256MiB"),
    "large": _synthetic(8_000_000, 16384, "2GiB", "lance", small_memory="256MiB"),
    "million": _synthetic(1_000_000, 4096, "512MiB", "diskann"),
    "sift": lambda name, folder, shared: Case(
        name, data.sift_photos(shared), 1024, "512MiB", folder, ("lance", "diskann")
    ),
    "minilm": lambda name, folder, shared: Case(
        name, data.minilm_sentences(shared), 512, "512MiB", folder, ("lance",)
    ),
}


# ---------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class System:
    """A name and the command that prints its points, but for the rows to search cold."""

    name: str
    command: list[str]


def systems(case: Case) -> list[System]:
    """Build what is not there, and say how each is searched."""
    queries = [str(case.set.query), str(case.set.truth)]
    points = [sys.executable, "-m", "benchmarks.points"]
    found = []
    for codec in ("sq6", "rabitq1+sq8"):
        root = built(case, codec)
        kind = "teravec, two stages" if "+" in codec else "teravec"
        limits = [(kind, case.memory)]
        if case.small_memory:
            limits.append((f"{kind}, {case.small_memory}", case.small_memory))
        for name, memory in limits:
            found.append(
                System(
                    name, [*points, "teravec", str(root), *queries, "--memory", memory, "--cold"]
                )
            )
    in_ram, on_disk = exported(case)
    for name, kind, path in (
        ("Faiss in RAM", "faiss-ram", in_ram),
        ("Faiss on disk", "faiss-mmap", on_disk),
        ("Faiss on disk, MADV_RANDOM", "faiss-random", on_disk),
    ):
        found.append(System(name, [*points, kind, str(path), *queries, "--cold"]))
    if "lance" in case.peers and (python := os.environ.get("LANCE_PYTHON")):
        script, out = [python, "benchmarks/lance.py"], case.path("lance")
        _once(out, [*script, "build", str(case.set.base), str(out), str(case.nlist)])
        found.append(
            System("LanceDB IVF_SQ", [*script, "search", str(out), *queries, LANCE_NPROBES])
        )
    if "diskann" in case.peers and (python := os.environ.get("DISKANN_PYTHON")):
        script, out = [python, "benchmarks/diskann.py"], case.path("diskann")
        _once(out, [*script, "build", str(case.set.base), str(out)])
        found.append(System("DiskANN", [*script, "search", str(out), *queries, COMPLEXITIES]))
    return found


def built(case: Case, codec: str) -> Path:
    """Our index of a codec."""
    out = case.path(codec)
    _once(
        out,
        [
            sys.executable,
            "-m",
            "teravec",
            "build",
            str(case.set.base),
            "--out",
            str(out),
            "--codec",
            codec,
            "--nlist",
            str(case.nlist),
            "--transform",
            "rotation",
            "--memory",
            BUILD_MEMORY,
            "--quiet",
        ],
    )
    return out


def exported(case: Case) -> tuple[Path, Path]:
    """Model and codes of our sq6 index for Faiss: lists in one file with it, and lists to map."""
    in_ram, on_disk = case.path("ram.faissindex"), case.path("disk.faissindex")
    if not on_disk.exists():
        in_ram.unlink(missing_ok=True)
        teravec.export_faiss(case.path("sq6"), in_ram)
        index = faiss.read_index(str(in_ram))
        index.reset()
        empty = case.path("empty.faissindex")
        faiss.write_index(index, str(empty))
        seed.seed_merge(empty, [in_ram], on_disk)
    return in_ram, on_disk


def _once(out: Path, command: list[str]) -> None:
    """Build into ``out`` unless that was done, and note what it took."""
    note = out.with_name(f"{out.name}.json")
    if not note.exists():
        run = measure.run_child(command)
        note.write_text(json.dumps({"seconds": run.seconds, "rss": run.peak_rss_bytes}))


# ---------------------------------------------------------------- measuring


def measured(found: list[System]) -> dict[str, list[Point]]:
    """Each system's points: medians over rounds in which the systems took turns."""
    rounds: dict[str, list[list[Point]]] = {system.name: [] for system in found}
    for number in range(ROUNDS):
        for system in found if number % 2 == 0 else found[::-1]:
            run = measure.run_child([*system.command, str(number * COLD), str(COLD)])
            points = json.loads(run.stdout)
            for point in points:
                point["rss"] = run.peak_rss_bytes
            rounds[system.name].append(points)
            print(system.name, f"{run.seconds:.0f} s", flush=True)
    return {
        name: [_joined(same) for same in zip(*several, strict=False)]
        for name, several in rounds.items()
    }


def _joined(same: Iterable[Point]) -> Point:
    several = list(same)
    joined: Point = {"effort": several[0]["effort"]}
    for name in several[0]:
        values = [point[name] for point in several]
        if name in ("cold_s", "read"):
            joined[name] = list(chain.from_iterable(values))
        elif name != "effort":
            joined[name] = statistics.median(values)
    if "cold_s" in joined:
        joined["p50_ms"] = 1e3 * statistics.median(joined["cold_s"])
        joined["p99_ms"] = 1e3 * float(np.quantile(joined["cold_s"], 0.99))
        joined["mb"] = statistics.mean(joined["read"]) / 1e6
    return joined


def at_recall(points: list[Point], field: str, recall: float) -> float | None:
    """A figure at a recall, between the points on either side, by logarithms.

    Just beside the points, that of the nearest one.
    """
    with_it = sorted((p["recall"], p[field]) for p in points if p.get(field))
    if not with_it or not with_it[0][0] - _BESIDE <= recall <= with_it[-1][0] + _BESIDE:
        return None
    recalls, values = np.array(with_it).T
    return float(np.exp(np.interp(recall, recalls, np.log(values))))


def device_ms(profile: DeviceProfile, reads: float, read_bytes: float) -> float:
    """What the disk needs for a query's reads: one wait for codes, one for ids, and their bytes."""
    wait_s, _ = profile.cost_model(depth=1)
    read_s, byte_s = profile.cost_model()
    return 1e3 * (2 * wait_s + reads * read_s + read_bytes * byte_s)


# ---------------------------------------------------------------- reporting


def report(case: Case, found: dict[str, list[Point]], profile: DeviceProfile) -> str:
    """The section of one case."""
    n, d = case.set.matrix().shape
    header = [
        "",
        "effort",
        "recall@10",
        "batch, queries/s",
        "alone, queries/s",
        "cold p50 ms",
        "p99 ms",
        "MB read",
        "device ms",
        "peak RSS, MiB",
    ]
    rows = []
    for name, points in found.items():
        for p in points:
            needs = device_ms(profile, p["reads"], p["mb"] * 1e6) if "reads" in p else None
            rows.append(
                [
                    name,
                    p["effort"],
                    f"{p['recall']:.3f}",
                    _cell(p.get("batch_qps"), 0),
                    _cell(p.get("alone_qps"), 0),
                    _cell(p.get("p50_ms"), 2),
                    _cell(p.get("p99_ms"), 1),
                    _cell(p.get("mb"), 2),
                    _cell(needs, 2),
                    f"{p['rss'] / 2**20:,.0f}",
                ]
            )
    best = profile.best.bytes_per_s
    return "\n\n".join(
        [
            f"### Search from disk: {case.name}, {n:,} x {d}, nlist {case.nlist:,}",
            f"sq6 (Faiss: the same codes), rabitq1+sq8 in two stages; teravec in {case.memory}. "
            f"{ROUNDS} rounds of all systems in turn; {ROUNDS * COLD} cold queries. 'device ms' is "
            "what the disk needs for a query's reads at the rates of `bench-disk` on the slice, 2 "
            f"waits included. {_builds(case)}",
            measure.table(header, rows),
            "At equal recall, between the points above, or at a point within 0.012 of it; how many "
            "times better teravec is:",
            _ratios(found),
            "Cold batches of 1,000 queries, teravec; bytes a second over the device's best of "
            f"{best / 1e6:,.0f} MB/s:",
            _batches(found, best),
            f"![{case.name}](../../docs/disk-{case.name}.png)",
        ]
    )


def _builds(case: Case) -> str:
    names = {
        "sq6": "teravec sq6",
        "rabitq1+sq8": "teravec rabitq1+sq8",
        "lance": "LanceDB",
        "diskann": "DiskANN",
    }
    notes = []
    for end, name in names.items():
        note = case.path(end).with_name(f"{case.path(end).name}.json")
        if note.exists():
            took = json.loads(note.read_text())
            notes.append(f"{name} {took['seconds']:.0f} s, {took['rss'] / 2**20:,.0f} MiB")
    return f"Builds: {'; '.join(notes)}."


def _ratios(found: dict[str, list[Point]]) -> str:
    fields = {
        "batch_qps": "batch, queries/s",
        "alone_qps": "alone, queries/s",
        "p50_ms": "cold p50",
        "p99_ms": "cold p99",
        "mb": "bytes",
    }
    rows = []
    mine = [name for name in found if name.startswith("teravec")]
    for ours in mine:
        others = [name for name in found if name not in mine]
        for theirs in others if ours == "teravec" else ["teravec", *others]:
            for recall in TARGETS:
                row = [ours, theirs, f"{recall}"]
                for field in fields:
                    a = at_recall(found[ours], field, recall)
                    b = at_recall(found[theirs], field, recall)
                    both = a is not None and b is not None
                    ratio = (a / b if field.endswith("qps") else b / a) if both else None  # type: ignore[operator]
                    row.append(_cell(ratio, 2))
                rows.append(row)
    return measure.table(["", "beside", "recall@10", *fields.values()], rows)


def _batches(found: dict[str, list[Point]], best: float) -> str:
    rows = []
    for name, points in found.items():
        for p in points:
            if "cold_batch_s" in p:
                read, rate = p["cold_batch_read"], p["cold_batch_read"] / p["cold_batch_s"]
                rows.append(
                    [
                        name,
                        p["effort"],
                        f"{1000 / p['cold_batch_s']:,.0f}",
                        f"{read / 1e6:,.0f}",
                        f"{rate / 1e6:,.0f}",
                        f"{rate / best:.2f}",
                    ]
                )
    return measure.table(["", "effort", "queries/s", "MB read", "MB/s", "of the best"], rows)


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def main() -> None:
    """Run the cases asked for and write each one's section as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default=",".join(CASES))
    parser.add_argument("--shared", type=Path, default=records.ROOT.parent / "shared" / "data")
    parser.add_argument("--prepare", action="store_true", help="only build what is searched")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()  # peers run from the repository's root
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.data.split(","):
        case = CASES[name](name, folder, arguments.shared)
        found = systems(case)
        if arguments.prepare:
            continue
        lists = max((case.path("sq6") / "slices").glob("*.lists"), key=lambda p: p.stat().st_size)
        measure.drop_page_cache([lists])
        profile = measure_device(lists, seconds=20, scratch_bytes=1 << 28, progress=NoProgress())
        points = measured(found)
        (folder / f"{name}-points.json").write_text(json.dumps(points))
        section = report(case, points, profile)
        print(section, flush=True)
        measure.write_section(f"vs_disk {name}", section)
        draw(
            points,
            f"{case.set.name}, nlist {case.nlist:,}",
            records.ROOT / "docs" / f"disk-{name}.png",
        )


if __name__ == "__main__":
    main()
