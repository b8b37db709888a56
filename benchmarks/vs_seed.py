"""teravec beside the original pipeline, rebuilt in plain Faiss, on the same vectors.

    python -m benchmarks.vs_seed FOLDER [--data synthetic|sift|large] [--only kmeans,shard,...]

Every stage is run side by side in one process tree, in turns, and its medians replace a
record in benchmarks/results. FOLDER holds the vectors and indexes, some gigabytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import teravec
from benchmarks import data, measure, seed
from teravec.engines.resources import Resources
from teravec.model.model import Model
from teravec.model.transform import Transform
from teravec.progress import NoProgress
from teravec.storage.layout import IndexPaths
from teravec.training.kmeans import kmeans
from teravec.training.options import KMeansOptions, TrainOptions
from teravec.training.record import LayoutOptions
from teravec.training.sample import Sample
from teravec.training.training_set import TrainingSet

THREADS = 2
MEMORY = 1 << 30
STAGES = ("kmeans", "shard", "merge", "warm", "cold", "build")
SHARDS = 4
SEED_ROWS = 20_000  # added at efSearch 1024, some 2,000 a second
SEED_MERGED_ROWS = 2_000_000  # more take minutes to add, and merge at the same rate


@dataclass(frozen=True)
class Case:
    """One data set and how it is indexed."""

    name: str
    set: data.Dataset
    nlist: int
    folder: Path

    def path(self, name: str) -> Path:
        """A file or directory of this case."""
        return self.folder / f"{self.name}-{name}"


def synthetic(folder: Path, _: Path) -> Case:
    """1,000,000 x 96, nlist 8192."""
    made = data.synthetic(folder, data.Synthetic(nb=1_000_000), k=100)
    return Case("synthetic-1M", made, 8192, folder)


def sift(folder: Path, shared: Path) -> Case:
    """sift-photos, 301,217 x 128, nlist 1024."""
    return Case("sift-photos", data.sift_photos(shared), 1024, folder)


def large(folder: Path, _: Path) -> Case:
    """8,000,000 x 96, nlist 16,384: for merge, cold and build; 3 GB of vectors."""
    made = data.synthetic(folder, data.Synthetic(nb=8_000_000), k=100)
    return Case("synthetic-8M", made, 16384, folder)


CASES: dict[str, Callable[[Path, Path], Case]] = {
    "synthetic": synthetic,
    "sift": sift,
    "large": large,
}


# ---------------------------------------------------------------- k-means


def bench_kmeans(case: Case) -> str:
    """Ten iterations on all vectors: ours, contrib as shipped, contrib with its BLAS cured."""
    raw = case.path("raw.f32")
    x = np.ascontiguousarray(case.set.matrix(), dtype=np.float32)
    x.tofile(raw)
    matrix = case.path("train.npy")
    np.save(matrix, x)
    centroids: dict[str, Any] = {}
    objective: dict[str, float] = {}
    each: dict[str, list[float]] = {"teravec": [], "contrib": [], "contrib cured": []}

    def ours() -> None:
        directory = case.path("kmeans")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        vectors = TrainingSet(Sample(raw, *x.shape), Transform.unpack(None), x.shape[1])
        started = time.perf_counter()
        options = KMeansOptions(case.nlist, 10, 1234, False, THREADS)
        centroids["teravec"] = kmeans(vectors, options, directory, NoProgress()).centroids
        each["teravec"].append((time.perf_counter() - started) / 10)

    def contrib(name: str, coretype: str | None) -> None:
        found, run = seed.seed_kmeans_child(
            matrix, case.nlist, 10, case.path("contrib.npy"), coretype
        )
        centroids[name] = found
        each[name] += run.seconds

    ours()
    contrib("contrib", None)
    ours()
    contrib("contrib cured", measure.right_coretype())
    ours()
    for name, found in centroids.items():
        objective[name] = seed.objective_of(x, found)
    rows = []
    for name, seconds in each.items():
        median = statistics.median(seconds)
        rows.append(
            [
                name,
                f"{median:.2f}",
                f"{min(seconds):.2f} to {max(seconds):.2f}",
                f"{median / statistics.median(each['teravec']):.1f}",
                f"{objective[name] / objective['contrib']:.4f}",
            ]
        )
    raw.unlink()
    matrix.unlink()
    return "k-means, 10 iterations, all vectors:\n\n" + measure.table(
        ["", "s an iteration", "range", "times teravec's", "objective / contrib's"], rows
    )


# ---------------------------------------------------------------- building


def trained(case: Case) -> IndexPaths:
    """A trained model: random rotation, sq6, as the original."""
    paths = IndexPaths(case.path("index"))
    if not (paths.model / "model.json").exists():
        shutil.rmtree(paths.root, ignore_errors=True)
        teravec.train(
            case.set.base,
            paths.root,
            options=TrainOptions(nlist=case.nlist, codec="sq6", transform="rotation"),
            layout=LayoutOptions(SHARDS, 1),
            resources=Resources(MEMORY, THREADS),
        )
    return paths


def built(case: Case) -> IndexPaths:
    """A whole index, its shards kept."""
    paths = trained(case)
    if not paths.shards.children():
        paths.manifest.remove()
    if not paths.manifest.exists():
        teravec.shard(case.set.base, paths.root, resources=Resources(MEMORY, THREADS))
        teravec.merge(paths.root, keep_shards=True, resources=Resources(MEMORY, THREADS))
    return paths


def bench_shard(case: Case) -> str:
    """Vectors a second: ours from file to sealed shards, the original's adding alone."""
    paths = trained(case)
    model = Model.read(paths.model)
    index = seed.seed_empty_index(
        case.set.matrix().shape[1], model.centroids, case.set.sample(100_000)
    )
    x = case.set.matrix()
    few = case.set.sample(SEED_ROWS)
    rates: dict[str, list[float]] = {"teravec": [], "efSearch 1024": [], "efSearch 16": []}

    def ours() -> None:
        paths.shards.remove_all()
        paths.slices.remove_all()
        paths.manifest.remove()
        started = time.perf_counter()
        teravec.shard(case.set.base, paths.root, resources=Resources(MEMORY, THREADS))
        rates["teravec"].append(len(x) / (time.perf_counter() - started))

    def original(rows: Any, ef_search: int) -> None:
        rates[f"efSearch {ef_search}"].append(
            seed.seed_shard(index, rows, np.arange(len(rows)), ef_search=ef_search)
        )
        index.reset()

    for _ in range(3):
        ours()
        original(few, 1024)
        original(x[:300_000], 16)
    sample = case.set.sample(50_000, seed=99)
    assigner = model.assigner(THREADS)
    prepared = model.prepare(sample)
    _, exact = faiss.knn(prepared, np.ascontiguousarray(model.centroids), 1)
    found, _ = assigner.assign(prepared, threads=THREADS)
    agreement = {
        "teravec": float((found == exact[:, 0]).mean()),
        "efSearch 1024": seed.assignment_agreement(index, sample[:10_000], 1024),
        "efSearch 16": seed.assignment_agreement(index, sample, 16),
    }
    ours_rate = statistics.median(rates["teravec"])
    rows = [
        [
            name,
            f"{statistics.median(each):,.0f}",
            f"{ours_rate / statistics.median(each):.1f}",
            f"{agreement[name]:.4f}",
        ]
        for name, each in rates.items()
    ]
    return (
        "Sharding; ours reads, rotates, assigns, encodes, sorts, writes, syncs and verifies, "
        "the original only adds in memory:\n\n"
        + measure.table(["", "vectors/s", "teravec is faster", "assigned as exact"], rows)
    )


