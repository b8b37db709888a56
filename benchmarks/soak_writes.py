"""Writers, readers, servers and kills on one index, every answer compared with a model.

``python -m benchmarks.soak_writes --minutes 10`` writes its record to benchmarks/results, and fails
if anything was not as it must be:

- Writers, each with ids of its own, add, replace and delete rows, and compact; they are killed
  and started again. What a writer was told is committed is never lost.
- Readers ask two servers of some lists each, and a coordinator, all of which follow. One of the
  servers maintains the index; servers are killed and started again.
- A reader asks for the last version that a writer told, as min_version. The answer must hold what
  that writer had done by then, or a moment later up to the answer. A deleted row that comes back,
  a row that is lost, and an id that is found twice are errors.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import teravec
from benchmarks import measure
from teravec.errors import OutputExists, TeravecError

D, NLIST, WRITERS, IDS, READERS = 8, 16, 4, 200, 2
BASE = 10_000  # ids of a writer begin at a multiple of it
_MOVED = 40.0  # from one writer's rows to another's


def vector(writer: int, token: int) -> np.ndarray:
    """The rows of one change are at one place, of its writer's own part of the space."""
    row = np.zeros(D, np.float32)
    row[writer], row[D - 1] = _MOVED, token / 64
    return row


def write(path: Path, log: Path, writer: int, first: int, cut: Change | None) -> None:
    """Change the index until this process is killed; tell each change before and after.

    The change that a kill cut off, if there is one, is made again first.
    """
    rng = np.random.default_rng([writer, first])
    with log.open("a") as file:

        def tell(**entry: object) -> None:
            file.write(json.dumps({"at": time.time(), **entry}) + "\n")
            file.flush()

        token = first
        while True:
            if cut is None:
                token += 1
                kind = str(rng.choice(["add", "add", "add", "delete", "compact"]))
                ids = np.sort(rng.choice(IDS, int(rng.integers(1, IDS)), replace=False))
                ids += BASE * (writer + 1)
            else:
                kind, ids, cut = cut.kind, np.array(cut.ids), None
            change = {"token": token, "kind": kind, "ids": ids.tolist()}
            try:
                if kind == "compact":
                    with suppress(OutputExists):  # another one does it
                        teravec.compact(path, full=bool(rng.random() < 0.2), threads=1)
                    continue
                tell(state="begun", **change)
                if kind == "add":
                    rows = np.tile(vector(writer, token), (len(ids), 1))
                    version = teravec.add(path, rows, ids=ids, threads=1).number
                else:
                    version = teravec.delete(path, ids).number
                tell(state="done", version=version, **change)
            except Exception as error:
                tell(state="error", error=f"{kind}: {type(error).__name__}: {error}")
            time.sleep(float(rng.uniform(0, 0.3)))


@dataclass
class Change:
    """One change of a writer, as its log has it."""

    token: int
    kind: str
    ids: list[int]
    begun: float
    version: int | None = None  # None until it was told

    def applied(self, held: dict[int, int]) -> dict[int, int]:
        if self.kind == "add":
            return held | dict.fromkeys(self.ids, self.token)
        gone = set(self.ids)
        return {key: token for key, token in held.items() if key not in gone}


def read_log(log: Path) -> tuple[list[Change], list[str]]:
    """The changes of a writer in order, and errors that it told."""
    changes: dict[int, Change] = {}
    errors = []
    for line in log.read_text().splitlines() if log.exists() else []:
        with suppress(ValueError):  # a kill cut it off
            entry = json.loads(line)
            if entry["state"] == "error":
                errors.append(entry["error"])
            elif entry["state"] == "begun":
                numbers = entry["token"], entry["kind"], entry["ids"], entry["at"]
                changes.setdefault(entry["token"], Change(*numbers))
            else:
                changes[entry["token"]].version = entry["version"]
    return [changes[token] for token in sorted(changes)], errors


