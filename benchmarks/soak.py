"""Ten minutes of load on a small cluster: no error, no wrong answer, memory and descriptors flat.

``python -m benchmarks.soak`` starts two ranges of lists with two servers each, and a
coordinator; clients ask without pause, and every half minute one server is killed and started
again. It writes its record to benchmarks/results, and fails where something was not as it
must be.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import teravec
from benchmarks import data, measure
from benchmarks.data import Floats, Ids
from benchmarks.served import Served, built
from teravec.errors import TeravecError

K, NPROBE, CLIENTS = 10, 32, 6
SAMPLE_S, KILL_S = 5.0, 30.0
WARM_SHARE = 0.25  # of the time, in which memory may still grow
MOST_GROWTH, MOST_DESCRIPTORS = 0.1, 4


@dataclass
class Soak:
    """What the clients saw.

    Attributes
    ----------
    calm, rough : list of float
        Seconds of requests that began while all servers were up, and while one was not.
    errors : list of str
    """

    calm: list[float] = field(default_factory=list)
    rough: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    disturbed: bool = False


def ask(url: str, queries: Floats, true: Ids, soak: Soak, stop: threading.Event, n: int) -> None:
    """One client: ask, compare, again."""
    with teravec.connect(url, timeout_s=10) as remote:
        while not stop.is_set():
            n = (n + 37) % len(queries)
            times = soak.rough if soak.disturbed else soak.calm
            started = time.perf_counter()
            try:
                found = remote.search(queries[n : n + 1], K, NPROBE)[1][0]
            except TeravecError as error:
                soak.errors.append(f"{type(error).__name__}: {error}")
                continue
            times.append(time.perf_counter() - started)
            if not np.array_equal(found, true[n]):
                soak.errors.append(f"query {n}: another answer than the local index's")


@contextmanager
def clients(url: str, queries: Floats, true: Ids, soak: Soak) -> Iterator[None]:
    """Ask from several threads while the body runs."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=ask, args=(url, queries, true, soak, stop, 101 * n))
        for n in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def restart(server: Served, remote: teravec.RemoteIndex, soak: Soak) -> None:
    """Kill a server, leave it down for 3 s, start it, and wait until the coordinator has it."""
    soak.disturbed = True
    server.end(signal.SIGKILL)
    time.sleep(3)
    server.start()
    until = time.monotonic() + 30
    while not all(s["state"] == "live" for s in remote.statistics()["servers"]):
        if time.monotonic() > until:
            soak.errors.append(f"{server.address} did not come back within 30 s")
            break
        time.sleep(0.1)
    time.sleep(0.5)
    soak.disturbed = False


def watched(
    coordinator: Served, servers: list[Served], soak: Soak, seconds: float
) -> list[tuple[float, int, int, int, int]]:
    """Sample memory and descriptors of the coordinator and of a server that is never killed."""
    samples = []
    started = time.monotonic()
    kills = 0
    with teravec.connect(coordinator.url) as remote:
        while (at := time.monotonic() - started) < seconds:
            samples.append(
                (
                    at,
                    coordinator.resident_bytes(),
                    coordinator.descriptors(),
                    servers[0].resident_bytes(),
                    servers[0].descriptors(),
                )
            )
            if at > (kills + 1) * KILL_S and at < seconds - KILL_S / 2:
                restart(servers[1 + kills % (len(servers) - 1)], remote, soak)
                kills += 1
            time.sleep(SAMPLE_S)
    return samples


def judged(samples: list[tuple[float, int, int, int, int]], soak: Soak) -> str:
    """The section's table; adds to the errors what is not flat."""
    after = [s for s in samples if s[0] >= WARM_SHARE * samples[-1][0]]
    quarter = max(1, len(after) // 4)
    first, last = (
        np.median(np.array(part), axis=0) for part in (after[:quarter], after[-quarter:])
    )
    rows = []
    for name, memory, descriptors in (("coordinator", 1, 2), ("server", 3, 4)):
        growth = last[memory] / first[memory] - 1
        more = last[descriptors] - first[descriptors]
        if growth > MOST_GROWTH or more > MOST_DESCRIPTORS:
            soak.errors.append(f"{name}: memory {100 * growth:+.1f} %, descriptors {more:+.0f}")
        rows.append(
            [
                name,
                f"{first[memory] / 2**20:.1f}",
                f"{last[memory] / 2**20:.1f}",
                f"{100 * growth:+.1f} %",
                f"{first[descriptors]:.0f}",
                f"{last[descriptors]:.0f}",
            ]
        )
    head = ["", "MiB, first quarter", "MiB, last quarter", "growth", "descriptors, first", "last"]
    return measure.table(head, rows)


def main() -> None:
    """Run the soak; exit 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="teravec-soak-")))
        root = built(arguments.folder or made, arguments.shared)
        queries = data.sift_photos(arguments.shared).queries()[:1000]
        with teravec.open(root) as local:
            true = local.search(queries, K, NPROBE)[1]
        ranges = ["0:1024", "0:1024", "1024:2048", "1024:2048"]
        servers = [stack.enter_context(Served(str(root), "--lists", r)) for r in ranges]
        listed = ",".join(server.address for server in servers)
        coordinator = stack.enter_context(Served(str(root), "--servers", listed))
        soak = Soak()
        with clients(coordinator.url, queries, true, soak):
            samples = watched(coordinator, servers, soak, arguments.seconds)
    table = judged(samples, soak)
    calm, rough = (1e3 * np.quantile(t, [0.5, 0.99]) for t in (soak.calm, soak.rough or soak.calm))
    asked = len(soak.calm) + len(soak.rough)
    section = (
        f"### serving: soak\n\n{arguments.seconds:.0f} s, {CLIENTS} clients, {asked:,} requests of "
        f"one query through a coordinator and 2 x 2 servers on this machine, one killed and "
        f"started again every {KILL_S:.0f} s: {len(soak.errors)} failed requests or wrong answers. "
        f"p50 {calm[0]:.1f} ms, p99 {calm[1]:.1f} ms while calm; p50 {rough[0]:.1f} ms, "
        f"p99 {rough[1]:.1f} ms while a server was down or coming back "
        f"({rough[1] / calm[1]:.1f} times).\n\n{table}"
    )
    print(section)
    for error in soak.errors[:20]:
        print(error, file=sys.stderr)
    measure.write_section("serving soak", section)
    sys.exit(bool(soak.errors))


if __name__ == "__main__":
    main()
