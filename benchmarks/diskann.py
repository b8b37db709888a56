"""DiskANN on the same vectors, run by a Python that has diskannpy; prints one line of JSON.

    python benchmarks/diskann.py build BASE OUT
    python benchmarks/diskann.py search OUT QUERIES TRUTH COMPLEXITY

BASE and QUERIES are .fbin or .u8bin files. Stands alone: that Python need not have teravec.
"""

import argparse
import json
import os
import re
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import diskannpy
import numpy as np

THREADS = 2
DEGREE, COMPLEXITY = 64, 100  # of the graph; the authors' settings for SIFT1M
SEARCH_GB = 0.08  # for compressed vectors in memory: 82 bytes a vector at 1,000,000
BUILD_GB = 8.0


def matrix(path: Path) -> np.ndarray:
    """Read a .fbin or .u8bin file, as float32."""
    n, d = np.fromfile(path, "<u4", 2).tolist()
    kind = "<f4" if path.suffix == ".fbin" else "u1"
    return np.fromfile(path, kind, n * d, offset=8).reshape(n, d).astype(np.float32)


def build(base: Path, out: Path) -> dict[str, float]:
    """Build the index on disk."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    diskannpy.build_disk_index(
        data=matrix(base), distance_metric="l2", index_directory=str(out), complexity=COMPLEXITY,
        graph_degree=DEGREE, search_memory_maximum=SEARCH_GB, build_memory_maximum=BUILD_GB,
        num_threads=THREADS,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in out.iterdir())
    return {"seconds": seconds, "bytes": size, "rss": rss()}


def search(out: Path, queries: Path, truth: Path, complexity: int) -> dict[str, float]:
    """Recall@10, queries a second in a batch, and latency of cold single queries."""
    xq = matrix(queries)[:1000]
    n, k = np.fromfile(truth, "<u4", 2).tolist()
    true = np.fromfile(truth, "<u4", n * k, offset=8).reshape(n, k)[: len(xq), :10]
    index: Any = diskannpy.StaticDiskIndex(
        index_directory=str(out), num_threads=THREADS, num_nodes_to_cache=0
    )
    found = index.batch_search(xq, 10, complexity, THREADS).identifiers
    started = time.perf_counter()
    found = index.batch_search(xq, 10, complexity, THREADS).identifiers
    seconds = time.perf_counter() - started
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True))
    latencies, read = [], []
    for query in xq[:60]:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        before, started = read_bytes(), time.perf_counter()
        index.search(query, 10, complexity)
        latencies.append(time.perf_counter() - started)
        read.append(read_bytes() - before)
    return {
        "recall": hits / true.size, "qps": len(xq) / seconds,
        "cold_p50_s": statistics.median(latencies), "cold_p99_s": max(latencies),
        "bytes": statistics.mean(read), "rss": rss(),
    }  # fmt: skip


def read_bytes() -> int:
    """Bytes that this process made the device read."""
    found = re.search(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def rss() -> int:
    """Highest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run one step; the library's own messages go to standard error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["build", "search"])
    parser.add_argument("paths", nargs="+")
    arguments = parser.parse_args()
    result_fd = os.dup(1)
    os.dup2(2, 1)
    first, second, *rest = arguments.paths
    if arguments.step == "build":
        result = build(Path(first), Path(second))
    else:
        result = search(Path(first), Path(second), Path(rest[0]), int(rest[1]))
    with os.fdopen(result_fd, "w") as out:
        print(json.dumps(result), file=out)


if __name__ == "__main__":
    main()
