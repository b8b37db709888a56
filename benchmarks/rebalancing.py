"""What rebalancing costs and gives, on data that drifts, beside a rebuild.

    python -m benchmarks.rebalancing ../shared/data/sift-photos.base.u8bin --rows 60000

Half of the rows, those nearest to one of them, are built; half as many, the farthest, are added.
Then the index is rebalanced and compacted. Recall@10 against the vectors in the lists that a query
visits; the queries are taken out of both parts. At nprobe = nlist, recall shows what encoding rows
again costs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import teravec
from teravec.sources import open_data

Float32 = npt.NDArray[np.float32]

QUERIES, K = 500, 10


def drifting(vectors: Float32) -> tuple[Float32, Float32, Float32]:
    """Rows of the build, rows that are added, and queries like both."""
    far = vectors[np.argsort(((vectors - vectors[0]) ** 2).sum(1), kind="stable")]
    built = len(far) // 2
    rng = np.random.default_rng(1)
    base, more = rng.permutation(far[:built]), rng.permutation(far[-(built // 2) :])
    queries = np.concatenate([base[: 2 * QUERIES // 3], more[: QUERIES // 3]])
    return base[2 * QUERIES // 3 :], more[QUERIES // 3 :], queries


def curve(path: Path, queries: Float32, truth: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    points = []
    with teravec.open(path) as index:
        for nprobe in (4, 8, 16, 32, 64, index.nlist):
            before = index.stats.codes_scanned
            _, ids = index.search(queries, K, nprobe=nprobe)
            hits = [len(np.intersect1d(*pair)) for pair in zip(ids, truth, strict=True)]
            scanned = (index.stats.codes_scanned - before) / len(queries)
            points.append({"nprobe": nprobe, "recall": np.mean(hits) / K, "scanned": scanned})
    return points


def at_recall(points: list[dict[str, Any]], recall: float) -> float:
    """Vectors scanned for a recall, between the points."""
    recalls = [point["recall"] for point in points]
    return float(np.interp(recall, recalls, [point["scanned"] for point in points]))


def measure(data: str, rows: int, nlist: int, codec: str, metric: str) -> dict[str, Any]:
    source = open_data(data)
    vectors = source.take(np.arange(min(rows, source.ntotal)))
    base, more, queries = drifting(np.ascontiguousarray(vectors, np.float32))
    whole = np.concatenate([base, more])
    result: dict[str, Any] = {"codec": codec, "rows": len(whole), "nlist": nlist}
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder) / "index", Path(folder) / "rebuilt"
        _, truth = teravec.groundtruth(whole, queries, k=K, metric=metric)
        options: dict[str, Any] = {
            "nlist": nlist,
            "codec": codec,
            "metric": metric,
            "calibrate": False,
        }
        teravec.build(base, path, **options)
        teravec.add(path, more)
        result["added"] = curve(path, queries, truth)
        started, processors = time.perf_counter(), time.process_time()
        manifest = teravec.rebalance(path)
        result["rebalance_s"] = time.perf_counter() - started
        result["rebalance_cpu_s"] = time.process_time() - processors
        result["what"] = None if manifest is None else manifest.what
        if manifest is not None:
            result["voided"] = sum(segment.voided for segment in manifest.segments)
        teravec.compact(path, full=True)
        result["rebalanced"] = curve(path, queries, truth)
        processors = time.process_time()
        teravec.build(whole, again, **options)
        result["rebuild_cpu_s"] = time.process_time() - processors
        result["rebuilt"] = curve(again, queries, truth)
    needed = {kind: at_recall(result[kind], 0.9) for kind in ("added", "rebalanced", "rebuilt")}
    result["scanned_at_90"] = needed
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--nlist", type=int, default=512)
    parser.add_argument("--codecs", default="sq8,sq4,rabitq1+sq8")
    parser.add_argument("--metric", default="l2")
    given = parser.parse_args()
    for codec in given.codecs.split(","):
        print(json.dumps(measure(given.data, given.rows, given.nlist, codec, given.metric)))


if __name__ == "__main__":
    main()
