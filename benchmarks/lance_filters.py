"""LanceDB under filters, run by a Python that has it; answers lines of JSON with lines of JSON.

    python benchmarks/lance_filters.py BASE.npy COLUMNS.parquet OUT NLIST

A question has ``queries`` (a .npy file), ``filter``, ``nprobes`` and ``together``; an answer the
ids found, and seconds: of each query alone, or of all together. ``cpu`` is of the whole process, a
query. Stands alone: that Python need not have teravec.
"""

import json
import resource
import sys
import time
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

K = 10


def make(base: Path, columns: Path, out: Path, nlist: int) -> lancedb.table.Table:
    """Make a table with an IVF_SQ index, and a scalar index of each column."""
    x = np.load(base).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    rows = pq.read_table(columns)
    rows = rows.append_column("id", pa.array(np.arange(len(x)))).append_column("vector", vectors)
    table = lancedb.connect(str(out)).create_table("vectors", rows)
    table.create_index(metric="l2", num_partitions=nlist, index_type="IVF_SQ")
    for name in pq.read_schema(columns).names:
        tags = pa.types.is_list(pq.read_schema(columns).field(name).type)
        table.create_scalar_index(name, index_type="LABEL_LIST" if tags else "BTREE")
    return table


def cpu() -> float:
    """Processor seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ask(table: lancedb.table.Table, asked: dict) -> dict:
    """Search, and measure."""
    queries = np.load(asked["queries"])
    ids, seconds, before = [], [], cpu()
    for query in [queries] if asked["together"] else queries:
        began = time.perf_counter()
        search = table.search(query).nprobes(asked["nprobes"]).limit(K)
        if asked["filter"]:
            search = search.where(asked["filter"], prefilter=True)
        found = search.select(["id"]).to_arrow()
        seconds.append(time.perf_counter() - began)
        if not asked["together"]:
            ids.append(found["id"].to_pylist())
        else:
            owners = np.asarray(found["query_index"])
            every = np.asarray(found["id"])
            ids = [every[owners == i].tolist() for i in range(len(queries))]
    return {"ids": ids, "seconds": seconds, "cpu": (cpu() - before) / len(queries)}


def main() -> None:
    """Make the table, and answer."""
    base, columns, out, nlist = sys.argv[1:]
    table = make(Path(base), Path(columns), Path(out), int(nlist))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(ask(table, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
