"""An index that changes: what adding, deleting and compacting cost, and searches afterwards.

    python -m benchmarks.updates FOLDER [--rows 8000000] [--small-adds 500] [--parts build,found]

The parts are measured one after another; each keeps its lines in FOLDER, so that a run that was
cut off goes on with the next part (``--again`` measures anew). ``found``: rows and deletes until
they are committed, and until an open server has them. ``sustained``: additions one after another.
``beside``: searches of an index with ten additions and deletes, before and after ``maintain``,
beside a fresh index of the same rows; compaction beside a copy of the same bytes. ``small``: many
small additions, then queries beside the same index in one piece. ``lance``: LanceDB does the same
(``benchmarks.lance_updates``), with LANCE_PYTHON, a Python that has lancedb.

At 8,000,000 rows it takes some 20 minutes on two cores, 20 GB of disk and 8 GB of memory.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import teravec
from benchmarks import data, measure
from benchmarks.data import Floats, Ids

K, RECALL = 10, 0.9
NPROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
BATCHES = 10
WARM, COLD, ROUNDS = 300, 30, 3
QUERIES = 500
MEMORY = "4GiB"
PARTS = ("build", "found", "sustained", "beside", "small", "lance")

Row = list[str]


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=8_000_000, help="of the index that is changed")
    parser.add_argument("--small-adds", type=int, default=500, help="additions of 1,000 rows")
    parser.add_argument("--codec", default="sq8")
    parser.add_argument("--parts", default=",".join(PARTS), help="those to measure")
    parser.add_argument("--again", action="store_true", help="measure known parts again")
    parser.add_argument("--no-record", action="store_true", help="print only")
    given = parser.parse_args()
    bench = Bench(given.folder, given.rows, given.codec, given.small_adds)
    rows = bench.run(given.parts.split(","), again=given.again)
    section = (
        f"### updates: {given.rows:,} x {bench.d}\n\n{given.codec}, nlist {bench.nlist:,}, memory "
        f"{MEMORY}, synthetic. Searches of {K} at the least nprobe of each index with recall "
        f"{RECALL}, the indexes in turn, medians. A fresh index is built of the same rows.\n\n"
        + measure.table(["what", "measured", "beside"], rows)
    )
    print(section)
    if not given.no_record:
        measure.write_section("updates", section)


def say(text: str) -> None:
    """Tell what is done now."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


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
        self.more = max(11 * self.percent, 1000 * (small_adds + 1))
        say("synthetic vectors")
        spec = data.Synthetic(nb=rows + self.more, nq=QUERIES)
        self.set = data.synthetic(folder, spec, truth=False)
        self.base, self.queries = self.set.matrix(), self.set.queries()
        self.d = self.base.shape[1]
        self.known_path = folder / f"updates-{rows}-{codec}-{small_adds}.json"

    def run(self, parts: Sequence[str], *, again: bool = False) -> list[Row]:
        """Take the measurements that are not known yet; return the rows of all known parts."""
        known: dict[str, list[Row]] = {}
        if self.known_path.exists():
            known = json.loads(self.known_path.read_text())
        for part in PARTS:
            if part not in parts or (part in known and not again):
                continue
            say(part)
            started = time.perf_counter()
            known[part] = getattr(self, part)()
            self.known_path.write_text(json.dumps(known, indent=1))
            for row in known[part]:
                say("  " + " | ".join(row))
            say(f"{part} took {time.perf_counter() - started:.0f} s")
        return [row for part in PARTS for row in known.get(part, ())]

    def build(self) -> list[Row]:
        """Build the index that is changed."""
        seconds, rate = self.build_of(self.folder / "index", np.arange(self.rows))
        (self.folder / "rate.json").write_text(json.dumps(rate))
        return [["build", f"{seconds:.1f} s", f"shard {rate:,.0f} rows/s"]]

    @property
    def shard_rate(self) -> float:
        """Rows a second that the build sharded."""
        return float(json.loads((self.folder / "rate.json").read_text()))

    def build_of(self, out: Path, ids: Ids) -> tuple[float, float]:
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

    def found(self) -> list[Row]:
        """One per cent of new rows, and of deletes, until committed and until a server has it."""
        path = self.copy("found")
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

    def sustained(self) -> list[Row]:
        """Additions one after another."""
        path = self.copy("sustained")
        started = time.perf_counter()
        for number in range(BATCHES):
            self.add(path, self.rows + number * self.batch, self.batch)
        rate = BATCHES * self.batch / (time.perf_counter() - started)
        share = f"{rate / self.shard_rate:.2f} of what build shards"
        return [[f"additions of {self.batch:,}, rows a second", f"{rate:,.0f}", share]]

    def beside(self) -> list[Row]:
        """Searches after ten additions and deletes, beside a fresh index; and its compaction."""
        path = self.copy("changed")
        for number in range(10):
            self.add(path, self.rows + number * self.percent, self.percent)
        gone = np.random.default_rng(1).choice(self.rows, self.rows // 20, replace=False)
        teravec.delete(path, gone)
        kept = np.setdiff1d(np.arange(self.rows + 10 * self.percent), gone)
        say("  the fresh index")
        rebuilt_s, _ = self.build_of(self.folder / "fresh", kept)
        say("  its truth, and maintain")
        truth = exact(self.base, kept, self.queries)
        maintained = self.copy_of(path, "maintained")
        started = time.perf_counter()
        teravec.maintain(maintained, memory=MEMORY)
        maintained_s = time.perf_counter() - started
        say("  searches")
        names = {"": path, ", after maintain": maintained, "fresh": self.folder / "fresh"}
        found = self.searches(names, truth)
        rows = []
        for name, ours in found["fresh"].items():
            for when in ("", ", after maintain"):
                these = found[when][name]
                rows.append(
                    [
                        f"{name}{when}",
                        f"{1e3 * these:.3f} ms",
                        f"{these / ours:.2f} of a fresh index",
                    ]
                )
        rows.append(["maintain", f"{maintained_s:.1f} s", f"a rebuild {rebuilt_s:.1f} s"])
        return rows + self.compaction(self.copy_of(path, "compacting"))

    def copy_of(self, path: Path, name: str) -> Path:
        """Copy a changed index, by links where files never change."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(path, out, copy_function=os.link)
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

    def searches(self, paths: dict[str, Path], truth: Ids) -> dict[str, dict[str, float]]:
        """Seconds of a query of each index: in a warm batch, warm alone, cold alone."""
        batch_name = f"a query of a warm batch of {len(self.queries):,}"
        found: dict[str, dict[str, float]] = {name: {} for name in paths}
        nprobes = dict[str, int]()
        for name, path in paths.items():
            with teravec.open(path, memory=MEMORY) as index:
                nprobes[name] = next(
                    (
                        n
                        for n in NPROBES
                        if data.recall(index.search(self.queries, K, n)[1], truth) >= RECALL
                    ),
                    NPROBES[-1],
                )
        with ExitStack() as stack:
            opened = {
                name: stack.enter_context(teravec.open(path, memory=MEMORY))
                for name, path in paths.items()
            }
            for name, index in opened.items():
                index.search(self.queries, K, nprobes[name])
            tasks: dict[str, Callable[[], float]] = {
                name: partial(_timed, partial(index.search, self.queries, K, nprobes[name]))
                for name, index in opened.items()
            }
            batches = measure.interleave(tasks, 2 * ROUNDS + 1)
            alone = ask_in_turn(opened, nprobes, self.queries[:WARM])
        cold = {name: list[float]() for name in paths}
        for start in range(0, COLD, COLD // ROUNDS):
            for name, path in paths.items():
                files = [path / each.file for each in teravec.versions(path)[-1].segments]
                nprobe = nprobes[name]

                def ask(index: teravec.Index, query: Floats, nprobe: int = nprobe) -> object:
                    return index.search(query, K, nprobe)

                run = measure.cold_queries(
                    partial(teravec.open, path, memory=MEMORY),
                    ask,
                    files,
                    self.queries[start : start + COLD // ROUNDS],
                )
                cold[name] += run.seconds
        for name in paths:
            found[name] = {
                batch_name: batches.median(name) / len(self.queries),
                "one warm query": statistics.median(alone[name]),
                "one cold query": statistics.median(cold[name]),
            }
        return found

    def small(self) -> list[Row]:
        """Many additions of 1,000 rows, and queries beside the same index in one piece."""
        path = self.copy("small")
        started = time.perf_counter()
        for number in range(self.small_adds):
            self.add(path, self.rows + 1000 * number, 1000)
        added_s = time.perf_counter() - started
        say(f"  {self.small_adds} additions took {added_s:.0f} s")
        maintained, whole = self.copy_of(path, "maintained"), self.copy_of(path, "whole")
        started = time.perf_counter()
        teravec.maintain(maintained, memory=MEMORY)
        maintained_s = time.perf_counter() - started
        teravec.compact(whole, full=True, memory=MEMORY)
        names = {"before": path, "after": maintained, "whole": whole}
        with ExitStack() as stack:
            opened, opening_s = dict[str, teravec.Index](), dict[str, float]()
            for name, each in names.items():
                started = time.perf_counter()
                opened[name] = stack.enter_context(teravec.open(each, memory=MEMORY))
                opening_s[name] = time.perf_counter() - started
                opened[name].search(self.queries, K, 16)
            alone = ask_in_turn(opened, dict.fromkeys(names, 16), self.queries)
            median = {name: statistics.median(seconds) for name, seconds in alone.items()}
            self.add(path, self.rows + 1000 * self.small_adds, 1000)
            opened["before"].refresh()
            refreshed = _timed(partial(opened["before"].search, self.queries[0], K, 16))
        each_s = f"{added_s / max(1, self.small_adds):.3f} s each"
        rows = [
            [f"{self.small_adds} additions of 1,000 rows", f"{added_s:.1f} s", each_s],
            [
                "opening it then",
                f"{opening_s['before']:.3f} s",
                f"in one piece {opening_s['whole']:.3f}",
            ],
        ]
        for name, what in (("before", "one warm query then"), ("after", "after maintain")):
            ratio = f"{median[name] / median['whole']:.2f} of one piece"
            rows.append([what, f"{1e3 * median[name]:.3f} ms", ratio])
        return [
            *rows,
            ["the first query after one more and a refresh", f"{1e3 * refreshed:.3f} ms", ""],
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


def ask_in_turn(
    opened: dict[str, teravec.Index], nprobes: dict[str, int], queries: Floats
) -> dict[str, list[float]]:
    """Seconds of each query alone, all indexes in turn, so that a drift of speed falls on all."""
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for query in queries:
        for name, index in opened.items():
            index.search(query, K, nprobes[name])  # the other indexes took the processor's caches
            seconds[name].append(_timed(partial(index.search, query, K, nprobes[name])))
    return seconds


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
