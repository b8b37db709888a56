"""One system's points for `benchmarks.vs_disk`: recall, speed and bytes at growing effort.

    python -m benchmarks.points teravec|faiss-ram|faiss-mmap|faiss-random INDEX QUERIES TRUTH
        [--memory 1GiB] [--cold FIRST COUNT]

Prints one line of JSON: a list of points. Runs in a process of its own, so that resident memory
is this system's alone. FIRST and COUNT say which queries are searched cold.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import teravec
from benchmarks import data, measure, seed

K = 10
RECALLS = (0.8, 0.85, 0.9, 0.95, 0.98)
NPROBES = (2, 4, 8, 16, 32, 64, 128, 256)
ENOUGH = 0.955  # recall from which on no more effort is measured
ALONE = 100

Point = dict[str, Any]


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    started = time.perf_counter()
    found = act()
    return time.perf_counter() - started, found


def warm_point(
    search: Callable[[data.Floats], tuple[Any, data.Ids]], queries: data.Floats, truth: data.Ids
) -> Point:
    """Recall, and queries a second in a batch and one by one, after a round that warms."""
    search(queries)
    seconds, (_, ids) = timed(lambda: search(queries))
    alone = [timed(lambda q=query: search(q[None]))[0] for query in queries[:ALONE]]  # type: ignore[misc]
    return {
        "recall": data.recall(ids, truth, K),
        "batch_qps": len(queries) / seconds,
        "alone_qps": 1 / float(np.median(alone)),
    }


def cold_point(run: measure.ColdRun) -> Point:
    """Latencies and the device's bytes of cold single queries."""
    return {"cold_s": run.seconds, "read": run.bytes_read}


def teravec_points(
    root: Path, memory: str, queries: data.Floats, truth: data.Ids, cold: slice
) -> list[Point]:
    """By the recall asked for; besides, the rate of a cold batch of all queries."""
    points = []
    with (
        teravec.open(root, memory=memory) as index,
        teravec.open(root, memory=memory, keep_lists=False) as unkept,
    ):
        files = [path for path in (root / "slices").iterdir() if path.is_file()]
        for recall in RECALLS:
            try:
                effort = index.effort(recall=recall, k=K)
            except teravec.InvalidArgument:  # above what its codes reach
                break
            point = warm_point(lambda q, e=effort: index.search_at(q, K, e), queries, truth)  # type: ignore[misc]
            before = vars(unkept.stats).copy()
            run = measure.cold_queries(
                lambda: measure.KeptOpen(unkept),
                lambda held, query, e=effort: held.index.search_at(query, K, e),  # type: ignore[misc]
                files,
                queries[cold],
            )
            spent = {name: value - before[name] for name, value in vars(unkept.stats).items()}
            measure.drop_page_cache(files)
            read = measure.device_read_bytes()
            seconds, _ = timed(lambda e=effort: unkept.search_at(queries, K, e))  # type: ignore[misc]
            points.append(
                {
                    "effort": f"--recall {recall}",
                    **point,
                    **cold_point(run),
                    "reads": spent["reads"] / len(run.seconds),
                    "cold_batch_s": seconds,
                    "cold_batch_read": measure.device_read_bytes() - read,
                }
            )
    return points


def faiss_ram_points(index: Any, queries: data.Floats, truth: data.Ids) -> list[Point]:
    """All lists in memory; a batch by queries, a single one by its lists, as is best for each."""
    ivf, points = faiss.extract_index_ivf(index), []
    for nprobe in NPROBES:

        def search(q: data.Floats, nprobe: int = nprobe) -> tuple[Any, data.Ids]:
            ivf.nprobe, ivf.parallel_mode = nprobe, 0 if len(q) > 1 else 1
            return index.search(q, K)  # type: ignore[no-any-return]

        points.append({"effort": f"nprobe {nprobe}", **warm_point(search, queries, truth)})
        if points[-1]["recall"] > ENOUGH:
            break
    return points


def faiss_disk_points(
    path: Path, random: bool, queries: data.Floats, truth: data.Ids, cold: slice
) -> list[Point]:
    """Lists mapped from disk, read by page faults."""
    points: list[Point] = []
    opened = seed.seed_open(path, seed.SearchOptions())
    for nprobe in NPROBES:
        recall = data.recall(seed.seed_search(opened, queries, K, nprobe)[1], truth, K)
        points.append({"effort": f"nprobe {nprobe}", "recall": recall})
        if recall > ENOUGH:
            break
    del opened  # its map would keep pages in memory
    for point in points:
        options = seed.SearchOptions(
            nprobe=int(point["effort"].split()[1]), random_access=random, parallel_mode=1
        )
        point |= cold_point(seed.seed_cold(path, queries[cold], options))
    return points


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system")
    for name in ("index", "queries", "truth"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--cold", type=int, nargs=2, default=(0, 20))
    given = parser.parse_args(arguments)
    queries = np.ascontiguousarray(data.open_matrix(given.queries), np.float32)[:1000]
    truth = data.read_truth(given.truth)[1][: len(queries)]
    cold = slice(given.cold[0], given.cold[0] + given.cold[1])
    if given.system == "teravec":
        points = teravec_points(given.index, given.memory, queries, truth, cold)
    elif given.system == "faiss-ram":
        points = faiss_ram_points(faiss.read_index(str(given.index)), queries, truth)
    else:
        points = faiss_disk_points(
            given.index, given.system == "faiss-random", queries, truth, cold
        )
    print(json.dumps(points))


if __name__ == "__main__":
    main()
