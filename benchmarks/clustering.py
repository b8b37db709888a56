"""k-means at large nlist beside the original's and Faiss's, step by step.

    python -m benchmarks.clustering FOLDER --case synthetic-16k [--step ours,shipped,cured,kmeans]

Each step leaves its numbers in FOLDER, so that a case may be measured in several sittings; the
record in benchmarks/results is written when all are there. ``shipped`` is
``faiss.contrib.clustering.kmeans`` as the wheel comes, ``cured`` the same with
``OPENBLAS_CORETYPE`` set for its process, ``kmeans`` is ``faiss.Kmeans`` as shipped. Some of
those steps stand for ten iterations by fewer, or for all vectors by a part of them (their time is
proportional to both); the section says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np

from benchmarks import data, measure, seed
from teravec.model.transform import Transform
from teravec.progress import NoProgress
from teravec.training.kmeans import kmeans
from teravec.training.options import KMeansOptions
from teravec.training.sample import Sample
from teravec.training.training_set import TrainingSet

THREADS = 2
NITER = 10
SEED = 1234


@dataclass(frozen=True)
class Case:
    """A set, nlist, and how much of it the slow programs get."""

    nlist: int
    make: Callable[[Path, Path], data.Dataset]
    shipped: tuple[float, int]  # part of the vectors, iterations
    cured: tuple[float, int]
    faiss: tuple[float, int]


def _synthetic(nb: int) -> Callable[[Path, Path], data.Dataset]:
    return lambda folder, _: data.synthetic(folder, data.Synthetic(nb=nb), k=100)


CASES = {
    "synthetic-16k": Case(16384, _synthetic(1_000_000), (1, 1), (1, NITER), (1, 1)),
    "minilm-16k": Case(
        16384, lambda _, shared: data.minilm_sentences(shared), (1, 2), (1, NITER), (1, 2)
    ),
    "synthetic-64k": Case(65536, _synthetic(2_000_000), (1 / 8, 1), (1 / 4, 1), (1 / 8, 1)),
}


@dataclass(frozen=True)
class Run:
    """Seconds of an iteration over all vectors, and the exact objective after ten."""

    seconds: float
    objective: float | None
    part: float
    niter: int


class Bench:
    """One case in one folder."""

    def __init__(self, name: str, folder: Path, shared: Path) -> None:
        self.name, self.case, self.folder = name, CASES[name], folder
        self.set = self.case.make(folder, shared)
        self.x = np.ascontiguousarray(self.set.matrix(), dtype=np.float32)

    def ours(self) -> Run:
        """Ten iterations from a file of float32, twice; all of training's k-means is timed."""
        raw, directory = self.folder / "clustering.f32", self.folder / "clustering"
        self.x.tofile(raw)
        seconds = []
        for _ in range(2):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            vectors = TrainingSet(
                Sample(raw, *self.x.shape), Transform.unpack(None), self.x.shape[1]
            )
            options = KMeansOptions(self.case.nlist, NITER, SEED, False, THREADS)
            started = time.perf_counter()
            state = kmeans(vectors, options, directory, NoProgress())
            seconds.append((time.perf_counter() - started) / NITER)
        agreement = [entry["agreement"] for entry in state.history]
        print(f"agreement of the iterations {min(agreement):.4f} to {max(agreement):.4f}")
        raw.unlink()
        return Run(statistics.median(seconds), self._objective(state.centroids), 1, NITER)

    def shipped(self) -> Run:
        """The original's k-means with the wheel's BLAS as it comes."""
        return self._contrib(*self.case.shipped, None)

    def cured(self) -> Run:
        """The same with the right BLAS kernels."""
        return self._contrib(*self.case.cured, measure.right_coretype())

    def kmeans(self) -> Run:
        """``faiss.Kmeans`` on all given vectors, as shipped."""
        part, niter = self.case.faiss
        x = self.x[: int(part * len(self.x))]
        each = faiss.Kmeans(
            x.shape[1],
            self.case.nlist,
            niter=niter,
            seed=SEED,
            max_points_per_centroid=1 << 20,
            min_points_per_centroid=1,
        )
        started = time.perf_counter()
        each.train(x)
        seconds = (time.perf_counter() - started) / niter
        objective = self._objective(each.centroids) if niter == NITER else None
        return Run(seconds / part, objective, part, niter)

    def _contrib(self, part: float, niter: int, coretype: str | None) -> Run:
        matrix, out = self.folder / "clustering.npy", self.folder / "clustering-contrib.npy"
        np.save(matrix, self.x[: int(part * len(self.x))])
        centroids, run = seed.seed_kmeans_child(matrix, self.case.nlist, niter, out, coretype, SEED)
        matrix.unlink()
        objective = self._objective(centroids) if niter == NITER else None
        return Run(run.median_s / part, objective, part, niter)

    def _objective(self, centroids: data.Floats) -> float:
        """Exact, on every eighth vector: the same for all."""
        return seed.objective_of(np.ascontiguousarray(self.x[::8]), centroids)

    def section(self, runs: dict[str, Run]) -> str:
        """What the results page says."""
        names = {
            "ours": "teravec",
            "shipped": "contrib as shipped",
            "cured": "contrib cured",
            "kmeans": "faiss.Kmeans as shipped",
        }
        reference = runs["cured"].objective or runs["ours"].objective or 1
        rows = [
            [
                names[step],
                f"{run.seconds:.2f}",
                f"{run.seconds / runs['ours'].seconds:.1f}",
                f"{run.objective / reference:.4f}" if run.objective else "not measured",
                f"{run.niter} iterations of {'all' if run.part == 1 else f'{run.part:.3g} of the'} "
                "vectors",
            ]
            for step, run in runs.items()
        ]
        total = NITER * runs["ours"].seconds
        return (
            f"### k-means: {self.name}\n\n{self.set.name}, nlist {self.case.nlist:,}, {THREADS} "
            f"threads, {NITER} iterations; ours takes {total:,.1f} s in all, its s an iteration is "
            "the mean, as the first ones look at a part of the vectors. The objective is exact, "
            "of every eighth vector:\n\n"
            + measure.table(
                ["", "s an iteration", "times teravec's", "objective / contrib's", "measured on"],
                rows,
            )
        )


def main() -> None:
    """Run the steps asked for; write the section when all have been run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", choices=list(CASES), required=True)
    parser.add_argument("--step", default="ours,shipped,cured,kmeans")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    bench = Bench(arguments.case, arguments.folder, arguments.shared)
    for step in arguments.step.split(","):
        run = getattr(bench, step)()
        print(step, run, flush=True)
        kept = arguments.folder / f"clustering-{arguments.case}-{step}.json"
        kept.write_text(json.dumps(asdict(run)))
    runs = {}
    for step in ("ours", "shipped", "cured", "kmeans"):
        kept = arguments.folder / f"clustering-{arguments.case}-{step}.json"
        if not kept.exists():
            return
        runs[step] = Run(**json.loads(kept.read_text()))
    section = bench.section(runs)
    print(section)
    measure.write_section(f"clustering {arguments.case}", section)


if __name__ == "__main__":
    main()
