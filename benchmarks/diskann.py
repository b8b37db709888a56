"""DiskANN on the same vectors, run by a Python that has diskannpy; prints one line of JSON.

    python benchmarks/diskann.py build BASE OUT
    python benchmarks/diskann.py search OUT QUERIES TRUTH COMPLEXITY,COMPLEXITY... FIRST COUNT

BASE and QUERIES are .fbin or .u8bin files. FIRST and COUNT say which queries are searched cold.
Stands alone: that Python need not have teravec.
"""

import argparse
import json
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import diskannpy
import numpy as np

THREADS = 2
DEGREE, COMPLEXITY = 64, 100  # of the graph; the authors' settings for SIFT1M
SEARCH_GIB_A_VECTOR = 82 / 2**30  # for compressed vectors in memory
BUILD_GB = 8.0
ALONE = 100  # queries, one after another
ENOUGH = 0.955  # recall from which on no more effort is measured


def matrix(path: Path) -> np.ndarray:
    """Read a .fbin or .u8bin file, as float32."""
    n, d = np.fromfile(path, "<u4", 2).tolist()
    kind = "<f4" if path.suffix == ".fbin" else "u1"
    return np.fromfile(path, kind, n * d, offset=8).reshape(n, d).astype(np.float32)


def build(base: Path, out: Path) -> dict[str, float]:
    """Build the index on disk."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    x = matrix(base)
    diskannpy.build_disk_index(
        data=x,
        distance_metric="l2",
        index_directory=str(out),
        complexity=COMPLEXITY,
        graph_degree=DEGREE,
        search_memory_maximum=SEARCH_GIB_A_VECTOR * len(x),
        build_memory_maximum=BUILD_GB,
        num_threads=THREADS,
    )
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in out.iterdir())
    return {"seconds": seconds, "bytes": size, "rss": rss()}


def search(
    out: Path, queries: Path, truth: Path, complexities: list[int], cold: slice
) -> list[dict[str, Any]]:
    """Recall@10, queries a second in a batch and alone, and latency of cold single queries."""
    xq = matrix(queries)[:1000]
    n, k = np.fromfile(truth, "<u4", 2).tolist()
    true = np.fromfile(truth, "<u4", n * k, offset=8).reshape(n, k)[: len(xq), :10]
    index: Any = diskannpy.StaticDiskIndex(
        index_directory=str(out), num_threads=THREADS, num_nodes_to_cache=0
    )
    points: list[dict[str, Any]] = []
    for complexity in complexities:
        index.batch_search(xq, 10, complexity, THREADS)
        started = time.perf_counter()
        found = index.batch_search(xq, 10, complexity, THREADS).identifiers
        seconds = time.perf_counter() - started
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True))
        alone, latencies, read = [], [], []
        for query in xq[:ALONE]:
            started = time.perf_counter()
            index.search(query, 10, complexity)
            alone.append(time.perf_counter() - started)
        for query in xq[cold]:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
            before, started = read_bytes(), time.perf_counter()
            index.search(query, 10, complexity)
            latencies.append(time.perf_counter() - started)
            read.append(read_bytes() - before)
        points.append(
            {
                "effort": f"L {complexity}",
                "recall": hits / true.size,
                "batch_qps": len(xq) / seconds,
                "alone_qps": 1 / statistics.median(alone),
                "cold_s": latencies,
                "read": read,
            }
        )
        if points[-1]["recall"] > ENOUGH:
            break
    return points


def read_bytes() -> int:
    """Bytes that this process made the device read."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def rss() -> int:
    """Highest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run one step; the library's own messages go to standard error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["build", "search"])
    parser.add_argument("arguments", nargs="+")
    given = parser.parse_args()
    result_fd = os.dup(1)
    os.dup2(2, 1)
    first, second, *rest = given.arguments
    result: Any
    if given.step == "build":
        result = build(Path(first), Path(second))
    else:
        complexities = [int(text) for text in rest[1].split(",")]
        cold = slice(int(rest[2]), int(rest[2]) + int(rest[3]))
        result = search(Path(first), Path(second), Path(rest[0]), complexities, cold)
    with os.fdopen(result_fd, "w") as out:
        print(json.dumps(result), file=out)


if __name__ == "__main__":
    main()
