"""What a query of many small clients costs a server, beside the same searches in process.

``python -m benchmarks.serving_clients FOLDER`` builds an index of the real SIFT set in FOLDER,
starts servers on this machine, and writes its section to benchmarks/results. 64 clients are four
processes with 16 threads each. Processor time is of the servers alone, so that other work on the
machine disturbs it least; in process and served searches alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import teravec
from benchmarks import data, measure, records
from benchmarks.data import Floats
from benchmarks.served import Served, built

K, NPROBE, ROUNDS, SECONDS = 10, 16, 3, 3.0
SPLIT = ["0:683", "683:1366", "1366:2048"]
_TICKS = os.sysconf("SC_CLK_TCK")


def processor_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def flight_client(url: str, queries: Floats) -> Callable[[], None]:
    """Ask over Flight, through one connection of this process."""
    remote, number = teravec.connect(url, timeout_s=60), iter(range(10**9))

    def ask() -> None:
        at = next(number) % len(queries)
        remote.search(queries[at : at + 1], K, NPROBE)

    return ask


def http_client(address: str, queries: Floats) -> Callable[[], None]:
    """Ask by JSON over a kept-alive connection of this thread."""
    host, port = address.removeprefix("http://").rstrip("/").rsplit(":", 1)
    connections = threading.local()
    bodies = [
        json.dumps({"queries": [row.tolist()], "k": K, "nprobe": NPROBE}).encode()
        for row in queries[:200]
    ]
    head = "POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    requests = [(head % len(body)).encode() + body for body in bodies]
    number = iter(range(10**9))

    def ask() -> None:
        if not hasattr(connections, "socket"):
            connections.socket = socket.create_connection((host, int(port)))
            connections.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections.socket.sendall(requests[next(number) % len(requests)])
        read_answer(connections.socket)

    return ask


def read_answer(connection: socket.socket) -> None:
    """Read an HTTP answer to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head, _, body = data.partition(b"\r\n\r\n")
    if b" 200 " not in head[:20]:
        raise RuntimeError(head.decode())
    size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < size:
        body += connection.recv(1 << 16)


def clients(kind: str, url: str, queries: Floats, threads: int) -> None:
    """Be one process of clients: on a line of input ask for some seconds, and print what was."""
    ask = (flight_client if kind == "flight" else http_client)(url, queries)
    ask()
    print("ready", flush=True)
    for _ in sys.stdin:
        times: list[float] = []
        until = time.perf_counter() + SECONDS

        def run(times: list[float] = times, until: float = until) -> None:
            while (started := time.perf_counter()) < until:
                ask()
                times.append(time.perf_counter() - started)

        running = [threading.Thread(target=run) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        print(len(times), float(np.median(times)), flush=True)


def closed_loop(
    kind: str, url: str, servers: list[Served], file: str, processes: int, threads: int
) -> Callable[[], tuple[float, float, float]]:
    """Start clients; return what has them ask: queries, processor seconds, p50."""
    command = [sys.executable, "-m", "benchmarks.serving_clients", "--clients", kind, url]
    started = [
        subprocess.Popen(
            [*command, file, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=records.ROOT,
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()

    def measure_once() -> tuple[float, float, float]:
        before = sum(processor_s(server.pid) for server in servers)
        for process in started:
            assert process.stdin is not None
            print(file=process.stdin, flush=True)
        found = []
        for process in started:
            assert process.stdout is not None
            found.append([float(word) for word in process.stdout.readline().split()])
        used = sum(processor_s(server.pid) for server in servers) - before
        return sum(f[0] for f in found), used, float(np.median([f[1] for f in found]))

    return measure_once


def in_process(index: teravec.Index, queries: Floats) -> tuple[float, float, float]:
    """Search batches of 1,000 in this process, then queries alone for their p50."""
    before = time.process_time()
    for _ in range(5):
        index.search(queries[:1000], K, NPROBE)
    used, times = time.process_time() - before, []
    for at in range(300):
        started = time.perf_counter()
        index.search(queries[at : at + 1], K, NPROBE)
        times.append(time.perf_counter() - started)
    return 5000.0, used, float(np.median(times))


def bench(root: Path, queries: Floats) -> str:
    """All ways in turn, several times."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".npy"))
        np.save(file.name, queries)
        index = stack.enter_context(teravec.open(root))
        server = stack.enter_context(Served(str(root), http=True))
        shares = [stack.enter_context(Served(str(root), "--lists", s)) for s in SPLIT]
        listed = ",".join(each.address for each in shares)
        coordinator = stack.enter_context(Served(str(root), "--servers", listed))
        through = [coordinator, *shares]

        def loop(kind: str, url: str, of: list[Served], p: int, t: int) -> Callable[[], object]:
            return closed_loop(kind, url, of, file.name, p, t)

        ways: dict[str, Callable[[], object]] = {
            "in process, batches of 1,000": lambda: in_process(index, queries),
            "64 clients, a server": loop("flight", server.url, [server], 4, 16),
            "64 clients, a coordinator and three servers": loop(
                "flight", coordinator.url, through, 4, 16
            ),
            "64 clients, HTTP JSON": loop("http", server.http_address, [server], 4, 16),
            "1 client, a server": loop("flight", server.url, [server], 1, 1),
            "1 client, HTTP JSON": loop("http", server.http_address, [server], 1, 1),
        }
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for round_no in range(ROUNDS + 1):
            for name, run in ways.items():
                result = run()
                if round_no:  # the first warms caches
                    found[name].append(result)  # type: ignore[arg-type]
    costs = {
        n: 1e6 * sum(f[1] for f in all_) / sum(f[0] for f in all_) for n, all_ in found.items()
    }
    base = costs["in process, batches of 1,000"]
    rows = [
        [
            name,
            f"{costs[name]:.0f}",
            f"{1e6 / costs[name]:,.0f}",
            f"{100 * base / costs[name]:.0f} %",
            f"{1e3 * float(np.median([f[2] for f in all_])):.2f}",
        ]
        for name, all_ in found.items()
    ]
    head = ["", "processor µs a query", "queries a processor second", "of in process", "p50 ms"]
    text = (
        "sift-photos, 301,217 x 128, nlist 2,048, sq6, random rotation, k = 10, nprobe 16. "
        "Processor time of the servers, threads and kernel included. p50 in process is of one "
        f"query alone. Load of the machine meanwhile: {os.getloadavg()[1]:.0f} on {os.cpu_count()} "
        "processors; compare columns, not times.\n\n"
    )
    return text + measure.table(head, rows)


def main() -> None:
    """Measure, and write the section."""
    if sys.argv[1:2] == ["--clients"]:
        kind, url, file, threads = sys.argv[2:]
        clients(kind, url, np.load(file), int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    root = built(arguments.folder, arguments.shared)
    queries = data.sift_photos(arguments.shared).queries()
    section = f"### serving: many clients\n\n{bench(root, queries)}"
    print(section)
    measure.write_section("serving clients", section)


if __name__ == "__main__":
    main()
