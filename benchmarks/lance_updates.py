"""LanceDB under additions and deletes, run by a Python that has it; prints one line of JSON.

    python benchmarks/lance_updates.py BASE OUT ROWS PERCENT BATCH NLIST

Stands alone: that Python need not have teravec.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

BATCHES, BLOCK = 10, 1 << 16


def main() -> None:
    """Make a table and its index, change it, and print seconds and rates."""
    parser = argparse.ArgumentParser()
    for name in ("base", "out"):
        parser.add_argument(name, type=Path)
    for name in ("rows", "percent", "batch", "nlist"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    n, d = np.fromfile(given.base, "<u4", 2).tolist()
    x = np.memmap(given.base, "<f4", "r", 8, (n, d))
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("vector", pa.list_(pa.float32(), d))])

    def batch(start: int, stop: int) -> Any:
        flat = pa.array(np.ascontiguousarray(x[start:stop], np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, d)
        return pa.record_batch([pa.array(np.arange(start, stop)), vectors], schema)

    def batches() -> Iterator[Any]:
        for start in range(0, given.rows, BLOCK):
            yield batch(start, min(start + BLOCK, given.rows))

    def upsert(start: int, count: int) -> None:
        merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(pa.Table.from_batches([batch(start, start + count)]))

    table = lancedb.connect(str(given.out)).create_table("vectors", batches(), schema=schema)
    # As many partitions as LanceDB takes by itself, and a short training: only updates count here.
    table.create_index(
        metric="l2",
        num_partitions=min(given.nlist, round(given.rows**0.5)),
        index_type="IVF_SQ",
        max_iterations=10,
        sample_rate=64,
    )
    told = {}
    started = time.perf_counter()
    upsert(given.rows, given.percent)
    told[f"merge_insert of {given.percent:,} rows"] = f"{time.perf_counter() - started:.2f} s"
    gone = np.random.default_rng(0).choice(given.rows, given.percent, replace=False).tolist()
    started = time.perf_counter()
    table.delete(f"id IN ({','.join(map(str, gone))})")
    told[f"delete of {given.percent:,} ids"] = f"{time.perf_counter() - started:.2f} s"
    started = time.perf_counter()
    for number in range(BATCHES):
        upsert(given.rows + given.percent + number * given.batch, given.batch)
    rate = BATCHES * given.batch / (time.perf_counter() - started)
    told[f"merge_insert of {given.batch:,}, rows a second"] = f"{rate:,.0f}"
    started = time.perf_counter()
    table.optimize()
    told["optimize"] = f"{time.perf_counter() - started:.1f} s"
    print(json.dumps(told))


if __name__ == "__main__":
    main()
