"""Faults at random: a cluster whose processes are killed, hung, restarted, damaged and reloaded.

Three ranges of lists have two servers each, and two coordinators stand before them. At most one
process of a group (the servers of a range; the coordinators) is disturbed at a time, and at most
two groups. Clients compare every answer, ids and distances, with the local index.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import teravec
from benchmarks.data import Floats, Ids
from benchmarks.served import Served
from teravec.errors import TeravecError

K, NPROBE = 10, 32
CLIENTS, MANY_ROWS, MANY_SHARE = 16, 8, 0.1
SLICES = ("0,1", "2,3", "4,5")  # of the index's six, for each range
SERVER_MEMORY = "96MiB"  # less than model and lists take: some lists are read from disk
TIMEOUT_S, LIVE_S = 10.0, 60.0
AT_ONCE = 2  # groups disturbed
GAP_S = (0.5, 2.5)  # between the starts of two faults
DAMAGE_FROM, DAMAGE_STEP = 20_000, 1009  # bytes of a slice that are flipped


@dataclass(frozen=True)
class Version:
    """A version of the index, and its own answers to all queries."""

    root: Path
    distances: Floats
    ids: Ids


@dataclass
class Seen:
    """What the clients saw.

    Attributes
    ----------
    calm, rough : list of float
        Seconds of requests of one query, before the first fault and after it.
    answers : int
        Compared with the local index.
    errors : list of str
        Failed requests, wrong answers, and whatever else must not be.
    active : dict of str
        The fault that goes on in each group.
    done : list of str
        Names of the faults that are over.
    logged : Counter
        States of servers that the coordinators logged.
    """

    started_s: float = field(default_factory=time.monotonic)
    calm: list[float] = field(default_factory=list)
    rough: list[float] = field(default_factory=list)
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    disturbed: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    active: dict[str, str] = field(default_factory=dict)
    logged: Counter[str] = field(default_factory=Counter)
    done: list[str] = field(default_factory=list)

    def fail(self, text: str) -> None:
        """Note an error, with the faults that are active."""
        at = time.monotonic() - self.started_s
        self.errors.append(f"{at:.1f} s, during {self.active or 'no fault'}: {text}")


def ask(url: str, queries: Floats, versions: Sequence[Version], seen: Seen, seed: int) -> None:
    """One client: ask, compare, again."""
    draw = random.Random(seed)
    with teravec.connect(url, timeout_s=TIMEOUT_S) as remote:
        while not seen.ended.is_set():
            rows = MANY_ROWS if draw.random() < MANY_SHARE else 1
            at = draw.randrange(len(queries) - rows)
            part, times = slice(at, at + rows), seen.rough if seen.disturbed else seen.calm
            started = time.perf_counter()
            try:
                distances, ids = remote.search(queries[part], K, NPROBE)
            except TeravecError as error:
                seen.fail(f"failed: {type(error).__name__}: {error}")
                continue
            if rows == 1:
                times.append(time.perf_counter() - started)
            seen.answers += 1
            if not any(
                np.array_equal(distances, version.distances[part])
                and np.array_equal(ids, version.ids[part])
                for version in versions
            ):
                seen.fail(f"wrong: queries {part}: the answer of no version")


@contextmanager
def clients(
    urls: Sequence[str], queries: Floats, versions: Sequence[Version], seen: Seen
) -> Iterator[None]:
    """Ask from several threads while the body runs; half of them know the addresses backwards."""
    threads = [
        threading.Thread(
            target=ask,
            args=(",".join(urls[:: 1 if n % 2 else -1]), queries, versions, seen, 101 * n),
        )
        for n in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        seen.ended.set()
        for thread in threads:
            thread.join()


@dataclass
class Process:
    """A server or coordinator with a directory of its own.

    Parameters
    ----------
    name : str
    served : Served
    folder : Path
        Has a copy of each version, and the link ``current`` to one of them.
    """

    name: str
    served: Served
    folder: Path

    def move(self, version: Version) -> None:
        """Point its path at another version."""
        following = self.folder / "following"
        following.symlink_to(version.root.name)
        following.rename(self.folder / "current")


@dataclass
class Group:
    """Processes of which one at a time is disturbed."""

    name: str
    processes: list[Process]
    faults: Mapping[str, Callable[[Process], None]]
    lock: threading.Lock = field(default_factory=threading.Lock)


class Cluster:
    """The processes, and what can happen to them.

    Parameters
    ----------
    folder : Path
        Copies of the versions are made here.
    versions : sequence of Version
    seen : Seen
    draw : Random
        Chooses faults and their times.
    stack : ExitStack
        Ends the processes.
    """

    def __init__(
        self,
        folder: Path,
        versions: Sequence[Version],
        seen: Seen,
        draw: random.Random,
        stack: ExitStack,
    ) -> None:
        self._versions, self._seen, self._draw = versions, seen, draw
        self._stack, self._folder = stack, folder
        kill = {"kill": self.kill, "hang": self.hang, "restart": self.restart}
        every = {**kill, "reload": self.reload, "damage": self.damage}
        self.ranges = [
            Group(f"range {n}", [self._server(n, m) for m in range(2)], every) for n in range(3)
        ]
        servers = [p.served.address for g in self.ranges for p in g.processes]
        joined = ",".join(servers)
        fronts = [self._start(f"coordinator {n}", "--servers", joined) for n in range(2)]
        self.fronts = Group("coordinators", fronts, {**kill, "reload": self.reload})
        self.groups = [*self.ranges, self.fronts]

    @property
    def processes(self) -> list[Process]:
        """All of them."""
        return [process for group in self.groups for process in group.processes]

    @property
    def urls(self) -> list[str]:
        """Of the coordinators."""
        return [process.served.url for process in self.fronts.processes]

    def _server(self, number: int, replica: int) -> Process:
        options = ("--slices", SLICES[number], "--memory", SERVER_MEMORY)
        return self._start(f"server {number}.{replica}", *options)

    def _start(self, name: str, *options: str) -> Process:
        folder = self._folder / name.replace(" ", "-")
        for version in self._versions:
            shutil.copytree(version.root, folder / version.root.name)
        (folder / "current").symlink_to(self._versions[0].root.name)
        log = self._folder / f"{folder.name}.log"
        served = self._stack.enter_context(Served(str(folder / "current"), *options, log=log))
        return Process(name, served, folder)

    # --- faults

    def kill(self, victim: Process) -> None:
        """Kill it, and start it again after some seconds."""
        victim.served.end(signal.SIGKILL)
        time.sleep(self._draw.uniform(0.5, 3))
        victim.served.start()

    def hang(self, victim: Process) -> None:
        """Stop it for some seconds, as a machine that swaps or a disk that does not answer."""
        victim.served.send(signal.SIGSTOP)
        try:
            time.sleep(self._draw.uniform(0.5, 8))
        finally:
            victim.served.send(signal.SIGCONT)

    def restart(self, victim: Process) -> None:
        """End it in order, and start it again."""
        victim.served.end(signal.SIGTERM)
        victim.served.start()

    def reload(self, victim: Process) -> None:
        """Have it open its index again."""
        victim.served.send(signal.SIGHUP)

    def damage(self, victim: Process) -> None:
        """Flip bytes of its slices; later repair them from the good index, and reload."""
        current = (victim.folder / "current").resolve()
        good = next(v.root for v in self._versions if v.root.name == current.name)
        slices = sorted((current / "slices").iterdir())
        for path in slices:
            content = bytearray(path.read_bytes())
            for at in range(DAMAGE_FROM, len(content), DAMAGE_STEP):
                content[at] ^= 0xFF
            path.write_bytes(content)
        if self._draw.random() < 0.5:
            self.reload(victim)  # nothing good is left in memory
        time.sleep(self._draw.uniform(2, 6))
        for path in slices:
            repaired = path.with_suffix(".repaired")
            shutil.copyfile(good / "slices" / path.name, repaired)
            repaired.rename(path)
        self.reload(victim)

    def upgrade(self) -> None:
        """Go over to the other version: move all links, then signal all, in any order."""
        now = (self.processes[0].folder / "current").resolve().name
        other = next(v for v in self._versions if v.root.name != now)
        for process in self.processes:
            process.move(other)
        before = {told["version"] for told in self._told("info")}
        order = self.processes
        self._draw.shuffle(order)
        for process in order:
            self.reload(process)
            time.sleep(self._draw.uniform(0, 0.3))
        self._wait("one version, and another one", lambda: self._upgraded(before))

    def _upgraded(self, before: set[str]) -> bool:
        now = [told["version"] for told in self._told("info")]
        return len(now) == len(self.urls) and len(set(now)) == 1 and set(now) != before

    # --- the run

    def disturb(self, until_s: float) -> None:
        """Start faults at random until then; return when the last one is over."""
        threads: list[threading.Thread] = []
        upgraded_s = time.monotonic()
        while time.monotonic() < until_s:
            threads = [t for t in threads if t.is_alive()]
            if len(threads) < AT_ONCE:
                if time.monotonic() - upgraded_s > 20:
                    self._all_wait(threads)
                    self._run("all", "upgrade", self.upgrade)
                    upgraded_s = time.monotonic()
                threads += self._begin()
            time.sleep(self._draw.uniform(*GAP_S))
        self._all_wait(threads)

    @staticmethod
    def _all_wait(threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join()

    def _begin(self) -> list[threading.Thread]:
        """One more fault, in a group that is well."""
        group = self._draw.choice(self.groups)
        if group.lock.locked():
            return []
        victim = self._draw.choice(group.processes)
        fault = self._draw.choice(sorted(group.faults))
        live = self._coordinates if group is self.fronts else self._is_asked

        def disturb() -> None:
            group.faults[fault](victim)
            time.sleep(1.0)  # until the change has been polled
            self._wait(f"{victim.name} is well", lambda: live(victim))

        def run() -> None:
            with group.lock:
                self._run(group.name, f"{fault} {victim.name}", disturb)

        thread = threading.Thread(target=run)
        thread.start()
        return [thread]

    def _run(self, group: str, name: str, act: Callable[[], None]) -> None:
        self._seen.active[group] = name
        try:
            act()
            self._seen.done.append(name.split()[0])
        except Exception as error:
            self._seen.fail(f"{name}: {type(error).__name__}: {error}")
        finally:
            del self._seen.active[group]

    def _wait(self, what: str, true: Callable[[], bool]) -> None:
        until_s = time.monotonic() + LIVE_S
        while not true():
            if time.monotonic() > until_s:
                raise TimeoutError(f"not within {LIVE_S:.0f} s: {what}")
            time.sleep(0.2)

    def _is_asked(self, server: Process) -> bool:
        """Whether every coordinator that answers finds a server live."""
        told = self._told("statistics")
        address = server.served.address
        states = [s["state"] for each in told for s in each["servers"] if s["address"] == address]
        return bool(states) and set(states) == {"live"}

    def _coordinates(self, front: Process) -> bool:
        """Whether a coordinator answers, and finds an owner for every list."""
        told = tell(front.served.url, "statistics")
        return told is not None and told["covered"] == 1.0

    def _told(self, action: str) -> list[dict[str, Any]]:
        """What the coordinators say that answer."""
        return [told for url in self.urls if (told := tell(url, action)) is not None]


def tell(url: str, action: str) -> dict[str, Any] | None:
    """What a server says of itself: ``info`` or ``statistics``; None if it does not answer."""
    try:
        with teravec.connect(url, timeout_s=1) as remote:
            return remote.info() if action == "info" else remote.statistics()
    except TeravecError:
        return None


def watch(processes: Sequence[Process], seen: Seen, peaks: dict[str, float]) -> None:
    """Note each process's largest share of the memory that it says it takes."""
    while not seen.ended.wait(0.5):
        for process in processes:
            try:
                share = process.served.resident_bytes() / process.served.memory_bound_bytes
            except (AssertionError, OSError):  # killed
                continue
            peaks[process.name] = max(peaks.get(process.name, 0.0), share)


def soak(
    folder: Path, versions: Sequence[Version], queries: Floats, seconds: float, seed: int
) -> tuple[Seen, dict[str, float]]:
    """Run it: a fifth of the time calm, the rest with faults.

    Returns
    -------
    Seen
    peaks : dict of float
        Each process's largest memory, over what it says that it takes.
    """
    seen, peaks = Seen(), dict[str, float]()
    with ExitStack() as stack:
        cluster = Cluster(folder, versions, seen, random.Random(seed), stack)
        watcher = threading.Thread(target=watch, args=(cluster.processes, seen, peaks))
        with clients(cluster.urls, queries, versions, seen):
            watcher.start()
            time.sleep(3)  # caches fill
            seen.calm.clear()
            time.sleep(seconds / 5)
            seen.disturbed = True
            cluster.disturb(time.monotonic() + 4 / 5 * seconds)
        watcher.join()
    for log in folder.glob("*.log"):
        text = log.read_text()
        seen.logged.update(re.findall(r"server \S+ is (down|damaged|refused|live again)", text))
        if "Traceback" in text:
            seen.fail(f"{log.name}: {text[text.index('Traceback') :][:2000]}")
    return seen, peaks
