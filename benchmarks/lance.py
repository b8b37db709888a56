"""LanceDB on the same vectors, run by a Python that has it; prints one line of JSON.

    python benchmarks/lance.py build BASE OUT NLIST
    python benchmarks/lance.py search OUT QUERIES.fbin TRUTH NPROBE,NPROBE... FIRST COUNT

FIRST and COUNT say which queries are searched cold. Stands alone: that Python need not have
teravec.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

ROWS = 1 << 16
WARM = 300  # queries, one after another
ENOUGH = 0.955  # recall from which on no more effort is measured


def matrix(path: Path) -> np.ndarray:
    """Map a .fbin, .u8bin or .npy file."""
    if path.suffix == ".npy":
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    n, d = np.fromfile(path, "<u4", 2).tolist()
    return np.memmap(path, "<f4" if path.suffix == ".fbin" else "u1", "r", 8, (n, d))


def build(base: Path, out: Path, nlist: int) -> dict[str, float]:
    """Make a table of the vectors, and its IVF_SQ index."""
    x = matrix(base)
    schema = pa.schema(
        [pa.field("id", pa.int64()), pa.field("vector", pa.list_(pa.float32(), x.shape[1]))]
    )

    def batches() -> Iterator[Any]:
        for start in range(0, len(x), ROWS):
            block = np.ascontiguousarray(x[start : start + ROWS], np.float32)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), x.shape[1])
            yield pa.record_batch([pa.array(np.arange(start, start + len(block))), vectors], schema)

    table = lancedb.connect(str(out)).create_table("vectors", batches(), schema=schema)
    started = time.perf_counter()
    table.create_index(metric="l2", num_partitions=nlist, index_type="IVF_SQ")
    return {"index_s": time.perf_counter() - started, "rss": rss()}


def search(out: Path, queries: Path, truth: Path, nprobe: int, cold: slice) -> dict[str, Any]:
    """Recall@10, queries a second one after another, and latency with the page cache dropped."""
    xq = np.array(matrix(queries), np.float32)[:1000]
    n, k = np.fromfile(truth, "<u4", 2).tolist()
    true = np.fromfile(truth, "<u4", n * k, offset=8).reshape(n, k)[:WARM, :10]
    table = lancedb.connect(str(out)).open_table("vectors")

    def ask(table: Any, query: np.ndarray) -> np.ndarray:
        found = table.search(query).nprobes(nprobe).limit(10).select(["id"]).to_arrow()
        return np.asarray(found["id"].to_numpy())

    for query in xq[:20]:
        ask(table, query)
    started = time.perf_counter()
    found = [ask(table, query) for query in xq[:WARM]]
    seconds = time.perf_counter() - started
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True))
    latencies, read = [], []
    for query in xq[cold]:
        table = lancedb.connect(str(out)).open_table("vectors")
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        before, started = read_bytes(), time.perf_counter()
        ask(table, query)
        latencies.append(time.perf_counter() - started)
        read.append(read_bytes() - before)
    return {
        "effort": f"nprobe {nprobe}",
        "recall": hits / true.size,
        "alone_qps": WARM / seconds,
        "cold_s": latencies,
        "read": read,
    }


def read_bytes() -> int:
    """Bytes that this process made the device read."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def rss() -> int:
    """Highest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["build", "search"])
    parser.add_argument("arguments", nargs="+")
    given = parser.parse_args()
    first, second, *rest = given.arguments
    if given.step == "build":
        print(json.dumps(build(Path(first), Path(second), int(rest[0]))))
        return
    cold = slice(int(rest[2]), int(rest[2]) + int(rest[3]))
    points: list[dict[str, Any]] = []
    for nprobe in map(int, rest[1].split(",")):
        points.append(search(Path(first), Path(second), Path(rest[0]), nprobe, cold))
        if points[-1]["recall"] > ENOUGH:
            break
    print(json.dumps(points))


if __name__ == "__main__":
    main()
