"""The nearest neighbours within a whole data set, at several memory limits.

    python -m benchmarks.corpus FOLDER [--shared DIR]

The index is on disk, its page cache dropped before each run; indexes and results go to FOLDER.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks import data, measure
from teravec.bulk.results import read_neighbors

K, NPROBE = 10, 16
LIMITS = ("32MiB", "64MiB", "256MiB", "1GiB")
SAMPLE = 500  # queries whose exact neighbours the result is compared with


def teravec(*arguments: object) -> measure.ChildRun:
    """Run the command line."""
    return measure.run_child([sys.executable, "-m", "teravec", *map(str, arguments)])


def recall(dataset: data.Dataset, ids: np.ndarray) -> float:
    """Recall@K of some rows, each vector itself left out."""
    vectors = np.asarray(dataset.matrix(), np.float32)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    hits = 0
    for row in np.linspace(0, len(vectors) - 1, SAMPLE).astype(int).tolist():
        distances = squares - 2 * (vectors @ vectors[row])
        distances[row] = np.inf
        hits += len(set(np.argpartition(distances, K)[:K].tolist()) & set(ids[row].tolist()))
    return hits / (SAMPLE * K)


def run(folder: Path, dataset: data.Dataset) -> str:
    """Search at every limit; the section's text."""
    index = folder / f"{dataset.name}-corpus-index"
    teravec("build", dataset.base, "--out", index, "--nlist", 1024, "--codec", "sq8", "-q")
    lists = sorted((index / "slices").iterdir())
    rows, results = [], set()
    for limit in LIMITS:
        out = folder / "graph.bin"
        measure.drop_page_cache(lists)
        child = teravec(
            "search",
            index,
            dataset.base,
            "-k",
            K,
            "--nprobe",
            NPROBE,
            "--exclude-self",
            "--memory",
            limit,
            "--out",
            out,
            "--stats",
            "--json",
        )
        said = json.loads(child.stdout)
        results.add(out.read_bytes())
        rows.append(
            (
                limit,
                said["batches"],
                f"{child.seconds:.1f}",
                f"{said['queries'] / child.seconds:,.0f}",
                f"{said['stats']['bytes_read'] / 1e6:,.0f}",
                f"{said['stats']['wait_s']:.1f}",
                f"{child.peak_rss_bytes / (1 << 20):,.0f}",
            )
        )
    share = recall(dataset, read_neighbors(out).ids)
    size = sum(path.stat().st_size for path in lists) / 1e6
    n = len(dataset.matrix())
    return (
        f"### {dataset.name}: the {K} nearest of each of its {n:,} vectors, itself left out\n\n"
        f"sq8, nlist 1,024, nprobe {NPROBE}, slices of {size:,.0f} MB; page cache dropped; "
        f"recall@{K} {share:.3f} on {SAMPLE} rows; {len(results)} different result(s) among the "
        "limits. Seconds and peak are of the whole command.\n\n"
        + measure.table(
            ("--memory", "batches", "s", "queries/s", "MB read", "s waiting", "peak MiB"), rows
        )
    )


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    dataset = data.sift_photos(arguments.shared)
    section = run(arguments.folder, dataset)
    print(section)
    measure.write_section(f"corpus {dataset.name}", section)


if __name__ == "__main__":
    main()