def bench_merge(case: Case) -> str:
    """Bytes a second of the merge, against copying the same bytes."""
    paths = built(case)
    shards = sorted((paths.root / "shards").iterdir())
    size = sum(path.stat().st_size for path in shards)
    model = Model.read(paths.model)
    index = seed.seed_empty_index(
        case.set.matrix().shape[1], model.centroids, case.set.sample(100_000)
    )
    empty = case.path("seed-empty.faissindex")
    faiss.write_index(index, str(empty))
    x = case.set.matrix()
    rows = min(len(x), SEED_MERGED_ROWS)
    bounds = [rows * i // SHARDS for i in range(SHARDS + 1)]
    ranges = [range(a, b) for a, b in pairwise(bounds)]
    seed_files, _ = seed.seed_shards(empty, x, ranges, case.folder, ef_search=16)
    out = case.path("seed-merged.faissindex")

    def ours() -> float:
        paths.manifest.remove()
        paths.slices.remove_all()
        started = time.perf_counter()
        teravec.merge(paths.root, keep_shards=True, resources=Resources(MEMORY, THREADS))
        return time.perf_counter() - started

    def original() -> float:
        for path in (out, seed.data_path(out)):
            path.unlink(missing_ok=True)
        run = seed.seed_merge(empty, seed_files, out)
        return (run.merge_s + run.sync_s) * len(x) / rows

    def copy() -> float:
        target = case.path("copy")
        target.unlink(missing_ok=True)
        return measure.copy_files(shards, target)

    times = measure.interleave({"teravec": ours, "Faiss merge_ondisk": original, "copy": copy}, 5)
    case.path("copy").unlink()
    for path in seed_files:
        path.unlink()
    table = [
        [
            name,
            f"{size / times.median(name) / 1e6:,.0f}",
            f"{times.median('copy') / times.median(name):.2f}",
        ]
        for name in times.seconds
    ]
    part = "" if rows == len(x) else f", Faiss of {rows:,} rows only"
    note = (
        f"Merging {SHARDS} shards, {size / 1e6:,.0f} MB, to one slice, until it is synced{part}; "
        "ours checks every list it reads, and reads back and checks what it wrote:\n\n"
    )
    return note + measure.table(["", "MB/s", "of the copy's rate"], table)


# ---------------------------------------------------------------- searching


def exported(case: Case, paths: IndexPaths) -> Path:
    """The same codes as a Faiss index."""
    path = case.path("export.faissindex")
    path.unlink(missing_ok=True)
    teravec.export_faiss(paths.root, path)
    return path


def with_hnsw(index: Any) -> Any:
    """The same index with HNSW32 over the same centroids as its coarse quantizer."""
    ivf = faiss.extract_index_ivf(index)
    centroids = ivf.quantizer.reconstruct_n(0, ivf.nlist)
    quantizer = faiss.IndexHNSWFlat(index.d, seed.HNSW_M)
    quantizer.hnsw.efConstruction = seed.EF_CONSTRUCTION
    quantizer.add(centroids)
    return quantizer


def bench_warm(case: Case) -> str:
    """A batch of 1,000 queries on warm lists, against Faiss with all lists in RAM."""
    paths = built(case)
    queries = case.set.queries()[:1000]
    truth = case.set.neighbours()[1][:1000]
    index = faiss.read_index(str(exported(case, paths)))
    ivf = faiss.extract_index_ivf(index)
    flat, graph = ivf.quantizer, with_hnsw(index)
    rows = []
    with teravec.open(paths.root) as ours, teravec.open(paths.root, memory="32MiB") as streamed:
        for nprobe in (4, 8, 16, 32, 64, 128):
            found: dict[str, Any] = {}

            def search(name: str, act: Callable[[], Any], found: dict[str, Any] = found) -> None:
                found[name] = act()[1]

            def in_ram(name: str, quantizer: Any, ef: int, mode: int, nprobe: int = nprobe) -> None:
                ivf.quantizer, ivf.parallel_mode, ivf.nprobe = quantizer, mode, nprobe
                if ef:
                    quantizer.hnsw.efSearch = ef
                search(name, lambda: index.search(queries, 10))

            tasks: dict[str, Callable[[], float | None]] = {
                "teravec": lambda n=nprobe: search("teravec", lambda: ours.search(queries, 10, n)),  # type: ignore[misc]
                "streamed": lambda n=nprobe: search(
                    "streamed", lambda: streamed.search(queries, 10, n)
                ),  # type: ignore[misc]
                "flat": lambda: in_ram("flat", flat, 0, 0),
                "hnsw": lambda n=nprobe: in_ram("hnsw", graph, max(32, 2 * n), 0),  # type: ignore[misc]
            }
            for task in tasks.values():
                task()
            times = measure.interleave(tasks, 7)
            rate = {name: len(queries) / times.median(name) for name in tasks}
            best = max(rate["flat"], rate["hnsw"])
            rows.append(
                [
                    nprobe,
                    f"{data.recall(found['teravec'], truth, 10):.3f}",
                    f"{data.recall(found['hnsw'], truth, 10):.3f}",
                    f"{rate['teravec']:,.0f}",
                    f"{rate['streamed']:,.0f}",
                    f"{rate['flat']:,.0f}",
                    f"{rate['hnsw']:,.0f}",
                    f"{rate['teravec'] / best:.2f}",
                    f"{rate['streamed'] / best:.2f}",
                ]
            )
        ivf.quantizer = flat
    return (
        "Warm batches of 1,000 queries, k = 10, same codes; queries/s. 'streamed' reads and "
        "verifies every list again in each batch (32 MiB of memory); 'flat' and 'hnsw' "
        "(efSearch = 2 nprobe) are Faiss with all lists in RAM:\n\n"
        + measure.table(
            [
                "nprobe",
                "recall@10",
                "recall, hnsw",
                "teravec",
                "teravec, streamed",
                "Faiss flat",
                "Faiss hnsw",
                "teravec / best Faiss",
                "streamed / best Faiss",
            ],
            rows,
        )
    )


def bench_cold(case: Case) -> str:
    """Single queries, the page cache dropped before each."""
    paths = built(case)
    queries = case.set.queries()[:60]
    truth = case.set.neighbours()[1][:60]
    export = exported(case, paths)
    index = faiss.read_index(str(export))
    index.reset()
    empty, disk = case.path("cold-empty.faissindex"), case.path("cold.faissindex")
    faiss.write_index(index, str(empty))
    for path in (disk, seed.data_path(disk)):
        path.unlink(missing_ok=True)
    seed.seed_merge(empty, [export], disk)
    slices = sorted((paths.root / "slices").iterdir())
    rows = []
    with teravec.open(paths.root) as opened:
        nprobes = nprobes_for(opened, queries, truth, (0.8, 0.9, 0.95))
    for nprobe in nprobes:
        with teravec.open(paths.root) as opened:
            recall = data.recall(opened.search(queries, 10, nprobe)[1], truth, 10)
            row_bytes = opened.manifest.code_size + 8
            mean_bytes = opened.stats.codes_scanned * row_bytes / len(queries)
        options = seed.SearchOptions(nprobe=nprobe)
        with teravec.open(paths.root, keep_lists=False) as ours:  # it maps nothing: no reopening
            runs = {
                "teravec": measure.cold_queries(
                    lambda o=ours: measure.KeptOpen(o),  # type: ignore[misc]
                    lambda index, query, n=nprobe: index.search(query, 10, n),  # type: ignore[misc]
                    slices,
                    queries,
                ),
                "Faiss mmap": seed.seed_cold(disk, queries, options),
                "Faiss, MADV_RANDOM": seed.seed_cold(
                    disk, queries, replace(options, random_access=True)
                ),
            }
        ours_s = runs["teravec"].median_s
        for name, run in runs.items():
            read = statistics.mean(run.bytes_read)
            rows.append(
                [
                    nprobe,
                    f"{recall:.3f}",
                    name,
                    f"{1e3 * run.median_s:.2f}",
                    f"{1e3 * float(np.quantile(run.seconds, 0.99)):.2f}",
                    f"{read / 1e6:.2f}",
                    f"{read / mean_bytes:.2f}",
                    f"{run.median_s / ours_s:.1f}",
                ]
            )
        method = runs["teravec"].method
    return (
        f"Cold single queries, the page cache dropped ({method}) before each, and Faiss's index "
        "reopened, as its map holds pages; ours keeps no lists. Same codes, flat coarse "
        "quantizer; bytes are the device's; lists' bytes are codes and ids of all lists "
        "visited:\n\n"
        + measure.table(
            [
                "nprobe",
                "recall@10",
                "",
                "p50 ms",
                "p99 ms",
                "MB read",
                "of the lists' bytes",
                "times teravec's p50",
            ],
            rows,
        )
    )


def nprobes_for(index: Any, queries: Any, truth: Any, targets: Sequence[float]) -> list[int]:
    """The least nprobe, by steps of a quarter, of each recall@10."""
    found, nprobe = [], 1
    for target in targets:
        while nprobe < index.nlist and target > data.recall(
            index.search(queries, 10, nprobe)[1], truth, 10
        ):
            nprobe = max(nprobe + 1, nprobe * 5 // 4)
        found.append(nprobe)
    return sorted(set(found))


def bench_build(case: Case) -> str:
    """The whole build by the command line, in 1 GiB, beside a build by LanceDB if it is there."""
    rows = []
    for name, command, out in _builders(case):
        shutil.rmtree(out, ignore_errors=True)
        run = measure.run_child(command)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        shutil.rmtree(out)
        rows.append(
            [name, f"{run.seconds:.0f}", f"{run.peak_rss_bytes / 2**20:,.0f}", f"{size / 1e6:,.0f}"]
        )
    return (
        "Whole builds, by one process each, from the file of vectors to a finished index; "
        "LanceDB's with its vectors:\n\n"
        + measure.table(["", "seconds", "peak RSS, MiB", "MB on disk"], rows)
    )


def _builders(case: Case) -> list[tuple[str, list[str], Path]]:
    ours, theirs = case.path("built"), case.path("lance")
    options = f"--nlist {case.nlist} --codec sq6 --memory 1GiB --quiet".split()
    builders = [
        (
            "teravec",
            [*teravec_command(), "build", str(case.set.base), "--out", str(ours), *options],
            ours,
        )
    ]
    if lance := os.environ.get("LANCE_PYTHON"):
        arguments = [str(case.set.base), str(theirs), str(case.nlist)]
        builders.append(
            ("LanceDB IVF_SQ", [lance, "benchmarks/lance.py", "build", *arguments], theirs)
        )
    return builders


def teravec_command() -> list[str]:
    """The command line of this installation."""
    return [sys.executable, "-m", "teravec"]


BENCHES: dict[str, Callable[[Case], str]] = {
    "kmeans": bench_kmeans,
    "shard": bench_shard,
    "merge": bench_merge,
    "warm": bench_warm,
    "cold": bench_cold,
    "build": bench_build,
}


def main() -> None:
    """Run the stages asked for and write each one's section as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="synthetic,sift")
    parser.add_argument("--only", default=",".join(STAGES))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.data.split(","):
        case = CASES[name](arguments.folder, arguments.shared)
        n, d = case.set.matrix().shape
        head = f"{case.name}, {n:,} x {d}, nlist {case.nlist:,}, sq6, random rotation."
        for stage in arguments.only.split(","):
            body = BENCHES[stage](case)
            section = f"### {stage}: {case.name}\n\n{head} {body}"
            print(section, flush=True)
            measure.write_section(f"vs_seed {case.name} {stage}", section)


if __name__ == "__main__":
    main()
