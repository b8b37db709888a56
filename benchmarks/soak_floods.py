"""Floods: every kind alone, then all at once, on a server and on the coordinator before it.

Meanwhile probes are asked on new connections, and small searches compare their answers with the
local index. After each flood, the first good search is timed.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import teravec
from benchmarks import measure
from benchmarks.data import Floats
from benchmarks.flood import KINDS
from benchmarks.served import Served
from benchmarks.soak_faults import NPROBE, K, Version
from teravec.errors import TeravecError

MEMORY = "256MiB"
PATHS = ("/healthz", "/readyz", "/metrics")
PROBE_GAP_S, PROBE_S, UNANSWERED_S = 0.1, 0.1, 5.0
PROBES_IN_TIME = 0.999  # that must be answered within PROBE_S
FIRST_SEARCH_S = 0.1
SMALL_CLIENTS = 2
ALONE_SHARE = 0.4  # of the time, for the kinds one after another
BACK_S, MORE_DESCRIPTORS = 60.0, 4  # after the last flood


@dataclass
class Phase:
    """One flood.

    Attributes
    ----------
    probes : list of float
        Seconds until answered; infinite for none within UNANSWERED_S.
    idle_probes : list of float
        The same of a server that nobody else asks: the machine's own delays.
    peaks : dict of float
        Most memory of each process over what it says it takes.
    small : Counter
        What small searches ended with: ``ok``, ``wrong``, or an error's name.
    first_s : float
        Seconds from the flood's end to the first good answer.
    """

    name: str
    seconds: float
    probes: list[float] = field(default_factory=list)
    idle_probes: list[float] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)
    small: Counter[str] = field(default_factory=Counter)
    first_s: float = np.inf
    errors: list[str] = field(default_factory=list)


def probe(address: str, path: str) -> float:
    """Seconds until a GET on a new connection is answered with 200; infinite if it is not."""
    host, _, port = address.rpartition(":")
    started, came = time.perf_counter(), b""
    request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, int(port)), UNANSWERED_S) as end,
    ):
        end.settimeout(UNANSWERED_S)
        end.sendall(request.encode())
        while data := end.recv(1 << 16):
            came += data
    return time.perf_counter() - started if came.startswith(b"HTTP/1.1 200") else np.inf


class Watch:
    """Probes, small searches and memory, while a flood goes on.

    Parameters
    ----------
    served : dict of Served
    front : str
        Name of the one that is flooded.
    idle : Served
        A server that is only probed.
    version : Version
    queries : ndarray of shape (nq, d), float32
    """

    def __init__(
        self, served: dict[str, Served], front: str, idle: Served, version: Version, queries: Floats
    ) -> None:
        self._served, self._front, self._idle = served, served[front], idle
        self._version, self._queries = version, queries

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Watch while the body runs."""
        ended = threading.Event()
        targets = [self._probe, self._weigh, *[self._search] * SMALL_CLIENTS]
        threads = [threading.Thread(target=each, args=(phase, ended)) for each in targets]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _probe(self, phase: Phase, ended: threading.Event) -> None:
        while not ended.wait(PROBE_GAP_S):
            path = PATHS[len(phase.probes) % len(PATHS)]
            phase.probes.append(probe(self._front.http_address, path))
            phase.idle_probes.append(probe(self._idle.http_address, path))

    def _weigh(self, phase: Phase, ended: threading.Event) -> None:
        while not ended.wait(0.05):
            for name, served in self._served.items():
                share = served.resident_bytes() / served.memory_bound_bytes
                phase.peaks[name] = max(phase.peaks.get(name, 0.0), share)

    def _search(self, phase: Phase, ended: threading.Event) -> None:
        with contextlib.suppress(TeravecError), self.connected() as remote:
            n = 0
            while not ended.is_set():
                phase.small[self.searched(remote, n := (n + 37) % len(self._queries))] += 1

    @contextmanager
    def connected(self) -> Iterator[teravec.RemoteIndex]:
        """A small client."""
        with teravec.connect(self._front.url, timeout_s=20) as remote:
            yield remote

    def searched(self, remote: teravec.RemoteIndex, n: int) -> str:
        """Ask one query; ``ok``, ``wrong``, or the name of the error."""
        try:
            distances, ids = remote.search(self._queries[n : n + 1], K, NPROBE)
        except TeravecError as error:
            return type(error).__name__
        version = self._version
        right = np.array_equal(distances[0], version.distances[n])
        return "ok" if right and np.array_equal(ids[0], version.ids[n]) else "wrong"


def flood(kinds: Sequence[str], served: Served, queries: Path) -> list[subprocess.Popen[bytes]]:
    """Start floods of a server."""
    command = [sys.executable, "-m", "benchmarks.flood"]
    return [
        subprocess.Popen([*command, kind, served.address, served.http_address, str(queries)])
        for kind in kinds
    ]


def run(phase: Phase, watch: Watch, kinds: Sequence[str], served: Served, queries: Path) -> None:
    """Flood for the phase's time; then time the first search."""
    with watch.connected() as remote, watch.during(phase):
        floods = flood(kinds, served, queries)
        try:
            time.sleep(phase.seconds)
            phase.errors += [f"{f.args!r} ended" for f in floods if f.poll() is not None]
        finally:
            for each in floods:
                each.kill()
            for each in floods:
                each.wait()
        ended_s = time.perf_counter()
        if watch.searched(remote, 0) == "ok":
            phase.first_s = time.perf_counter() - ended_s


