"""k-means whose first iterations look at a part of the sample, beside one that always sees all.

    python -m benchmarks.growing FOLDER [--case sift-4096,minilm-16384,...] [--niter 10,20]

Seconds are of the whole of training's k-means, from a file of float32; the objective is exact, of
every eighth vector, after all iterations, relative to ten iterations on all vectors.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import data, measure, seed
from teravec.model.transform import Transform
from teravec.progress import NoProgress
from teravec.training import schedule
from teravec.training.kmeans import kmeans
from teravec.training.options import KMeansOptions
from teravec.training.sample import Sample
from teravec.training.training_set import TrainingSet

THREADS = 2
SEED = 1234
NEVER = 1 << 60  # vectors for each list that no set has: every iteration sees all

CASES: dict[str, tuple[int, Callable[[Path, Path], data.Dataset]]] = {
    "sift-1024": (1024, lambda _, shared: data.sift_photos(shared)),
    "sift-4096": (4096, lambda _, shared: data.sift_photos(shared)),
    "minilm-1024": (1024, lambda _, shared: data.minilm_sentences(shared)),
    "minilm-16384": (16384, lambda _, shared: data.minilm_sentences(shared)),
    "synthetic-16384": (16384, lambda folder, _: data.synthetic(folder, data.Synthetic(), k=100)),
}


def run(vectors: TrainingSet, options: KMeansOptions, folder: Path) -> tuple[float, data.Floats]:
    """Seconds, and the centroids."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    started = time.perf_counter()
    state = kmeans(vectors, options, folder, NoProgress())
    return time.perf_counter() - started, state.centroids


def bench(name: str, folder: Path, shared: Path, niters: list[int]) -> list[list[str]]:
    """Rows of the table for one set."""
    nlist, make = CASES[name]
    x = np.ascontiguousarray(make(folder, shared).matrix(), dtype=np.float32)
    raw = folder / "growing.f32"
    x.tofile(raw)
    vectors = TrainingSet(Sample(raw, *x.shape), Transform.unpack(None), x.shape[1])
    fewest, found = schedule.FEWEST_PER_LIST, {}
    for niter in niters:
        options = KMeansOptions(nlist, niter, SEED, False, THREADS)
        for kind, per_list in (("all", NEVER), ("growing", fewest)):
            schedule.FEWEST_PER_LIST = per_list
            seconds, centroids = run(vectors, options, folder / "growing")
            looks = sum(
                schedule.count_assigned(options, len(x), i, vectors.block_rows)
                for i in range(niter)
            )
            objective = seed.objective_of(np.ascontiguousarray(x[::8]), centroids)
            found[kind, niter] = seconds, objective, looks / len(x)
    schedule.FEWEST_PER_LIST = fewest
    raw.unlink()
    reference = found["all", niters[0]]
    return [
        [
            name,
            f"{len(x) / nlist:.0f}",
            str(niter),
            kind,
            f"{looks:.2f}",
            f"{seconds:.1f}",
            f"{reference[0] / seconds:.2f}",
            f"{objective / reference[1]:.4f}",
        ]
        for (kind, niter), (seconds, objective, looks) in found.items()
    ]


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", default=",".join(CASES))
    parser.add_argument("--niter", default="10,20")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    niters = [int(part) for part in arguments.niter.split(",")]
    rows = []
    for name in arguments.case.split(","):
        rows += bench(name, arguments.folder, arguments.shared, niters)
        print(*rows[-2 * len(niters) :], sep="\n", flush=True)
    section = (
        f"### k-means: growing samples\n\n{THREADS} threads. 'Growing' is what is done: first "
        f"iterations look at a part of the vectors, at {schedule.FEWEST_PER_LIST} for each list at "
        "least. 'Looks' is in units of all vectors; the objective is exact, of every eighth "
        f"vector, and like the speed relative to {niters[0]} iterations on all:\n\n"
        + measure.table(
            [
                "set and nlist",
                "vectors a list",
                "iterations",
                "vectors",
                "looks",
                "s",
                "times",
                "objective",
            ],
            rows,
        )
    )
    print(section)
    measure.write_section("k-means growing", section)


if __name__ == "__main__":
    main()
