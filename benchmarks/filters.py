"""Searches under a filter: recall, speed and lists, by the share of rows that pass.

    python -m benchmarks.filters [--base FILE.npy --queries FILE.npy] [--n N] [--nq NQ] [--nlist L]

Without files, vectors are drawn around centres. Three kinds of filter, none of which was used to
choose anything: any rows (``any``), the rows nearest to the queries' mean (``near``) and the
farthest (``far``). Asked: recall .90 of the 10 nearest among the rows that pass. Beside it Faiss:
the same lists and codes, IDSelectorBitmap, and the nprobe of 1, 2, 4, ... that first gives .90.
One thread, index in memory.
"""

import argparse
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

import teravec

K, ASKED = 10, 0.9
SHARES = (0.5, 0.1, 0.01, 0.001, 0.0001)


def drawn(rng: np.random.Generator, n: int, nq: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around 1,000 centres, 96 dimensions."""
    centres = rng.standard_normal((1000, 96))
    rows = centres[rng.integers(0, 1000, n + nq)] + 0.6 * rng.standard_normal((n + nq, 96))
    return rows[nq:].astype(np.float32), rows[:nq].astype(np.float32)


def recall_of(found: np.ndarray, true: np.ndarray) -> float:
    """Mean share of the true ids that were found."""
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))


def faiss_at_recall(
    index: faiss.Index, queries: np.ndarray, mask: np.ndarray, true: np.ndarray
) -> tuple[int, float, float]:
    """The nprobe, recall and seconds of Faiss where it first reaches the recall."""
    bits = np.packbits(mask, bitorder="little")
    selector = faiss.IDSelectorBitmap(bits)
    nprobe = 1
    while True:
        parameters = faiss.IVFSearchParameters(sel=selector, nprobe=min(nprobe, index.nlist))
        began = time.perf_counter()
        _, ids = index.search(queries, K, params=parameters)
        seconds = time.perf_counter() - began
        if (recall := recall_of(ids, true)) >= ASKED or nprobe >= index.nlist:
            return min(nprobe, index.nlist), recall, seconds
        nprobe *= 2


def main() -> None:
    """Build one index, and search it under each filter."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base")
    parser.add_argument("--queries")
    for name, value in (("n", 100_000), ("nq", 200), ("nlist", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(20261127)
    if given.base:
        base = np.load(given.base, mmap_mode="r")
        base = np.asarray(base[rng.permutation(len(base))[: given.n]], np.float32)
        queries = np.asarray(np.load(given.queries, mmap_mode="r")[: given.nq], np.float32)
    else:
        base, queries = drawn(rng, given.n, given.nq)
    centre = ((base - queries.mean(0)) ** 2).sum(1)
    table = pa.table({"any": rng.random(len(base)), "away": centre})
    costs = (base**2).sum(1) - 2 * queries @ base.T
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "index"
        options = {"nlist": given.nlist, "codec": "sq8", "threads": 1}
        teravec.build(base, path, attributes=table, columns="all", **options)
        teravec.export_faiss(path, Path(root) / "faiss.index")
        other = faiss.read_index(str(Path(root) / "faiss.index"))
        with teravec.open(path, threads=1) as index:
            index.warm(queries, given.nlist)
            print(
                "filter  passing    recall  lists  first ms  batch q/s  p50 ms "
                "| Faiss recall  nprobe  q/s"
            )
            for share in SHARES:
                near, far = np.quantile(centre, [share, 1 - share]).tolist()
                for name, text, mask in (
                    ("any", f"any < {share}", table["any"].to_numpy() < share),
                    ("near", f"away <= {near!r}", centre <= near),
                    ("far", f"away >= {far!r}", centre >= far),
                ):
                    rows = np.flatnonzero(mask)
                    true = rows[np.argsort(costs[:, rows], 1)[:, :K]]
                    times = []
                    for _ in range(2):
                        began = time.perf_counter()
                        _, ids = index.search(queries, K, recall=ASKED, filter=text)
                        times.append(time.perf_counter() - began)
                    alone = []
                    for query in queries[:50]:
                        began = time.perf_counter()
                        index.search(query, K, recall=ASKED, filter=text)
                        alone.append(time.perf_counter() - began)
                    lists = index.explain(queries, K, recall=ASKED, filter=text)["visited"]
                    nprobe, recall, seconds = faiss_at_recall(other, queries, mask, true)
                    print(
                        f"{name:6} {share:8.2%} {recall_of(ids, true):9.3f} {lists:6.1f} "
                        f"{times[0] * 1e3:9.1f} {len(queries) / times[1]:10,.0f} "
                        f"{np.median(alone) * 1e3:7.2f} | {recall:12.3f} {nprobe:7} "
                        f"{len(queries) / seconds:7,.0f}",
                        flush=True,
                    )
            alone = []
            for query in queries[:50]:
                began = time.perf_counter()
                index.search(query, K, recall=ASKED)
                alone.append(time.perf_counter() - began)
            print(f"without a filter: p50 {np.median(alone) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