def soak(
    folder: Path, version: Version, queries: Floats, seconds: float
) -> tuple[list[Phase], list[str]]:
    """Run all floods.

    Returns
    -------
    phases : list of Phase
    ends : list of str
        Descriptors and memory of each process before and after; a line each.
    """
    saved = folder / "queries.npy"
    np.save(saved, queries)
    with ExitStack() as stack:
        log = folder / "floods.log"
        root = str(version.root)
        enter = stack.enter_context
        server = enter(Served(root, "--memory", MEMORY, http=True, log=log))
        options = ("--servers", server.address, "--memory", MEMORY)
        coordinator = enter(Served(root, *options, http=True, log=log))
        idle = enter(Served(root, "--memory", MEMORY, http=True, log=log))
        served = {"server": server, "coordinator": coordinator}
        before = {name: each.descriptors() for name, each in served.items()}
        alone_s = ALONE_SHARE * seconds / len(KINDS)
        plan = [("server", kind, [kind], alone_s) for kind in KINDS]
        together_s = (1 - ALONE_SHARE) / 2 * seconds
        plan += [(name, f"all, on the {name}", [*KINDS], together_s) for name in served]
        phases = []
        for name, title, kinds, phase_s in plan:
            phases.append(Phase(title, phase_s))
            watch = Watch(served, name, idle, version, queries)
            run(phases[-1], watch, kinds, served[name], saved)
        ends = settle(served, before, phases[-1])
    if tracebacks := log.read_text().count("Traceback"):
        phases[-1].errors.append(f"{tracebacks:,} tracebacks in the logs")
    return phases, ends


def settle(served: dict[str, Served], before: dict[str, int], last: Phase) -> list[str]:
    """Wait until descriptors are back; describe each process's descriptors and memory."""
    until_s = time.monotonic() + BACK_S
    lines = []
    for name, each in served.items():
        while each.descriptors() > before[name] + MORE_DESCRIPTORS and time.monotonic() < until_s:
            time.sleep(0.2)
        after = each.descriptors()
        if after > before[name] + MORE_DESCRIPTORS:
            last.errors.append(f"{name}: {before[name]} descriptors before, {after} after")
    time.sleep(max(0.0, min(10.0, until_s - time.monotonic())))  # memory goes back in a pause
    for name, each in served.items():
        lines.append(
            f"{name}: {before[name]} descriptors before, {each.descriptors()} after; "
            f"{each.resident_bytes() / 2**20:,.0f} MiB after, "
            f"bound {each.memory_bound_bytes / 2**20:,.0f} MiB"
        )
    return lines


def report(phases: list[Phase], ends: list[str], minutes: float) -> tuple[str, list[str]]:
    """The section of the floods, and what was not as it must be."""
    errors, rows = [], []
    for phase in phases:
        errors += [f"{phase.name}: {problem}" for problem in problems(phase)]
        times = 1e3 * np.quantile(phase.probes, [0.5, 0.999, 1.0], method="higher")
        idle_s = np.quantile(phase.idle_probes, 0.999, method="higher")
        others = {n: c for n, c in phase.small.items() if n not in ("ok", "wrong")}
        rows.append(
            [
                phase.name,
                f"{phase.seconds:.0f}",
                f"{100 * max(phase.peaks.values()):.0f} %",
                f"{len(phase.probes):,}",
                *(f"{t:.1f}" for t in times),
                f"{1e3 * idle_s:.1f}",
                f"{phase.small['ok']:,}",
                f"{phase.small['wrong']}",
                ", ".join(f"{c} {n}" for n, c in others.items()) or "0",
                f"{1e3 * phase.first_s:.1f}",
            ]
        )
    head = ["flood", "s", "memory of bound", "probes", "p50, ms", "p99.9, ms", "longest, ms"]
    head += [
        "p99.9 of an idle server, ms",
        "small searches",
        "wrong",
        "failed",
        "first search after, ms",
    ]
    section = (
        f"### serving: soak with floods\n\n{minutes:g} min; a server and a coordinator before it, "
        f"`--memory {MEMORY}`, on the machine that the floods come from. Probes are asked on new "
        f"connections every {1e3 * PROBE_GAP_S:.0f} ms. {'. '.join(ends)}.\n\n"
        f"{measure.table(head, rows)}"
    )
    return section, errors


def problems(phase: Phase) -> list[str]:
    """What was not as it must be in a phase."""
    found = list(phase.errors)
    for name, share in phase.peaks.items():
        if share > 1:
            found.append(f"{name} took {100 * share:.0f} % of its memory bound")
    late, idle = (sum(s > PROBE_S for s in each) for each in (phase.probes, phase.idle_probes))
    machine = 2 * idle + 3 if idle else 0  # late where nobody else asks: not the server's doing
    if late > max(machine, (1 - PROBES_IN_TIME) * len(phase.probes)) or np.isinf(max(phase.probes)):
        found.append(
            f"{late} of {len(phase.probes)} probes late, one {max(phase.probes):.1f} s; "
            f"{idle} of an idle server"
        )
    if phase.small["wrong"]:
        found.append(f"{phase.small['wrong']} wrong answers")
    if phase.first_s > FIRST_SEARCH_S:
        found.append(f"first good search after {1e3 * phase.first_s:.0f} ms")
    return found
