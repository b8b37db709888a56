"""Training and building on workers: bytes sent, speed of two workers, Ray against one process.

    python -m benchmarks.cluster FOLDER [--only bytes,scaling,build]

FOLDER takes the data and the indexes. Every Ray is a local one, started for the case.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data, measure
from teravec.engines.options import EngineOptions
from teravec.engines.ray_engine import RayEngine
from teravec.model.transform import Transform
from teravec.training.distributed import Passes, distributed_passes
from teravec.training.options import KMeansOptions
from teravec.training.sample import Sample
from teravec.training.sums import Sums, next_centroids
from teravec.training.training_set import TrainingSet

D = 96
MEMORY = 4 << 30
ITERATIONS = 3
BUILD_ROWS = 2_000_000
SET = data.Synthetic(D, BUILD_ROWS, nq=10)
SCALING = (1_000_000, 16_384)
BYTES = (262_144, 4_096)


class NoBar:
    """Shows nothing."""

    def advance(self, amount: int) -> None:
        """Count nothing."""


@dataclass(frozen=True)
class Measured:
    """Seconds of each iteration, and what the workers sent and received in one."""

    seconds: list[float]
    sent: list[float]
    received: list[float]


def training_set(folder: Path, n: int) -> TrainingSet:
    """The first n vectors of the set, as k-means reads them."""
    path = folder / f"sample-{n}.f32"
    if not path.exists():
        base = data.synthetic(folder, SET).matrix()
        np.asarray(base[:n], np.float32).tofile(path)
    return TrainingSet(Sample(path, n, D), Transform.unpack(None), D)


def iterate(vectors: TrainingSet, nlist: int, workers: int) -> Measured:
    """Iterations on workers of one thread; the first, which reads the vectors, is not timed."""
    options = KMeansOptions(nlist, ITERATIONS, 1, spherical=False, threads=1)
    centroids = vectors.take(np.arange(nlist, dtype=np.int64) * (vectors.n // nlist))
    with (
        RayEngine(EngineOptions("ray", workers), 1, MEMORY) as engine,
        distributed_passes(vectors, options, engine) as passes,
    ):
        seconds = [_iteration(passes, centroids, number) for number in range(ITERATIONS + 1)]
        traffic = passes.report()
    rounds = ITERATIONS + 1
    return Measured(
        seconds[1:],
        [each.sent_bytes / rounds for each in traffic],
        [each.received_bytes / rounds for each in traffic],
    )


def _iteration(passes: Passes, centroids: np.ndarray, number: int) -> float:
    started = time.perf_counter()
    gathered = passes(centroids, number, NoBar())
    centroids[:], _ = next_centroids(gathered, spherical=False, seed=1, iteration=number)
    return time.perf_counter() - started


def bench_bytes(folder: Path) -> str:
    """Bytes of a worker and iteration against the number of workers."""
    n, nlist = BYTES
    vectors, rows = training_set(folder, n), []
    unit = 4 * nlist * D + Sums.zeros(nlist, D).nbytes
    for workers in (2, 4, 8):
        found = iterate(vectors, nlist, workers)
        both = [s + r for s, r in zip(found.sent, found.received, strict=True)]
        rows.append(
            [
                workers,
                f"{max(found.sent) / 1e6:.2f}",
                f"{max(found.received) / 1e6:.2f}",
                f"{max(both) / unit:.2f}",
            ]
        )
    return (
        f"k-means, {n:,} x {D}, nlist {nlist:,}; centroids and sums together are "
        f"{unit / 1e6:.2f} MB; the worker with the most:\n\n"
        + measure.table(
            ["workers", "MB sent", "MB received", "sent and received / (centroids + sums)"], rows
        )
    )


def bench_scaling(folder: Path) -> str:
    """Seconds of an iteration with one and with two workers of one thread."""
    n, nlist = SCALING
    vectors = training_set(folder, n)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for workers in (1, 2, 2, 1):  # so that a steady drift of the machine falls on both alike
        seconds[workers] += iterate(vectors, nlist, workers).seconds
    one, two = statistics.median(seconds[1]), statistics.median(seconds[2])
    return f"k-means, {n:,} x {D}, nlist {nlist:,}, workers of one thread:\n\n" + measure.table(
        ["workers", f"s an iteration (median of {2 * ITERATIONS})", "times one worker"],
        [[1, f"{one:.2f}", "1.00"], [2, f"{two:.2f}", f"{one / two:.2f}"]],
    )


def bench_build(folder: Path) -> str:
    """A whole build, as a command, in process and on Ray; and the memory of its processes."""
    source = data.synthetic(folder, SET).base
    engines = {
        "in process, 2 threads": ["--threads", "2"],
        "Ray, 1 worker of 2 threads": ["--engine", "ray", "--workers", "1", "--threads", "2"],
        "Ray, 2 workers of 1 thread": ["--engine", "ray", "--workers", "2", "--threads", "1"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    peaks: dict[str, str] = {}
    for round_no in range(3):
        for name in list(engines)[:: -1 if round_no % 2 else 1]:
            out = folder / "index"
            shutil.rmtree(out, ignore_errors=True)
            command = [
                sys.executable,
                "-m",
                "teravec",
                "build",
                str(source),
                "--out",
                str(out),
                "--codec",
                "sq8",
                "--memory",
                "4GiB",
                "--json",
                *engines[name],
            ]
            started = time.perf_counter()
            done = measure.run_child(command)
            seconds[name].append(time.perf_counter() - started)
            peaks[name] = _peaks(json.loads(done.stdout))
            shutil.rmtree(out)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    base = medians["in process, 2 threads"]
    rows = [
        [name, f"{found:.1f}", f"{found / base:.2f}", peaks[name]]
        for name, found in medians.items()
    ]
    return (
        f"`teravec build`, {BUILD_ROWS:,} x {D}, sq8, calibrated; the whole command with the "
        "start of Python and Ray; medians of three builds, in turn. Memory: the most that a "
        "process had, of what it declared beside some 300 MiB for the interpreter and its "
        "libraries; the command first, then its workers.\n\n"
        + measure.table(["engine", "s", "of in process", "peak MiB of declared"], rows)
    )


def _peaks(report: dict[str, Any]) -> str:
    processes = [report, *report.get("workers", [])]
    return ", ".join(
        f"{each['peak_rss_bytes'] >> 20:,} of {each['memory_bytes'] >> 20:,}" for each in processes
    )


BENCHES: dict[str, Callable[[Path], str]] = {
    "bytes": bench_bytes,
    "scaling": bench_scaling,
    "build": bench_build,
}


def main() -> None:
    """Run what is asked for and write each section as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(BENCHES))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only.split(","):
        section = f"### cluster: {name}\n\n{BENCHES[name](arguments.folder)}"
        print(section, flush=True)
        measure.write_section(f"cluster {name}", section)


if __name__ == "__main__":
    main()
