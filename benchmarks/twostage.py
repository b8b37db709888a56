"""Recall against bytes read: codes in two stages beside one stage.

    python -m benchmarks.twostage FOLDER [--data synthetic|sift|minilm] [--nb 1000000]
        [--nlist 512] [--shared SHARED] [--codecs sq6,rabitq1+sq8,...]

Every query is searched alone, as its bytes would be read by nobody else. Bytes are those asked
of the files, plus one device page for each list, as lists are not aligned to pages; pages of
finer codes are. For each codec and number of candidates, the table gives the least bytes that
reach a recall, over nprobe. FOLDER holds vectors and indexes, some gigabytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import teravec
from benchmarks import data, measure
from teravec.search.index import Index

K = 10
PAGE = 4096
CODECS = "sq6,sq8,rabitq1+sq6,rabitq1+sq8,rabitq2+sq6,rabitq2+sq8"
CANDIDATES = (30, 60, 100, 200, 400)
TARGETS = (0.8, 0.9, 0.95, 0.98)


def open_set(arguments: argparse.Namespace) -> data.Dataset:
    """The set that the command line names."""
    if arguments.data == "sift":
        return data.sift_photos(arguments.shared)
    if arguments.data == "minilm":
        return data.minilm_sentences(arguments.shared)
    return data.synthetic(arguments.vectors or arguments.folder, data.Synthetic(nb=arguments.nb))


def open_built(dataset: data.Dataset, codec: str, nlist: int, folder: Path) -> Index:
    """The index of a codec, built where it is not there; all have the same lists."""
    path = folder / f"{dataset.name.replace(' ', '-')}-{nlist}-{codec}"
    if not path.exists():
        teravec.build(dataset.base, path, nlist=nlist, codec=codec, transform="rotation")
    return teravec.open(path, keep_lists=False)


def cost(
    index: Index, queries: np.ndarray, truth: np.ndarray, nprobe: int, candidates: int | None
) -> tuple[float, float, float]:
    """Recall, bytes and pages of finer codes of a query searched alone, on average."""
    before = vars(index.stats).copy()
    found = [index.search(q[None], K, nprobe, candidates=candidates)[1] for q in queries]
    spent = {name: value - before[name] for name, value in vars(index.stats).items()}
    read = spent["bytes_read"] + PAGE * spent["lists_read"]
    recall = data.recall(np.concatenate(found), truth, K)
    return recall, read / len(queries), spent["codes_refined"] / len(queries)


def curve(
    index: Index, queries: np.ndarray, truth: np.ndarray, candidates: int | None
) -> list[tuple[int, float, float, float]]:
    """nprobe, recall, bytes and codes refined, up to the highest target or the most lists."""
    points, nprobe = [], 1
    while nprobe <= index.nlist:
        points.append((nprobe, *cost(index, queries, truth, nprobe, candidates)))
        reached = points[-1][1] >= max(TARGETS)
        flat = len(points) > 2 and points[-1][1] - points[-3][1] < 1e-3
        if reached or flat:
            break
        nprobe = max(nprobe + 1, round(nprobe * 1.15))
    return points


def cheapest(points: list[tuple[int, float, float, float]], target: float) -> str:
    """The first point that reaches a recall, as a cell of the table."""
    for nprobe, recall, read, refined in points:
        if recall >= target:
            return f"{read / 1e6:.2f} MB ({nprobe} lists, {refined:.0f} codes, {recall:.3f})"
    return f"- (at most {max(point[1] for point in points):.3f})"


def main() -> None:
    """Measure one set and write its section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--data", default="synthetic", choices=("synthetic", "sift", "minilm"))
    parser.add_argument("--shared", type=Path, default=measure.ROOT / "shared" / "data")
    parser.add_argument("--nb", type=int, default=1_000_000)
    parser.add_argument("--nlist", type=int, default=512)
    parser.add_argument("--nq", type=int, default=300)
    parser.add_argument("--codecs", default=CODECS)
    parser.add_argument("--candidates", default=",".join(map(str, CANDIDATES)))
    arguments = parser.parse_args()
    dataset = open_set(arguments)
    queries, truth = dataset.queries()[: arguments.nq], dataset.neighbours()[1][: arguments.nq]
    rows = []
    for codec in arguments.codecs.split(","):
        with open_built(dataset, codec, arguments.nlist, arguments.folder) as index:
            several = [int(c) for c in arguments.candidates.split(",")] if "+" in codec else [None]
            for candidates in several:
                points = curve(index, queries, truth, candidates)
                cells = [cheapest(points, target) for target in TARGETS]
                rows.append([codec, str(candidates or "-"), *cells])
                print(" | ".join(rows[-1]), flush=True)
    title = f"{dataset.name}, nlist {arguments.nlist}, {len(queries)} queries, each alone"
    measure.write_section(f"twostage {arguments.data} {arguments.nlist}", report(title, rows))


def report(title: str, rows: list[list[str]]) -> str:
    """The section: bytes read a query at a recall@10, with what it took, in brackets."""
    header = ["codec", "candidates", *(f"recall {target}" for target in TARGETS)]
    return (
        f"### Two stages: bytes read a query, {title}\n\n"
        "Least bytes that reach a recall@10, nprobe the same for every query and in steps of 1.15. "
        "In brackets: lists visited, finer codes read, recall reached. Counts, not timings.\n\n"
        f"{measure.table(header, rows)}\n\n"
        "Made by `python -m benchmarks.twostage`."
    )


if __name__ == "__main__":
    main()
