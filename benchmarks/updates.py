"""An index that changes: what adding, deleting and compacting cost, and searches afterwards.

    python -m benchmarks.updates FOLDER [--rows 8000000] [--small-adds 500]

One run measures all lines of the table: rows until they are committed and until an open server
finds them, sustained additions, searches of an index with ten additions and deletes beside a fresh
index of the same rows, before and after ``maintain``, compaction beside a copy of the same bytes,
and many small additions. A rebuild is the fresh index. With LANCE_PYTHON, a Python that has
lancedb, LanceDB does the same (``benchmarks.lance_updates``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import teravec
from benchmarks import data, measure
from benchmarks.data import Floats, Ids

K, RECALL = 10, 0.9
NPROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
BATCHES = 10
WARM, COLD = 300, 30
MEMORY = "4GiB"

Row = list[str]


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=8_000_000, help="of the index that is changed")
    parser.add_argument("--small-adds", type=int, default=500, help="additions of 1,000 rows")
    parser.add_argument("--codec", default="sq8")
    parser.add_argument("--no-record", action="store_true", help="print only")
    given = parser.parse_args()
    bench = Bench(given.folder, given.rows, given.codec, given.small_adds)
    rows = bench.run()
    section = (
        f"### updates: {given.rows:,} x {bench.d}\n\n{given.codec}, nlist {bench.nlist:,}, memory "
        f"{MEMORY}, synthetic. Searches of {K} at the least nprobe of each index with recall "
        f"{RECALL}. A fresh index is built of the same rows.\n\n"
        + measure.table(["what", "measured", "beside"], rows)
    )
    print(section)
    if not given.no_record:
        measure.write_section("updates", section)


class Bench:
    """The measurements, on one folder.

    Parameters
    ----------
    folder : Path
    rows : int
        Of the index that is changed.
    codec : str
    small_adds : int
    """

    def __init__(self, folder: Path, rows: int, codec: str, small_adds: int) -> None:
        self.folder, self.rows, self.codec, self.small_adds = folder, rows, codec, small_adds
        self.percent = max(1, rows // 100)
        self.batch = min(10_000, self.percent)
        self.nlist = 1 << round(np.log2(4 * np.sqrt(rows)))
        more = max(rows // 5, 1000 * small_adds) + self.percent + BATCHES * self.batch
        spec = data.Synthetic(nb=rows + more)
        self.set = data.synthetic(folder, spec, k=K)
        self.base, self.queries = self.set.matrix(), self.set.queries()
        self.d = self.base.shape[1]

    def run(self) -> list[Row]:
        """Take all measurements; rows of the table."""
        built, shard_rate = self.build(self.folder / "index", np.arange(self.rows))
        found = [["build", f"{built:.1f} s", f"shard {shard_rate:,.0f} rows/s"]]
        found += self.until_found(self.copy("found"))
        found += self.sustained(self.copy("sustained"), shard_rate)
        found += self.beside_fresh(self.copy("changed"))
        found += self.many_small(self.copy("small"))
        return found + self.lance()

    def build(self, out: Path, ids: Ids) -> tuple[float, float]:
        """Build an index of some rows; seconds, and rows a second of the stage shard."""
        shutil.rmtree(out, ignore_errors=True)
        bars = teravec.Bars(quiet=True)
        started = time.perf_counter()
        teravec.build(
            self.base if len(ids) == len(self.base) else _Some(self.base, ids).array(),
            out,
            ids=ids,
            nlist=self.nlist,
            codec=self.codec,
            slices=4,
            calibrate=False,
            memory=MEMORY,
            progress=bars,
        )
        seconds = time.perf_counter() - started
        stage = next(each for each in bars.summary() if each["name"] == "shard")
        return seconds, len(ids) / max(1e-9, stage["seconds"])

    def copy(self, name: str) -> Path:
        """Copy the index by links: files never change."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.folder / "index", out, copy_function=os.link)
        (out / "manifest.json").unlink()  # the only file that a change replaces
        shutil.copy(self.folder / "index" / "manifest.json", out)
        return out

    def add(self, path: Path, start: int, count: int) -> int:
        """Add rows [start, start + count) of the set by their numbers; the version."""
        rows = np.ascontiguousarray(self.base[start : start + count])
        ids = np.arange(start, start + count)
        return teravec.add(path, rows, ids=ids, memory=MEMORY).number

    def until_found(self, path: Path) -> list[Row]:
        """One per cent of new rows, and of deletes, until committed and until a server has it."""
        last = self.rows + self.percent - 1
        with served(path) as remote:
            remote.search(self.queries, K, 16)  # its caches are warm
            started = time.perf_counter()
            version = self.add(path, self.rows, self.percent)
            added_s = time.perf_counter() - started
            query = np.ascontiguousarray(self.base[last])
            _, ids = remote.search(query, 1, 16, min_version=version, timeout_s=60)
            found_s = time.perf_counter() - started - added_s
            assert ids[0] == last
            warm_s = statistics.median(
                _timed(partial(remote.search, query, K, 16)) for query in self.queries[:20]
            )
            gone = np.random.default_rng(0).choice(self.rows, self.percent, replace=False)
            started = time.perf_counter()
            version = teravec.delete(path, gone).number
            deleted_s = time.perf_counter() - started
            remote.search(query, 1, 16, min_version=version, timeout_s=60)
            seen_s = time.perf_counter() - started - deleted_s
        return [
            [f"add {self.percent:,} rows", f"{added_s:.2f} s", f"found {found_s:.2f} s later"],
            [f"delete {self.percent:,} ids", f"{deleted_s:.2f} s", f"gone {seen_s:.2f} s later"],
            ["a warm query of that server after the addition", f"{1e3 * warm_s:.2f} ms", ""],
        ]

    def sustained(self, path: Path, shard_rate: float) -> list[Row]:
        """Additions one after another."""
        started = time.perf_counter()
        for number in range(BATCHES):
            self.add(path, self.rows + number * self.batch, self.batch)
        rate = BATCHES * self.batch / (time.perf_counter() - started)
        share = f"{rate / shard_rate:.2f} of what build shards"
        return [[f"additions of {self.batch:,}, rows a second", f"{rate:,.0f}", share]]

    def beside_fresh(self, path: Path) -> list[Row]:
        """Searches after ten additions and deletes, beside a fresh index; and its compaction."""
        for number in range(10):
            self.add(path, self.rows + number * self.percent, self.percent)
        gone = np.random.default_rng(1).choice(self.rows, self.rows // 20, replace=False)
        teravec.delete(path, gone)
        kept = np.setdiff1d(np.arange(self.rows + 10 * self.percent), gone)
        fresh, rebuilt_s = self.folder / "fresh", 0.0
        rebuilt_s, _ = self.build(fresh, kept)
        truth = exact(self.base, kept, self.queries)
        before, ours = self.searches(path, truth), self.searches(fresh, truth)
        compacting = self.copy_of(path)
        started = time.perf_counter()
        teravec.maintain(path, memory=MEMORY)
        maintained_s = time.perf_counter() - started
        after = self.searches(path, truth)
        rows = []
        for name in before:
            for when, these in (("", before), (", after maintain", after)):
                ratio = these[name] / ours[name]
                value = f"{1e3 * these[name]:.3f} ms"
                rows.append([f"{name}{when}", value, f"{ratio:.2f} of a fresh index"])
        rows.append(["maintain", f"{maintained_s:.1f} s", f"a rebuild {rebuilt_s:.1f} s"])
        return rows + self.compaction(compacting)

    def copy_of(self, path: Path) -> Path:
        """Copy a changed index."""
        out = self.folder / "compacting"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(path, out)
        return out

    def compaction(self, path: Path) -> list[Row]:
        """A full compaction, beside a copy of the bytes that it writes."""
        files = [path / each.file for each in teravec.versions(path)[-1].segments]
        size = sum(file.stat().st_size for file in files)
        measure.drop_page_cache(files)
        started = time.perf_counter()
        teravec.compact(path, full=True, memory=MEMORY)
        compacted_s = time.perf_counter() - started
        measure.drop_page_cache(files)
        copied_s = measure.copy_files(files, self.folder / "copied")
        (self.folder / "copied").unlink()
        rate = f"{size / compacted_s / 1e6:,.0f} MB/s"
        return [["compaction, bytes a second", rate, f"{copied_s / compacted_s:.2f} of a copy"]]

    def searches(self, path: Path, truth: Ids) -> dict[str, float]:
        """Seconds of a query: in a warm batch, warm alone, cold alone; at the recall."""
        with teravec.open(path, memory=MEMORY) as index:
            nprobe = next(
                (
                    n
                    for n in NPROBES
                    if data.recall(index.search(self.queries, K, n)[1], truth) >= RECALL
                ),
                NPROBES[-1],
            )
            batch = [_timed(partial(index.search, self.queries, K, nprobe)) for _ in range(5)]
            alone = [
                _timed(partial(index.search, query, K, nprobe)) for query in self.queries[:WARM]
            ]
        files = [path / each.file for each in teravec.versions(path)[-1].segments]
        cold = measure.cold_queries(
            lambda: teravec.open(path, memory=MEMORY),
            lambda index, query: index.search(query, K, nprobe),
            files,
            self.queries[:COLD],
        )
        return {
            f"a query of a warm batch of {len(self.queries):,}": min(batch) / len(self.queries),
            "one warm query": statistics.median(alone),
            "one cold query": cold.median_s,
        }

    def many_small(self, path: Path) -> list[Row]:
        """Many additions of 1,000 rows, and a query before and after ``maintain``."""
        with teravec.open(path, memory=MEMORY) as index:
            first = _warm(index, self.queries)
        started = time.perf_counter()
        for number in range(self.small_adds):
            self.add(path, self.rows + 1000 * number, 1000)
        added_s = time.perf_counter() - started
        with teravec.open(path, memory=MEMORY) as index:
            before = _warm(index, self.queries)
            started = time.perf_counter()
            self.add(path, self.rows, 1000)
            index.refresh()
            refreshed = _timed(lambda: index.search(self.queries[0], K, 16))
        started = time.perf_counter()
        teravec.maintain(path, memory=MEMORY)
        maintained_s = time.perf_counter() - started
        with teravec.open(path, memory=MEMORY) as index:
            after = _warm(index, self.queries)
        each = f"{added_s / self.small_adds:.3f} s each"
        return [
            [f"{self.small_adds} additions of 1,000 rows", f"{added_s:.1f} s", each],
            ["a warm query then", f"{1e3 * before:.3f} ms", f"{before / first:.2f} of before"],
            ["the first query after one more and a refresh", f"{1e3 * refreshed:.3f} ms", ""],
            ["after maintain", f"{1e3 * after:.3f} ms", f"{after / first:.2f} of before"],
            ["that maintain", f"{maintained_s:.1f} s", ""],
        ]

    def lance(self) -> list[Row]:
        """LanceDB's figures, where there is one."""
        python = os.environ.get("LANCE_PYTHON")
        if python is None:
            print("LanceDB is left out: LANCE_PYTHON names no Python that has it", file=sys.stderr)
            return []
        numbers = [self.rows, self.percent, self.batch, self.nlist]
        script = [python, "benchmarks/lance_updates.py", str(self.set.base)]
        out = self.folder / "lance"
        shutil.rmtree(out, ignore_errors=True)
        told = json.loads(measure.run_child([*script, str(out), *map(str, numbers)]).stdout)
        return [[f"LanceDB: {name}", value, ""] for name, value in told.items()]


class _Some:
    """Some rows of a matrix on disk, as an array; in one read a block."""

    def __init__(self, base: Floats, ids: Ids) -> None:
        self._base, self._ids = base, ids

    def array(self) -> Floats:
        if len(self._ids) and self._ids[-1] - self._ids[0] + 1 == len(self._ids):
            return self._base[self._ids[0] : self._ids[-1] + 1]
        return np.ascontiguousarray(self._base[self._ids])


def exact(base: Floats, ids: Ids, queries: Floats) -> Ids:
    """The ids of each query's nearest among some rows."""
    import faiss

    heap = faiss.ResultHeap(len(queries), K)
    for start in range(0, len(ids), 1 << 18):
        some = ids[start : start + (1 << 18)]
        block = np.ascontiguousarray(base[some], np.float32)
        distances, rows = faiss.knn(queries, block, min(K, len(block)))
        heap.add_result(distances, some[rows])
    heap.finalize()
    found: Ids = heap.I
    return found


@contextmanager
def served(path: Path) -> Iterator[teravec.RemoteIndex]:
    """A server of the index in a process of its own, and a connection."""
    command = [sys.executable, "-m", "teravec", "serve", str(path), "--memory", MEMORY]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--http", "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.search(r"grpc://\S+", process.stdout.readline())
        assert found is not None
        with teravec.connect(found[0], timeout_s=60) as remote:
            yield remote
    finally:
        process.terminate()
        process.wait()


def _warm(index: teravec.Index, queries: Floats) -> float:
    index.search(queries, K, 16)
    return statistics.median(_timed(partial(index.search, query, K, 16)) for query in queries)


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
