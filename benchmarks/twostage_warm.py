"""Queries a second with everything in memory: codes in two stages beside one stage.

    python -m benchmarks.twostage_warm FOLDER [--nb 1000000] [--nlist 256]
        [--codecs sq6,rabitq1+sq8,rabitq2+sq8] [--recall 0.9] [--runs 5]

All codecs take turns, on one thread and on all, as one batch and query by query, at the least
effort of adaptive probing that reaches the recall. What a query of the batch spends in each step
is that of the last run. FOLDER is that of ``benchmarks.twostage``, whose indexes are used, or
built.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

import teravec
from benchmarks import data, measure
from benchmarks.twostage import STEP, K, built
from teravec.processors import default_threads
from teravec.search.effort import Effort
from teravec.search.index import Index

STEPS = ("coarse_s", "scan_s", "refine_s")
ALONE = 200  # queries that are searched one by one


def least_effort(index: Index, queries: np.ndarray, truth: np.ndarray, recall: float) -> Effort:
    """The first effort that reaches a recall, by steps of nprobe."""
    assert index.calibration is not None
    prune, nprobe = index.calibration.points[0].prune, 4.0
    while nprobe < index.nlist:
        effort = Effort(round(nprobe), prune)
        if data.recall(index.search_at(queries, K, effort)[1], truth, K) >= recall:
            return effort
        nprobe *= STEP
    raise SystemExit(f"recall {recall} is out of reach")


def one_by_one(index: Index, queries: np.ndarray, effort: Effort) -> None:
    """Search some queries, each alone."""
    for query in queries[:ALONE]:
        index.search_at(query[None], K, effort)


def steps(index: Index, queries: np.ndarray, effort: Effort) -> list[str]:
    """Microseconds of a query of a batch by step: lists, sketches or codes, refining, the rest."""
    before, started = vars(index.stats).copy(), time.perf_counter()
    index.search_at(queries, K, effort)
    whole = time.perf_counter() - started
    spent = [getattr(index.stats, name) - before[name] for name in STEPS]
    return [f"{1e6 * s / len(queries):,.0f}" for s in (*spent, whole - sum(spent))]


def main() -> None:
    """Measure one set and write its section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nb", type=int, default=1_000_000)
    parser.add_argument("--nlist", type=int, default=256)
    parser.add_argument("--codecs", default="sq6,rabitq1+sq8,rabitq2+sq8")
    parser.add_argument("--recall", type=float, default=0.9)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    dataset = data.synthetic(arguments.folder, data.Synthetic(nb=arguments.nb))
    queries, truth = dataset.queries(), dataset.neighbours()[1]
    rows = []
    for threads in sorted({1, default_threads()}):
        batches, singles, efforts, indexes = {}, {}, {}, {}
        with ExitStack() as stack:
            for codec in arguments.codecs.split(","):
                path = built(dataset, codec, arguments.nlist, arguments.folder)
                indexes[codec] = index = stack.enter_context(teravec.open(path, threads=threads))
                efforts[codec] = effort = least_effort(index, queries, truth, arguments.recall)
                batches[codec] = partial(index.search_at, queries, K, effort)
                singles[codec] = partial(one_by_one, index, queries, effort)
                singles[codec]()
            batch = measure.interleave(
                {c: discarded(t) for c, t in batches.items()}, arguments.runs
            )
            alone = measure.interleave(singles, arguments.runs)
            spent = {c: steps(index, queries, efforts[c]) for c, index in indexes.items()}
        rows += [
            [
                codec,
                str(threads),
                str(efforts[codec].nprobe),
                f"{len(queries) / batch.median(codec):,.0f}",
                f"{1e3 * alone.median(codec) / ALONE:.2f}",
                *spent[codec],
            ]
            for codec in batches
        ]
    title = f"{dataset.name}, nlist {arguments.nlist}, recall@{K} {arguments.recall}"
    header = ["codec", "threads", "nprobe", f"queries/s, batch of {len(queries)}", "ms, alone"]
    header += [f"us in a batch: {step}" for step in ("lists", "scan", "refining", "rest")]
    measure.write_section(
        f"twostage warm {arguments.nb} {arguments.nlist} {arguments.recall}",
        f"### Two stages in memory: {title}\n\n"
        "Adaptive probing; codecs take turns, medians.\n\n"
        f"{measure.table(header, rows)}\n\n"
        "Made by `python -m benchmarks.twostage_warm`.",
    )


def discarded(task: Callable[[], object]) -> Callable[[], None]:
    """The task, without its result."""

    def run() -> None:
        task()

    return run


if __name__ == "__main__":
    main()
