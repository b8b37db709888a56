"""How the cost of finding a vector's centroid grows with nlist.

    python -m benchmarks.assignment FOLDER [--nlist 4096,16384,65536,262144] [--threads 2]

Centroids are rows of a base of 2,000,000 x 96, moved by one k-means iteration. For each nlist:
the time to set the assigner up, vectors a second (median of some runs in turns), the share of
vectors that were not looked at before and get the list of an exact search, and the objective's
ratio to the exact one. The exponent is the slope of log(seconds a vector) over log(nlist), by
least squares; 1 is what brute force has.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import data, measure
from teravec.kernels.accumulation import accumulate
from teravec.kernels.assignment import CentroidAssigner

ROWS = 262_144  # assigned in one timed run
CHECKED = 8192  # of them, assigned exactly too
SEED = 1234


@dataclass(frozen=True)
class Point:
    """What was measured at one nlist."""

    nlist: int
    assigner: CentroidAssigner
    setup_s: float
    agreement: float
    objective: float


def centroids_of(x: data.Floats, nlist: int, threads: int) -> data.Floats:
    """Rows of x as centroids, after one iteration of k-means."""
    rows = np.random.default_rng(SEED).choice(len(x), nlist, replace=False)
    centroids = x[np.sort(rows)]
    part = x[: 8 * nlist]
    found, _ = CentroidAssigner.auto(centroids, part[::9], seed=SEED, threads=threads).assign(
        part, threads=threads
    )
    sums, counts = np.zeros(centroids.shape), np.zeros(nlist, np.int64)
    accumulate(part, found, sums, counts, threads=threads)
    filled = counts > 0
    centroids[filled] = sums[filled] / counts[filled, None]
    return centroids


def measured(x: data.Floats, queries: data.Floats, nlist: int, threads: int) -> Point:
    """Set an assigner up and compare it with an exact one."""
    centroids = centroids_of(x, nlist, threads)
    started = time.perf_counter()
    assigner = CentroidAssigner.auto(centroids, x[:65536], seed=SEED, threads=threads)
    setup_s = time.perf_counter() - started
    checked = queries[:CHECKED]
    found, distance = assigner.assign(checked, threads=threads)
    exact, least = CentroidAssigner.exact(centroids).assign(checked, threads=threads)
    return Point(
        nlist,
        assigner,
        setup_s,
        float((found == exact).mean()),
        float(distance.sum(dtype=np.float64) / least.sum(dtype=np.float64)),
    )


def bench(folder: Path, nlists: list[int], threads: int, runs: int) -> str:
    """Measure every nlist; return a section."""
    made = data.synthetic(folder, data.Synthetic(nb=2_000_000), k=100)
    x = np.ascontiguousarray(made.matrix())
    queries = x[-ROWS:]  # not among the vectors that set a margin
    points = [measured(x[:-ROWS], queries, nlist, threads) for nlist in nlists]

    times = measure.interleave(
        {
            str(p.nlist): lambda p=p: p.assigner.assign(queries, threads=threads) and None  # type: ignore[misc]
            for p in points
        },
        runs,
    )
    seconds = [times.median(str(p.nlist)) / len(queries) for p in points]
    exponent = float(np.polyfit(np.log(nlists), np.log(seconds), 1)[0])
    rows = [
        [
            f"{p.nlist:,}",
            f"{p.assigner.ngroups:,}",
            p.assigner.probes,
            f"{p.assigner.work:,.0f}",
            f"{1 / s:,.0f}",
            f"{p.agreement:.4f}",
            f"{p.objective:.6f}",
            f"{p.setup_s:.1f}",
        ]
        for p, s in zip(points, seconds, strict=True)
    ]
    return (
        f"### assignment: growth with nlist\n\n{made.name}, {threads} threads, "
        f"{len(queries):,} vectors, medians of {runs} runs. Cost per vector grows as nlist to the "
        f"power **{exponent:.2f}** (target: at most 0.6; brute force: 1).\n\n"
        + measure.table(
            [
                "nlist",
                "groups",
                "visited",
                "centroids and centers compared",
                "vectors/s",
                "as exact",
                "objective / exact",
                "set up, s",
            ],
            rows,
        )
    )


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nlist", default="4096,16384,65536,262144")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    nlists = [int(part) for part in arguments.nlist.split(",")]
    section = bench(arguments.folder, nlists, arguments.threads, arguments.runs)
    print(section)
    measure.write_section("assignment growth", section)


if __name__ == "__main__":
    main()
