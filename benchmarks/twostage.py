"""Recall against bytes read: codes in two stages beside one stage, adaptive probing or not.

    python -m benchmarks.twostage FOLDER [--data synthetic|sift|minilm] [--nb 1000000]
        [--nlist 256] [--shared SHARED] [--codecs sq6,rabitq1+sq8,...] [--candidates 300,500]

Every query is searched alone, as its bytes would be read by nobody else. Bytes are those of the
sectors of 512 that direct reads take; beside them, those of sectors of 4,096, which are 3,584
more for each read, on average over where it begins. nprobe grows by steps of 1.15; between two
steps, bytes are taken linear in recall, so that all are compared at the same recall. FOLDER
holds vectors and indexes, some gigabytes.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass
from itertools import chain, pairwise, product
from pathlib import Path

import numpy as np

import teravec
from benchmarks import data, measure, records
from teravec.search.effort import Effort
from teravec.search.index import Index

K = 10
CODECS = "sq6,rabitq1+sq8,rabitq2+sq8,rabitq1+sq6,rabitq1+fp16"
CANDIDATES = "300,500"
TARGETS = (0.9, 0.95)
BASELINE = ("sq6", "fixed")
STEP = 1.15
ROUNDED = 4096 - 512  # more bytes a read, where sectors are of 4,096


@dataclass(frozen=True)
class Point:
    """What one effort gave, on average over queries."""

    recall: float
    read: float
    read_4096: float
    lists: float
    refined: float
    reads: float

    def between(self, other: Point, recall: float) -> Point:
        """Where the line to another point has this recall."""
        share = (recall - self.recall) / (other.recall - self.recall)
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Point(*(a + share * (b - a) for a, b in pairs))


def open_set(arguments: argparse.Namespace) -> data.Dataset:
    """The set that the command line names."""
    if arguments.data == "sift":
        return data.sift_photos(arguments.shared)
    if arguments.data == "minilm":
        return data.minilm_sentences(arguments.shared)
    return data.synthetic(arguments.vectors or arguments.folder, data.Synthetic(nb=arguments.nb))


def built(dataset: data.Dataset, codec: str, nlist: int, folder: Path) -> Path:
    """The index of a codec, built where it is not there; all have the same lists."""
    path = folder / f"{dataset.name.replace(' ', '-')}-{nlist}-{codec}"
    if not (path / "manifest.json").exists():
        teravec.build(dataset.base, path, nlist=nlist, codec=codec, transform="rotation")
    return path


def point(index: Index, queries: np.ndarray, truth: np.ndarray, effort: Effort) -> Point:
    """Search queries one by one."""
    before = vars(index.stats).copy()
    found = [index.search_at(query[None], K, effort)[1] for query in queries]
    spent = {name: (n - before[name]) / len(queries) for name, n in vars(index.stats).items()}
    recall = data.recall(np.concatenate(found), truth, K)
    read, reads = spent["bytes_read"], spent["reads"]
    lists, refined = spent["lists_wanted"], spent["codes_refined"]
    return Point(recall, read, read + ROUNDED * reads, lists, refined, reads)


def curve(
    index: Index, queries: np.ndarray, truth: np.ndarray, prune: float, candidates: int | None
) -> list[Point]:
    """Points up to the highest target, or the most lists."""
    points: list[Point] = []
    nprobe = 4.0
    while nprobe <= index.nlist:
        effort = Effort(round(nprobe), prune, candidates)
        points.append(point(index, queries, truth, effort))
        if points[-1].recall >= max(TARGETS):
            break
        nprobe *= STEP
    return points


def at_recall(points: list[Point], target: float) -> Point | None:
    """Where the curve first reaches a recall."""
    for before, after in pairwise(points):
        if before.recall < target <= after.recall:
            return before.between(after, target)
    return None


def main() -> None:
    """Measure one set and write its section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--data", default="synthetic", choices=("synthetic", "sift", "minilm"))
    parser.add_argument("--shared", type=Path, default=records.ROOT / "shared" / "data")
    parser.add_argument("--nb", type=int, default=1_000_000)
    parser.add_argument("--nlist", type=int, default=256)
    parser.add_argument("--nq", type=int, default=300)
    parser.add_argument("--codecs", default=CODECS)
    parser.add_argument("--candidates", default=CANDIDATES)
    arguments = parser.parse_args()
    dataset = open_set(arguments)
    queries, truth = dataset.queries()[: arguments.nq], dataset.neighbours()[1][: arguments.nq]
    curves: dict[tuple[str, str, str], list[Point]] = {}
    for codec in arguments.codecs.split(","):
        path = built(dataset, codec, arguments.nlist, arguments.folder)
        with teravec.open(path, keep_lists=False) as index:
            several = [int(c) for c in arguments.candidates.split(",")] if "+" in codec else [None]
            assert index.calibration is not None
            weight = index.calibration.points[0].prune
            for candidates, prune in product(several, (0.0, weight)):
                key = codec, "adaptive" if prune else "fixed", str(candidates or "-")
                curves[key] = curve(index, queries, truth, prune, candidates)
                print(*key, curves[key][-1], flush=True)
    title = f"{dataset.name}, nlist {arguments.nlist}, {len(queries)} queries, each alone"
    measure.write_section(f"twostage {arguments.data} {arguments.nlist}", report(title, curves))


def report(title: str, curves: dict[tuple[str, str, str], list[Point]]) -> str:
    """The section: bytes read a query at a recall@10, and how many times fewer than one stage."""
    header = ["codec", "probing", "candidates"]
    for target in TARGETS:
        header += [f"recall {target}: MB", "times fewer", "lists", "codes", "reads", "MB by 4,096"]
        header += ["times fewer"]
    base = [
        next(
            (at_recall(points, target) for key, points in curves.items() if key[:2] == BASELINE),
            None,
        )
        for target in TARGETS
    ]
    rows = [
        [
            *key,
            *chain.from_iterable(
                cells(at_recall(points, target), one)
                for target, one in zip(TARGETS, base, strict=True)
            ),
        ]
        for key, points in curves.items()
    ]
    return (
        f"### Two stages: bytes read a query, {title}\n\n"
        "Bytes of the sectors of 512 that are read, ids included, at a recall@10; how many times "
        f"fewer than {BASELINE[0]} with {BASELINE[1]} nprobe; lists visited, finer codes read, "
        "reads; then the same bytes where a device reads 4,096 at least. Adaptive probing is "
        "what a search by recall does. Counts, not timings.\n\n"
        f"{measure.table(header, rows)}\n\n"
        "Made by `python -m benchmarks.twostage`."
    )


def cells(found: Point | None, base: Point | None) -> list[str]:
    """A point's columns of the table."""
    if found is None:
        return ["-"] * 7
    fewer = (
        [f"{base.read / found.read:.2f}", f"{base.read_4096 / found.read_4096:.2f}"]
        if base
        else ["-"] * 2
    )
    return [
        f"{found.read / 1e6:.2f}",
        fewer[0],
        f"{found.lists:.1f}",
        f"{found.refined:.0f}",
        f"{found.reads:.0f}",
        f"{found.read_4096 / 1e6:.2f}",
        fewer[1],
    ]


if __name__ == "__main__":
    main()
