"""Several callers at once, and small batches, lists in memory: teravec beside Faiss.

    python -m benchmarks.callers FOLDER [--data sift,minilm,million] [--seconds 2]

FOLDER and data sets are those of ``benchmarks.vs_disk``, whose indexes are used, or built. Callers
are threads of one process that each search one query after another; a batch is one caller's. Faiss
takes the nprobe whose recall is the first to reach teravec's, and scans on all threads or on one:
both are shown. Processor time is that of the whole process, threads that wait busily among it.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import teravec
from benchmarks import data, measure, records
from benchmarks.one_query import NPROBES, K, Search, faiss_search
from benchmarks.vs_disk import CASES, Case, built, exported

RECALL = 0.9
CALLERS, BATCHES = (1, 2, 4, 8), (1, 2, 8, 32, 128)
ROUNDS = 3


def systems(
    case: Case, stack: ExitStack, queries: data.Floats, truth: data.Ids
) -> dict[str, Search]:
    """Searches at about one recall, by name."""
    import faiss

    found: dict[str, Search] = {}
    least = 1.0
    for codec in ("sq6", "rabitq1+sq8"):
        index = stack.enter_context(teravec.open(built(case, codec), memory="6GiB"))
        found[f"teravec {codec}"] = lambda q, i=index: i.search(q, K, recall=RECALL)  # type: ignore[misc]
        least = min(least, data.recall(found[f"teravec {codec}"](queries)[1], truth, K))
    in_ram = faiss.read_index(str(exported(case)[0]))
    for nprobe in NPROBES:
        if data.recall(faiss_search(in_ram, nprobe, 0, None)(queries)[1], truth, K) >= least:
            break
    for mode, threads in ((1, "all threads"), (0, "one thread")):
        found[f"Faiss, nprobe {nprobe}, {threads}"] = faiss_search(in_ram, nprobe, mode, None)
    return found


def rate(
    search: Search, queries: data.Floats, callers: int, rows: int, seconds: float
) -> list[float]:
    """Queries a second, and microseconds of processor time a query."""
    counts = [0] * callers
    until = time.perf_counter() + seconds

    def call(number: int) -> None:
        at = 37 * number
        while time.perf_counter() < until:
            at = at % (len(queries) - rows + 1)
            search(queries[at : at + rows])
            counts[number] += rows
            at += rows

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    started, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, used = time.perf_counter() - started, time.process_time() - used
    return [sum(counts) / elapsed, 1e6 * used / sum(counts)]


def report(case: Case, found: dict[str, Search], queries: data.Floats, seconds: float) -> str:
    """The section of one case; systems take turns."""
    n, d = case.set.matrix().shape
    settings = [(callers, 1) for callers in CALLERS] + [(1, rows) for rows in BATCHES[1:]]
    runs: dict[tuple[str, int, int], list[list[float]]] = {}
    for _ in range(ROUNDS):
        for callers, rows in settings:
            for name, search in found.items():
                figures = rate(search, queries, callers, rows, seconds / ROUNDS)
                runs.setdefault((name, callers, rows), []).append(figures)
    rows_of_table = []
    for callers, rows in settings:
        cells = [str(callers), str(rows)]
        for name in found:
            speed, cpu = (
                statistics.median(c) for c in zip(*runs[name, callers, rows], strict=True)
            )
            cells.append(f"{speed:,.0f} ({cpu:.0f} us)")
        rows_of_table.append(cells)
    return "\n\n".join(
        [
            f"### Callers at once, and batches, in memory: {case.name}, {n:,} x {d}, "
            f"nlist {case.nlist:,}, recall {RECALL}",
            f"Queries a second, and processor time a query; medians of {ROUNDS} rounds.",
            measure.table(["callers", "queries a call", *found], rows_of_table),
            "Made by `python -m benchmarks.callers`.",
        ]
    )


def main() -> None:
    """Measure the sets asked for; each one's section is written as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="sift,minilm,million")
    parser.add_argument("--shared", type=Path, default=records.ROOT.parent / "shared" / "data")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each figure")
    arguments = parser.parse_args()
    for name in arguments.data.split(","):
        case = CASES[name](name, arguments.folder.resolve(), arguments.shared)
        queries, truth = case.set.queries()[:1000], case.set.neighbours()[1][:1000]
        with ExitStack() as stack:
            found = systems(case, stack, queries, truth)
            section = report(case, found, queries, arguments.seconds)
        print(section, flush=True)
        measure.write_section(f"callers {name}", section)


if __name__ == "__main__":
    main()
