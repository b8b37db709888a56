"""Servers that come and go, indexes that change, processes that end: no request is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import teravec
from teravec.errors import TeravecError
from tests.serving.conftest import QUERIES, Launch, Process, addresses, built, url
from tests.serving.test_faults import assert_exact, state_of, until

Spawn = Callable[..., Process]


class Load:
    """Clients that ask one query after another, and compare every answer."""

    def __init__(self, target: str, expected: list[np.ndarray], clients: int = 4) -> None:
        self._target, self._expected = target, expected
        self._stop = threading.Event()
        self.times: list[float] = []
        self.errors: list[str] = []
        self._strange: list[tuple[int, np.ndarray]] = []  # answers that are none of the expected
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def _ask(self, number: int) -> None:
        with teravec.connect(self._target, timeout_s=60) as remote:
            while not self._stop.is_set():
                row = number = (number + 7) % len(QUERIES)
                started = time.perf_counter()
                try:
                    found = remote.search(QUERIES[row : row + 1], 10, 60)[1][0]
                except TeravecError as error:
                    self.errors.append(f"{type(error).__name__}: {error}")
                    continue
                self.times.append(time.perf_counter() - started)
                time.sleep(0.005)  # servers that start meanwhile need processors as well
                if not self._is_expected(row, found):
                    self._strange.append((row, found))

    def _is_expected(self, row: int, found: np.ndarray) -> bool:
        return any(np.array_equal(found, ids[row]) for ids in self._expected)

    def p99(self) -> float:
        """Of the times so far, which are then forgotten."""
        times, self.times = self.times, []
        assert len(times) > 20
        return float(np.quantile(times, 0.99))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask while the body runs."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
            # What is expected may have been known a moment later.
            strange = [row for row, found in self._strange if not self._is_expected(row, found)]
            self.errors += [f"wrong answer to {row}" for row in strange]


def true_ids(path: Path) -> np.ndarray:
    with teravec.open(path) as local:
        return local.search(QUERIES, 10, 60)[1]


def test_servers_killed_one_at_a_time_cost_no_request(index: Path, spawn: Spawn) -> None:
    path = str(index)
    servers = [spawn(path, "--lists", lists) for lists in ("0:30", "0:30", "30:60", "30:60")]
    listed = ",".join(server.address for server in servers)
    coordinator = spawn(path, "--servers", listed)
    before = {p: p.read_bytes() for p in index.rglob("*") if p.is_file()}
    load = Load(f"grpc://{coordinator.address}", [true_ids(index)])
    with load.running(), teravec.connect(f"grpc://{coordinator.address}") as remote:
        until(lambda: len(load.times) > 100)
        calm = load.p99()
        for server in (servers[0], servers[2]):
            server.end(signal.SIGKILL)
            until(partial(in_state, remote, server.address, "down"))
            time.sleep(0.5)
            server.start()
            until(partial(in_state, remote, server.address, "live"))
        until(lambda: len(load.times) > 100)
        rough = load.p99()
    assert load.errors == []
    # A few requests meet the kill itself; on a busy machine their wait is that of the machine.
    assert rough < max(5 * calm, 5.0), (rough, calm)
    assert {p: p.read_bytes() for p in index.rglob("*") if p.is_file()} == before


def in_state(remote: teravec.RemoteIndex, address: str, state: str) -> bool:
    servers = remote.statistics()["servers"]
    return any((s["address"], s["state"]) == (address, state) for s in servers)


def test_sigterm_drains(index: Path, spawn: Spawn) -> None:
    servers = [spawn(str(index)), spawn(str(index))]
    coordinator = spawn(str(index), "--servers", ",".join(s.address for s in servers))
    load = Load(f"grpc://{coordinator.address}", [true_ids(index)])
    with load.running():
        time.sleep(0.5)
        assert servers[0].end(signal.SIGTERM) == 0
        time.sleep(0.5)
    assert load.errors == []
    assert load.times
    assert coordinator.end(signal.SIGTERM) == 0
    assert servers[1].end(signal.SIGTERM) == 0


def test_a_caller_that_never_finishes_does_not_stop_the_end(index: Path, spawn: Spawn) -> None:
    from pyarrow import flight

    server = spawn(str(index), "--drain", "0.2")
    client = flight.FlightClient(f"grpc://{server.address}")
    _writer, reader = client.do_exchange(flight.FlightDescriptor.for_command("search"))
    started = time.monotonic()
    assert server.end(signal.SIGTERM) == 0
    assert time.monotonic() - started < 60
    reader.cancel()
    client.close()


def test_topology_file_is_followed(index: Path, serve: Launch, tmp_path: Path) -> None:
    one, two = serve(index, lists="0:30"), serve(index, lists="30:60")
    extra = serve(index)
    path = tmp_path / "topology.json"

    def write(*entries: tuple[object, str | None]) -> None:
        servers = [
            {"address": str(a), **({"lists": lists} if lists else {})} for a, lists in entries
        ]
        path.with_suffix(".tmp").write_text(json.dumps({"servers": servers}))
        path.with_suffix(".tmp").rename(path)

    write((one.address, "0:30"), (two.address, "30:59"))
    coordinator = serve(index, topology=path)
    with teravec.connect(url(coordinator), timeout_s=20) as remote:
        assert "the topology says 30:59" in state_of(remote, two)["why"]
        assert not remote.statistics()["ready"]
        write((one.address, "0:30"), (two.address, None))
        until(lambda: remote.statistics()["ready"])
        assert_exact(remote, index)
        write((extra.address, None))
        until(lambda: len(remote.statistics()["servers"]) == 1)
        assert_exact(remote, index)
        path.write_text("{")
        time.sleep(0.8)
        assert_exact(remote, index)  # a file that is none changes nothing


def test_reload_drops_no_request(indexes: dict[str, Path], serve: Launch, tmp_path: Path) -> None:
    other = built(tmp_path, seed=3)
    link = tmp_path / "current"
    link.symlink_to(indexes["l2"])
    servers = [serve(link, lists="0:30"), serve(link, lists="30:60")]
    coordinator = serve(link, servers=addresses(servers))
    expected = [true_ids(indexes["l2"]), true_ids(other)]
    load = Load(url(coordinator), expected)
    with load.running(), teravec.connect(url(coordinator)) as remote:
        first = remote.info()["version"]
        time.sleep(0.3)
        link.with_name("next").symlink_to(other)
        link.with_name("next").rename(link)
        for server in (coordinator, *servers):  # in any order: it waits for servers to have it
            server.reload()
            time.sleep(0.2)
        until(lambda: remote.info()["version"] != first)
        time.sleep(0.3)
        np.testing.assert_array_equal(remote.search(QUERIES, 10, 60)[1], expected[1])
    assert load.errors == []


def test_a_reload_that_fails_changes_nothing(index: Path, serve: Launch, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(index, copy)
    server = serve(copy)
    with teravec.connect(url(server)) as remote:
        (copy / "manifest.json").write_bytes(b"{}")
        server.reload()
        assert_exact(remote, index)


def test_sighup_reloads_in_a_process(index: Path, spawn: Spawn, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(index)
    server = spawn(str(link))
    other = built(tmp_path, seed=4)
    with teravec.connect(f"grpc://{server.address}") as remote:
        first = remote.info()["version"]
        link.unlink()
        link.symlink_to(other)
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGHUP)
        until(lambda: remote.info()["version"] != first)
        np.testing.assert_array_equal(remote.search(QUERIES, 10, 60)[1], true_ids(other))
