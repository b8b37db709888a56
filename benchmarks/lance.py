"""LanceDB on the same vectors, run by a Python that has it; prints one line of JSON.

    python benchmarks/lance.py build BASE.fbin OUT NLIST
    python benchmarks/lance.py search OUT QUERIES.fbin TRUTH NPROBE [--cold FOLDER]

Stands alone: that Python need not have teravec.
"""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

ROWS = 1 << 16


def matrix(path: Path) -> np.ndarray:
    """Map a .fbin file."""
    n, d = np.fromfile(path, "<u4", 2).tolist()
    return np.memmap(path, "<f4", "r", 8, (n, d))


def build(base: Path, out: Path, nlist: int) -> dict[str, float]:
    """Make a table of the vectors, and its IVF_SQ index."""
    x = matrix(base)
    schema = pa.schema(
        [pa.field("id", pa.int64()), pa.field("vector", pa.list_(pa.float32(), x.shape[1]))]
    )

    def batches() -> Iterator[Any]:
        for start in range(0, len(x), ROWS):
            block = np.ascontiguousarray(x[start : start + ROWS])
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), x.shape[1])
            yield pa.record_batch([pa.array(np.arange(start, start + len(block))), vectors], schema)

    table = lancedb.connect(str(out)).create_table("vectors", batches(), schema=schema)
    started = time.perf_counter()
    table.create_index(metric="l2", num_partitions=nlist, index_type="IVF_SQ")
    return {"index_s": time.perf_counter() - started, "rss": rss()}


def search(out: Path, queries: Path, truth: Path, nprobe: int, cold: bool) -> dict[str, float]:
    """Recall@10, queries a second one after another, and latency with the page cache dropped."""
    xq = np.array(matrix(queries))[:1000]
    n, k = np.fromfile(truth, "<u4", 2).tolist()
    true = np.fromfile(truth, "<u4", n * k, offset=8).reshape(n, k)[: len(xq), :10]
    table = lancedb.connect(str(out)).open_table("vectors")

    def ask(table: Any, query: np.ndarray) -> np.ndarray:
        found = table.search(query).nprobes(nprobe).limit(10).select(["id"]).to_arrow()
        return np.asarray(found["id"].to_numpy())

    ask(table, xq[0])
    started = time.perf_counter()
    found = [ask(table, query) for query in xq]
    seconds = time.perf_counter() - started
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True))
    result = {"recall": hits / true.size, "qps": len(xq) / seconds, "rss": rss()}
    if cold:
        latencies = []
        for query in xq[:60]:
            table = lancedb.connect(str(out)).open_table("vectors")
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
            started = time.perf_counter()
            ask(table, query)
            latencies.append(time.perf_counter() - started)
        result |= {"cold_p50_s": statistics.median(latencies), "cold_p99_s": max(latencies)}
    return result


def rss() -> int:
    """Highest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["build", "search"])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    first, second, *rest = arguments.paths
    if arguments.step == "build":
        print(json.dumps(build(Path(first), Path(second), int(rest[0]))))
    else:
        truth, nprobe = Path(rest[0]), int(rest[1])
        print(json.dumps(search(Path(first), Path(second), truth, nprobe, arguments.cold)))


if __name__ == "__main__":
    main()
