"""One query at a time, everything in memory: teravec beside Faiss with the same lists and codes.

    python -m benchmarks.one_query FOLDER [--data long,large,million,sift,minilm]
        [--queries 300] [--rounds 5]

FOLDER and data sets are those of ``benchmarks.vs_disk``, whose indexes are used, or built. Both
have all lists in memory, teravec verified and in its cache. All systems and efforts take turns, for
some rounds; a figure is the median over rounds of each round's median, or 99th percentile. Faiss
may use all threads for a query (``parallel_mode`` 1), or one: the faster counts. Its coarse
quantizer is the flat one of the index, or a graph of HNSW over the same centroids.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import teravec
from benchmarks import data, measure, records
from benchmarks.points import Point
from benchmarks.vs_disk import CASES, Case, at_recall, built, exported

K = 10
RECALLS = (0.8, 0.85, 0.9, 0.95)
NPROBES = (2, 4, 8, 16, 32, 64, 128, 256)
ENOUGH = 0.965  # recall from which on no more of Faiss's efforts are measured
ONE_STAGE, TWO_STAGES = "teravec sq6", "teravec rabitq1+sq8"
HNSW_LINKS, LEAST_EF = 32, 64

Search = Callable[[data.Floats], tuple[Any, data.Ids]]


@dataclass(frozen=True)
class Task:
    """A system at one effort."""

    system: str
    effort: str
    search: Search


# ---------------------------------------------------------------- who is asked


def ours(case: Case, stack: ExitStack) -> list[Task]:
    """Both kinds of codes, by the recall asked for; in memory that holds all of their lists."""
    tasks = []
    for system, codec in ((ONE_STAGE, "sq6"), (TWO_STAGES, "rabitq1+sq8")):
        index = stack.enter_context(teravec.open(built(case, codec), memory="6GiB"))
        for recall in RECALLS:
            try:
                effort = index.effort(recall=recall, k=K)
            except teravec.InvalidArgument:  # above what its codes reach
                break
            name = f"--recall {recall}, nprobe {effort.nprobe}"
            tasks.append(Task(system, name, lambda q, i=index, r=recall: i.search(q, K, recall=r)))  # type: ignore[misc]
    return tasks


def theirs(case: Case) -> list[Task]:
    """Faiss with either coarse quantizer, at growing nprobe, on all threads and on one."""
    in_ram, _ = exported(case)
    flat = faiss.read_index(str(in_ram))
    graph = faiss.read_index(str(in_ram))
    ivf = faiss.extract_index_ivf(graph)
    centroids = ivf.quantizer.reconstruct_n(0, ivf.nlist)
    hnsw = faiss.IndexHNSWFlat(ivf.d, HNSW_LINKS, ivf.metric_type)
    hnsw.add(centroids)
    ivf.quantizer, ivf.own_fields = hnsw, False
    tasks = []
    for nprobe in NPROBES:
        for mode in (1, 0):
            threads = "all threads" if mode else "one thread"
            for name, index in (("flat", flat), ("HNSW", graph)):
                # The search keeps the graph, which its index does not own.
                search = faiss_search(index, nprobe, mode, hnsw if index is graph else None)
                tasks.append(Task(f"Faiss, {name}, {threads}", f"nprobe {nprobe}", search))
    return tasks


def faiss_search(index: Any, nprobe: int, mode: int, hnsw: Any) -> Search:
    """A search at one setting."""
    ivf = faiss.extract_index_ivf(index)

    def search(q: data.Floats) -> tuple[Any, data.Ids]:
        ivf.nprobe, ivf.parallel_mode = nprobe, mode if len(q) == 1 else 0
        if hnsw is not None:
            hnsw.hnsw.efSearch = max(LEAST_EF, 2 * nprobe)
        return index.search(q, K)  # type: ignore[no-any-return]

    return search


# ---------------------------------------------------------------- measuring


def latencies(search: Search, queries: data.Floats) -> data.Floats:
    """Seconds of each query alone."""
    seconds = np.empty(len(queries), np.float32)
    for row in range(len(queries)):
        query = queries[row : row + 1]
        started = time.perf_counter()
        search(query)
        seconds[row] = time.perf_counter() - started
    return seconds


def with_recall(tasks: list[Task], queries: data.Floats, truth: data.Ids) -> dict[Task, float]:
    """Recall of each task, over all queries at once, which also brings lists into memory.

    Efforts of a system that come after enough are left out.
    """
    found: dict[Task, float] = {}
    done: set[str] = set()
    for task in tasks:
        if task.system not in done:
            found[task] = data.recall(task.search(queries)[1], truth, K)
            if found[task] > ENOUGH and task.system.startswith("Faiss"):
                done.add(task.system)
    return found


def measured(recalls: dict[Task, float], queries: data.Floats, rounds: int) -> list[Point]:
    """Points: recall, median and 99th percentile in milliseconds."""
    runs: dict[Task, list[data.Floats]] = {task: [] for task in recalls}
    for number in range(rounds):
        for task in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            latencies(task.search, queries[:20])  # threads and buffers are there again
            runs[task].append(latencies(task.search, queries))
    return [
        {
            "system": task.system,
            "effort": task.effort,
            "recall": recalls[task],
            "p50_ms": 1e3 * statistics.median(float(np.median(run)) for run in several),
            "p99_ms": 1e3 * statistics.median(float(np.quantile(run, 0.99)) for run in several),
        }
        for task, several in runs.items()
    ]


# ---------------------------------------------------------------- reporting


def report(case: Case, points: list[Point], nqueries: int, rounds: int) -> str:
    """The section of one case."""
    n, d = case.set.matrix().shape
    header = ["", "effort", "recall@10", "p50 ms", "p99 ms"]
    rows = [
        [p["system"], p["effort"], f"{p['recall']:.3f}", f"{p['p50_ms']:.3f}", f"{p['p99_ms']:.3f}"]
        for p in points
    ]
    return "\n\n".join(
        [
            f"### One query in memory: {case.name}, {n:,} x {d}, nlist {case.nlist:,}",
            f"{nqueries} queries, each alone, {rounds} rounds of all rows in turn; medians.",
            measure.table(header, rows),
            "At equal recall, between the points above; milliseconds at the median, and how many "
            "times quicker than Faiss at its best teravec is:",
            measure.table(
                [
                    "recall@10",
                    ONE_STAGE,
                    TWO_STAGES,
                    "Faiss, flat",
                    "Faiss, HNSW",
                    "times, one stage",
                    "times, two stages",
                ],
                [row for recall in RECALLS if (row := _beside(points, recall))],
            ),
            "Made by `python -m benchmarks.one_query`.",
        ]
    )


def _beside(points: list[Point], recall: float) -> list[str] | None:
    def best(prefix: str) -> float | None:
        systems = {p["system"] for p in points if p["system"].startswith(prefix)}
        found = [
            at_recall([p for p in points if p["system"] == s], "p50_ms", recall) for s in systems
        ]
        return min((f for f in found if f is not None), default=None)

    one, two, flat, graph = (best(p) for p in (ONE_STAGE, TWO_STAGES, "Faiss, flat", "Faiss, HNSW"))
    peers = [p for p in (flat, graph) if p is not None]
    if not peers:
        return None
    cells = ["" if ms is None else f"{ms:.3f}" for ms in (one, two, flat, graph)]
    times = ["" if ms is None else f"{min(peers) / ms:.2f}" for ms in (one, two)]
    return [f"{recall}", *cells, *times]


def main() -> None:
    """Measure the sets asked for; each one's section is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default=",".join(CASES))
    parser.add_argument("--shared", type=Path, default=records.ROOT.parent / "shared" / "data")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.data.split(","):
        case = CASES[name](name, arguments.folder.resolve(), arguments.shared)
        queries, truth = case.set.queries()[:1000], case.set.neighbours()[1][:1000]
        with ExitStack() as stack:
            recalls = with_recall([*ours(case, stack), *theirs(case)], queries, truth)
            asked = queries[: arguments.queries]
            points = measured(recalls, asked, arguments.rounds)
        section = report(case, points, len(asked), arguments.rounds)
        print(section, flush=True)
        measure.write_section(f"one_query {name}", section)


if __name__ == "__main__":
    main()
