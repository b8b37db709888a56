"""teravec from disk beside LanceDB and DiskANN, on the same vectors and queries.

    LANCE_PYTHON=... DISKANN_PYTHON=... python -m benchmarks.vs_disk FOLDER [--only lance,diskann]

Each peer runs in a Python of its own, named by those variables, as their requirements do not go
together. Systems run one after the other, at efforts of about equal recall@10; single queries are
cold: the page cache is dropped before each. FOLDER holds vectors and indexes (those of vs_seed).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import teravec
from benchmarks import data, measure, vs_seed

TARGETS = (0.8, 0.9, 0.95)
COLD = 60


def ours(root: Path, case: vs_seed.Case, memory: str) -> list[list[Any]]:
    """Warm and cold figures of teravec at each target, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.vs_disk", str(case.folder), "--ours", str(root)]
    run = measure.run_child([*command, "--case", case.name, "--memory", memory])
    found: list[list[Any]] = json.loads(run.stdout)
    return [[*row, f"{run.peak_rss_bytes / 2**20:,.0f}"] for row in found]


def measure_ours(root: Path, case: vs_seed.Case, memory: str) -> list[list[Any]]:
    """Recall, queries a second in a batch and alone, cold p50 and p99, bytes, at each target."""
    queries, truth = case.set.queries()[:1000], case.set.neighbours()[1][:1000]
    rows = []
    with (
        teravec.open(root, memory=memory) as index,
        teravec.open(root, memory=memory, keep_lists=False) as cold,
    ):
        files = [root / entry.file for entry in index.manifest.slices]
        for nprobe in vs_seed.nprobes_for(index, queries, truth, TARGETS):
            index.search(queries, 10, nprobe)
            seconds, alone = [], []
            for _ in range(3):
                started = time.perf_counter()
                _, ids = index.search(queries, 10, nprobe)
                seconds.append(time.perf_counter() - started)
            for row in range(200):
                started = time.perf_counter()
                index.search(queries[row : row + 1], 10, nprobe)
                alone.append(time.perf_counter() - started)
            run = measure.cold_queries(
                lambda c=cold: measure.KeptOpen(c),  # type: ignore[misc]
                lambda held, query, n=nprobe: held.search(query, 10, n),  # type: ignore[misc]
                files, queries[:COLD],
            )  # fmt: skip
            rows.append([
                f"nprobe {nprobe}", round(data.recall(ids, truth, 10), 3),
                round(1000 / statistics.median(seconds)), round(1 / statistics.median(alone)),
                round(1e3 * run.median_s, 1), round(1e3 * float(np.quantile(run.seconds, 0.99)), 1),
                round(statistics.mean(run.bytes_read) / 1e6, 2),
            ])  # fmt: skip
    return rows


HEADER = [
    "", "effort", "recall@10", "batch, queries/s", "alone, queries/s", "cold p50 ms",
    "cold p99 ms", "MB read", "peak RSS, MiB",
]  # fmt: skip


def bench_lance(folder: Path, _: Path) -> str:
    """8,000,000 x 96, 16,384 lists: ours in 1 GiB, LanceDB's IVF_SQ."""
    case = vs_seed.large(folder, _)
    root = vs_seed.built(case).root
    python, out = os.environ["LANCE_PYTHON"], case.path("lance-kept")
    if not out.exists():
        measure.run_child(
            [python, "benchmarks/lance.py", "build", str(case.set.base), str(out), str(case.nlist)]
        )
    rows = [["teravec", *row] for row in ours(root, case, "1GiB")]
    for nprobe in (20, 40, 80):
        arguments = [str(out), str(case.set.query), str(case.set.truth), str(nprobe), "--cold"]
        run = measure.run_child([python, "benchmarks/lance.py", "search", *arguments])
        found = json.loads(run.stdout)
        rows.append([
            "LanceDB", f"nprobe {nprobe}", round(found["recall"], 3), "", round(found["qps"]),
            round(1e3 * found["cold_p50_s"], 1), round(1e3 * found["cold_p99_s"], 1), "",
            f"{run.peak_rss_bytes / 2**20:,.0f}",
        ])  # fmt: skip
    return "8,000,000 x 96, 16,384 lists, sq6 and IVF_SQ:\n\n" + measure.table(HEADER, rows)


def bench_diskann(folder: Path, shared: Path) -> str:
    """1,000,000 x 96 and sift-photos: ours (sq6), DiskANN."""
    python, parts = os.environ["DISKANN_PYTHON"], []
    for case in (vs_seed.synthetic(folder, shared), vs_seed.sift(folder, shared)):
        root, out = vs_seed.built(case).root, case.path("diskann")
        rows = [["teravec", *row] for row in ours(root, case, "512MiB")]
        if not out.exists():
            build = measure.run_child(
                [python, "benchmarks/diskann.py", "build", str(case.set.base), str(out)]
            )
            (out / "build.json").write_text(build.stdout)
        built = json.loads((out / "build.json").read_text())
        for complexity in (10, 20, 40, 80):
            arguments = [str(out), str(case.set.query), str(case.set.truth), str(complexity)]
            run = measure.run_child([python, "benchmarks/diskann.py", "search", *arguments])
            found = json.loads(run.stdout)
            rows.append([
                "DiskANN", f"L {complexity}", round(found["recall"], 3), round(found["qps"]), "",
                round(1e3 * found["cold_p50_s"], 1), round(1e3 * found["cold_p99_s"], 1),
                round(found["bytes"] / 1e6, 2), f"{run.peak_rss_bytes / 2**20:,.0f}",
            ])  # fmt: skip
        parts.append(
            f"{case.set.name}; DiskANN's build took {built['seconds']:.0f} s and "
            f"{built['rss'] / 2**20:,.0f} MiB:\n\n" + measure.table(HEADER, rows)
        )
    return "\n\n".join(parts)


BENCHES: dict[str, Callable[[Path, Path], str]] = {"lance": bench_lance, "diskann": bench_diskann}
_CASES = {"synthetic-1M": "synthetic", "sift-photos": "sift", "synthetic-8M": "large"}


def main() -> None:
    """Run the comparisons asked for and write each one's section as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(BENCHES))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--case", choices=list(_CASES))
    parser.add_argument("--memory", default="1GiB")
    arguments = parser.parse_args()
    if arguments.ours:
        case = vs_seed.CASES[_CASES[arguments.case]](arguments.folder, arguments.shared)
        print(json.dumps(measure_ours(arguments.ours, case, arguments.memory)))
        return
    for name in arguments.only.split(","):
        section = f"### {name}\n\n{BENCHES[name](arguments.folder, arguments.shared)}"
        print(section, flush=True)
        measure.write_section(f"vs_disk {name}", section)


if __name__ == "__main__":
    main()
