"""Serving: what a server adds to a search, what batching brings, and the original beside it.

``python -m benchmarks.serving FOLDER`` builds an index of the real SIFT set in FOLDER, starts
servers on this machine, and writes its records to benchmarks/results. Servers, coordinator
and clients share the machine's processors.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import teravec
from benchmarks import data, measure, records
from benchmarks.data import Floats
from benchmarks.seed_rpc import SplitPerList
from benchmarks.served import Served, built

K = 10
CLIENTS = 32
SPLITS = {
    1: ["0:2048"],
    3: ["0:683", "683:1366", "1366:2048"],
    5: ["0:410", "410:820", "820:1230", "1230:1640", "1640:2048"],
}
HEAD = "sift-photos, 301,217 x 128, nlist 2,048, sq6, random rotation, k = 10."


def percentiles(seconds: list[float]) -> tuple[str, str]:
    """p50 and p99 in milliseconds, as text."""
    return tuple(f"{1e3 * float(np.quantile(seconds, q)):.2f}" for q in (0.5, 0.99))  # type: ignore[return-value]


def bench_overhead(root: Path, queries: Floats) -> str:
    """A server, and a coordinator of one server, against the same search in process."""
    rows = []
    with ExitStack() as stack:
        local = stack.enter_context(teravec.open(root))
        server = stack.enter_context(Served(str(root)))
        coordinator = stack.enter_context(Served(str(root), "--servers", server.address))
        remote = stack.enter_context(teravec.connect(server.url))
        through = stack.enter_context(teravec.connect(coordinator.url))
        searched = {"in process": local, "server": remote, "coordinator + server": through}
        for nq, runs in ((1, 600), (1000, 9)):
            for nprobe in (16, 64):
                position = iter(range(10**9))

                def search(
                    index: Any, nq: int = nq, nprobe: int = nprobe, at: Iterator[int] = position
                ) -> None:
                    first = next(at) % (len(queries) - nq + 1)
                    index.search(queries[first : first + nq], K, nprobe)

                tasks: dict[str, Callable[[], float | None]] = {
                    name: lambda index=index: search(index)  # type: ignore[misc]
                    for name, index in searched.items()
                }
                for _ in range(3):
                    for task in tasks.values():
                        task()
                times = measure.interleave(tasks, runs)
                base = times.median("in process")
                for name in tasks:
                    more = times.median(name) - base
                    rows.append(
                        [
                            f"{nq:,}",
                            nprobe,
                            name,
                            *percentiles(times.seconds[name]),
                            f"{1e3 * more:+.2f} ms",
                            f"{100 * more / base:+.1f} %",
                        ]
                    )
    head = ["queries", "nprobe", "", "p50 ms", "p99 ms", "over in process", ""]
    return f"{HEAD} Lists in memory.\n\n" + measure.table(head, rows)


def closed_loop(url: str, queries: Floats, nprobe: int, seconds: float) -> list[float]:
    """Latencies of clients that each ask one query after another, for so many seconds."""
    times: list[float] = []
    with teravec.connect(url, timeout_s=60) as remote:
        until = time.perf_counter() + seconds

        def ask(number: int) -> None:
            while (started := time.perf_counter()) < until:
                number = (number + 37) % len(queries)
                remote.search(queries[number : number + 1], K, nprobe)
                times.append(time.perf_counter() - started)

        threads = [threading.Thread(target=ask, args=(31 * n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return times


def bench_batching(root: Path, queries: Floats) -> str:
    """32 clients of one query each, with requests joined and with each query alone."""
    rows = []
    with ExitStack() as stack:
        for what, memory in (("streamed", "40MiB"), ("in memory", "1GiB")):
            servers = {
                name: stack.enter_context(
                    Served(str(root), "--memory", memory, "--batch-rows", batch)
                )
                for name, batch in (("each alone", "1"), ("joined", "1024"))
            }
            for nprobe in (16, 64, 256):
                rates: dict[str, list[float]] = {name: [] for name in servers}
                times: dict[str, list[float]] = {name: [] for name in servers}
                for server in servers.values():
                    closed_loop(server.url, queries, nprobe, 0.5)
                for round_no in range(3):
                    for name in sorted(servers, reverse=bool(round_no % 2)):
                        found = closed_loop(servers[name].url, queries, nprobe, 2.0)
                        rates[name].append(len(found) / 2.0)
                        times[name] += found
                alone = float(np.median(rates["each alone"]))
                for name in servers:
                    rate = float(np.median(rates[name]))
                    rows.append(
                        [
                            what,
                            nprobe,
                            name,
                            f"{rate:,.0f}",
                            *percentiles(times[name]),
                            f"{rate / alone:.1f}",
                        ]
                    )
    head = ["lists", "nprobe", "", "queries/s", "p50 ms", "p99 ms", "times alone"]
    return (
        f"{HEAD} {CLIENTS} clients of one query each, in one process beside the server; "
        "'streamed' reads and verifies lists in every batch.\n\n" + measure.table(head, rows)
    )


def threads_of(servers: int) -> int:
    """Threads of each of several servers of this machine."""
    return max(1, len(os.sched_getaffinity(0)) // servers)


@contextmanager
def original(root: Path, folder: Path, servers: int) -> Iterator[SplitPerList]:
    """The original's split over servers of the exported index."""
    path = folder / "serving.faissindex"
    if not path.exists():
        teravec.export_faiss(root, path)
    command = [sys.executable, "-m", "benchmarks.seed_rpc", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads_of(servers))}
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=records.ROOT, env=environment
        )
        for _ in range(servers)
    ]
    try:
        ports = [int(p.stdout.readline()) for p in processes if p.stdout]
        yield SplitPerList(faiss.read_index(str(path)), ports)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def bench_original(root: Path, folder: Path, queries: Floats) -> str:
    """Three servers: the coordinator of this package, and the original's RPC and split."""
    rows = []
    batch = queries[:1000]
    with ExitStack() as stack:
        threads = str(threads_of(3))
        servers = [
            stack.enter_context(Served(str(root), "--lists", r, "--threads", threads))
            for r in SPLITS[3]
        ]
        listed = ",".join(server.address for server in servers)
        coordinator = stack.enter_context(Served(str(root), "--servers", listed))
        remote = stack.enter_context(teravec.connect(coordinator.url, timeout_s=60))
        seed = stack.enter_context(original(root, folder, 3))
        for nq, runs in ((1, 40), (1000, 3)):
            for nprobe in (16, 64, 256):
                position = iter(range(10**9))

                def run(
                    index: Any, nq: int = nq, nprobe: int = nprobe, at: Iterator[int] = position
                ) -> None:
                    first = next(at) % (len(batch) - nq + 1)
                    index.search(np.ascontiguousarray(batch[first : first + nq]), K, nprobe)

                tasks: dict[str, Callable[[], float | None]] = {
                    "teravec": lambda: run(remote),
                    "original": lambda: run(seed),
                }
                for task in tasks.values():
                    task()
                before = remote.statistics()["bytes"]
                sent, received = seed.sent, seed.received
                times = measure.interleave(tasks, runs)
                after = remote.statistics()["bytes"]
                asked = runs * nq
                moved = {
                    "teravec": (
                        (after["fanned-out"] - before["fanned-out"]) / asked,
                        (after["gathered"] - before["gathered"]) / asked,
                    ),
                    "original": ((seed.sent - sent) / asked, (seed.received - received) / asked),
                }
                for name in tasks:
                    rate = nq / times.median(name)
                    rows.append(
                        [
                            f"{nq:,}",
                            nprobe,
                            name,
                            f"{rate:,.0f}",
                            *percentiles(times.seconds[name]),
                            f"{moved[name][0]:,.0f}",
                            f"{moved[name][1]:,.0f}",
                            f"{times.ratio('original', name):.1f}",
                            f"{moved[name][0] / moved['original'][0]:.2f}",
                        ]
                    )
    head = [
        "queries",
        "nprobe",
        "",
        "queries/s",
        "p50 ms",
        "p99 ms",
        "bytes sent a query",
        "bytes back",
        "times the original's rate",
        "of its bytes sent",
    ]
    return (
        f"{HEAD} Three servers on this machine, threads of each: {threads}; lists in memory in "
        "both. The original's coarse quantizer is flat, and its sockets have TCP_NODELAY.\n\n"
        + measure.table(head, rows)
    )