@dataclass
class Seen:
    """What readers were answered: writer, least version, time of the answer, and id with token."""

    answers: list[tuple[int, int, float, dict[int, int]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def states_between(changes: list[Change], least: int, answered: float) -> list[dict[int, int]]:
    """What a writer's rows may be from a version on, until a moment.

    A change of that version or an earlier one is in; one that had not begun is not.
    """
    states: list[dict[int, int]] = [{}]
    for change in changes:
        if change.begun > answered:
            break
        after = [change.applied(state) for state in states]
        if change.version is not None and change.version <= least:
            states = after
        else:
            states += [state for state in after if state not in states]
    return states


def check(changes: dict[int, list[Change]], seen: Seen) -> list[str]:
    """The answers that none of the possible states gives."""
    wrong = []
    for writer, least, answered, found in seen.answers:
        possible = states_between(changes[writer], least, answered)
        if found not in possible:
            near = min(possible, key=lambda state: len(state.items() ^ found.items()))
            diff = sorted(near.items() ^ found.items())[:6]
            wrong.append(f"writer {writer}'s rows at {answered:.3f}: {diff} differ")
    return wrong


def read(url: str, logs: list[Path], seen: Seen, stop: threading.Event, seed: int) -> None:
    """Ask for all rows of one writer after another, as new as it told."""
    rng = random.Random(seed)
    with teravec.connect(url, timeout_s=30) as remote:
        while not stop.is_set():
            writer = rng.randrange(WRITERS)
            told = [change.version or 0 for change in read_log(logs[writer])[0]]
            least, asked = max(told, default=0), time.time()
            try:
                # Rows of others are _MOVED apart in two dimensions.
                query = vector(writer, 0)[None]
                _, distances, ids = remote.range_search(query, _MOVED**2, NLIST, min_version=least)
            except TeravecError as error:
                seen.errors.append(f"{type(error).__name__}: {error}")
                continue
            answered = time.time()
            mine = ids // BASE == writer + 1
            names = ids[mine].tolist()
            tokens = (np.sqrt(distances[mine]) * 64).round().astype(int).tolist()
            if len(set(names)) != len(names):
                seen.errors.append(f"writer {writer}: an id was found twice")
            found = dict(zip(names, tokens, strict=True))
            seen.answers.append((writer, least, answered, found))
            seen.seconds.append(answered - asked)


class Server:
    """A ``teravec serve`` that may be killed and started again at its address."""

    def __init__(self, *arguments: str) -> None:
        self._arguments, self.address = arguments, "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "teravec", "serve", *self._arguments]
        self.process = subprocess.Popen(
            [*command, "--listen", self.address, "--http", "none", "--memory", "256MiB"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        found = re.search(r"grpc://(\S+)", self.process.stdout.readline())
        assert found is not None
        self.address = found[1]

    def kill(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait()


@contextmanager
def at_work(path: Path, folder: Path, seen: Seen) -> Iterator[tuple[list[Server], list[Writer]]]:
    """Run servers, writers and readers while the body runs."""
    with ExitStack() as stack:
        ranges = [f"0:{NLIST // 2}", f"{NLIST // 2}:{NLIST}"]
        servers = [Server(str(path), "--lists", lists) for lists in (*ranges, *ranges)]
        servers.append(Server(str(path), "--maintain", "5s"))
        for server in servers:
            stack.callback(server.kill, signal.SIGTERM)
        addresses = ",".join(server.address for server in servers[:-1])
        coordinator = Server(str(path), "--servers", addresses)
        stack.callback(coordinator.kill, signal.SIGTERM)
        writers = [Writer(path, folder / f"{number}.log", number) for number in range(WRITERS)]
        for writer in writers:
            stack.callback(writer.kill)
        stop = threading.Event()
        logs = [writer.log for writer in writers]
        urls = [f"grpc://{coordinator.address}"] * READERS
        threads = [
            threading.Thread(target=read, args=(url, logs, seen, stop, number))
            for number, url in enumerate(urls)
        ]
        for thread in threads:
            thread.start()
        try:
            yield servers, writers
        finally:
            stop.set()
            for thread in threads:
                thread.join()


class Writer:
    """A writing process that may be killed and started again."""

    def __init__(self, path: Path, log: Path, number: int) -> None:
        self._path, self._number, self.log = path, number, log
        self.start()

    def start(self) -> None:
        changes, _ = read_log(self.log)
        first, cut = (changes[-1].token, changes[-1]) if changes else (0, None)
        if cut is not None and cut.version is not None:
            cut = None
        spawn = multiprocessing.get_context("spawn")
        arguments = self._path, self.log, self._number, first, cut
        self._process = spawn.Process(target=write, args=arguments, daemon=True)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def soak(folder: Path, seconds: float, seed: int) -> tuple[Seen, dict[int, list[Change]], Path]:
    """Write, read and kill for so long; return what was seen and changed, and the index."""
    path, rng, seen = folder / "index", random.Random(seed), Seen()
    centres = np.concatenate([vector(writer, 0)[None] for writer in range(WRITERS)])
    noise = np.random.default_rng(seed).normal(size=(64 * WRITERS, D)) * 10
    rows = (np.repeat(centres, 64, 0) + noise).astype(np.float32)
    teravec.build(rows, path, ids=np.arange(len(rows)), nlist=NLIST, codec="flat", calibrate=False)
    teravec.delete(path, np.arange(len(rows)))
    with at_work(path, folder, seen) as (servers, writers):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.5, 3.0))
            if rng.random() < 0.6:
                victim = rng.choice(writers)
                victim.kill()
                victim.start()
                seen.kills["writer"] += 1
            else:
                server = rng.choice(servers)
                server.kill(rng.choice([signal.SIGKILL, signal.SIGTERM]))
                server.start()
                seen.kills["server"] += 1
            if rng.random() < 0.1:
                teravec.vacuum(path, older_than="30s")
    changes = {}
    for number, writer in enumerate(writers):
        changes[number], errors = read_log(writer.log)
        seen.errors += errors
    return seen, changes, path


def check_end(path: Path, changes: dict[int, list[Change]]) -> list[str]:
    """What the index holds at the end, before and after a compaction, must be what writers did."""
    errors = []
    teravec.verify(path)
    for compacted in (False, True):
        if compacted:
            teravec.compact(path, full=True)
            teravec.vacuum(path, older_than="0s")
            teravec.verify(path)
        with teravec.open(path) as index:
            for writer in changes:
                query = vector(writer, 0)[None]
                _, distances, ids = index.range_search(query, _MOVED**2, NLIST)
                mine = ids // BASE == writer + 1
                tokens = (np.sqrt(distances[mine]) * 64).round().astype(int).tolist()
                found = dict(zip(ids[mine].tolist(), tokens, strict=True))
                newest = index.version
                if found not in states_between(changes[writer], newest, time.time()):
                    errors.append(f"writer {writer}'s rows at the end, compacted: {compacted}")
    return errors


def main() -> None:
    """Run the soak; exit 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--no-record", action="store_true", help="print only")
    given = parser.parse_args()
    print(f"seed {given.seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="teravec-soak-") as made:
        seen, changes, path = soak(Path(made), 60 * given.minutes, given.seed)
        wrong, versions = check(changes, seen), teravec.versions(path)[-1].number
        errors = [*seen.errors, *wrong, *check_end(path, changes)]
    told = {n: sum(change.version is not None for change in each) for n, each in changes.items()}
    errors += [f"writer {number} changed nothing" for number, count in told.items() if not count]
    done = sum(told.values())
    kills = ", ".join(f"{count} of a {what}" for what, count in sorted(seen.kills.items()))
    p50, p99, longest = 1e3 * np.quantile(seen.seconds, [0.5, 0.99, 1.0])
    section = (
        f"### updates: soak\n\n{given.minutes:g} min on {os.cpu_count()} cores: {WRITERS} writers, "
        f"5 servers that follow, one of which maintains, a coordinator, {READERS} readers. "
        f"{versions:,} versions, {done:,} changes that were told, kills: {kills}. "
        f"{len(seen.answers):,} answers compared with a model: {len(wrong)} wrong, "
        f"{len(seen.errors)} failed.\n\n"
        + measure.table(
            ["requests", "p50, ms", "p99, ms", "longest, ms"],
            [[f"{len(seen.seconds):,}", f"{p50:.1f}", f"{p99:.1f}", f"{longest:.1f}"]],
        )
    )
    print(section)
    if not given.no_record:
        measure.write_section("updates soak", section)
    for error in errors[:40]:
        print(error, file=sys.stderr)
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