def bench_bytes(root: Path, queries: Floats) -> str:
    """Bytes that the coordinator sends, against servers and lists."""
    rows = []
    for count, split in SPLITS.items():
        with ExitStack() as stack:
            servers = [stack.enter_context(Served(str(root), "--lists", r)) for r in split]
            listed = ",".join(server.address for server in servers)
            coordinator = stack.enter_context(Served(str(root), "--servers", listed))
            remote = stack.enter_context(teravec.connect(coordinator.url))
            for nprobe in (16, 64, 256):
                before = remote.statistics()["bytes"]["fanned-out"]
                remote.search(queries[:1000], K, nprobe)
                sent = (remote.statistics()["bytes"]["fanned-out"] - before) / 1000
                rows.append(
                    [
                        count,
                        nprobe,
                        f"{sent:,.0f}",
                        f"{8 * nprobe:,}",
                        f"{count * (4 * 128 + 12 * nprobe):,}",
                    ]
                )
    head = [
        "servers",
        "nprobe",
        "bytes sent a query",
        "of these for lists: 8 x nprobe",
        "all queries and lists to all servers",
    ]
    return (
        f"{HEAD} Each list goes to its owner only; a query of 512 bytes goes to the servers that "
        "own one of its lists.\n\n" + measure.table(head, rows)
    )


def main() -> None:
    """Run the benches asked for, and write each one's section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="overhead,batching,original,bytes")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    root = built(arguments.folder, arguments.shared)
    queries = data.sift_photos(arguments.shared).queries()
    benches: dict[str, Callable[[], str]] = {
        "overhead": lambda: bench_overhead(root, queries),
        "batching": lambda: bench_batching(root, queries),
        "original": lambda: bench_original(root, arguments.folder, queries),
        "bytes": lambda: bench_bytes(root, queries),
    }
    for name in arguments.only.split(","):
        section = f"### serving: {name}\n\n{benches[name]()}"
        print(section, flush=True)
        measure.write_section(f"serving {name}", section)


if __name__ == "__main__":
    main()
