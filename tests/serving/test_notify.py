"""What the service manager is told: readiness, reloads, the end, and that the server is healthy."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from teravec.serving.deploy.notify import Notifier, watching
from tests.serving.conftest import Launch, url
from tests.serving.test_faults import until

USEC = 1_000_000


class Manager:
    """The socket on which a service manager listens."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)

    def next(self, timeout_s: float = 60.0) -> list[str]:
        """The lines of the next message."""
        self._socket.settimeout(timeout_s)
        return self._socket.recv(4096).decode().split("\n")

    def until(self, line: str, timeout_s: float = 60.0) -> list[str]:
        """Read messages until one contains ``line``; return its lines."""
        end = time.monotonic() + timeout_s
        while line not in (lines := self.next(max(0.001, end - time.monotonic()))):
            pass
        return lines

    def waiting(self) -> list[list[str]]:
        """Messages that have come."""
        found = []
        while True:
            try:
                found.append(self.next(0.001))
            except TimeoutError:
                return found

    def environment(self, watchdog_s: float | None = None) -> dict[str, str]:
        told = {"NOTIFY_SOCKET": self.name}
        if watchdog_s is not None:
            told["WATCHDOG_USEC"] = str(int(watchdog_s * USEC))
        return told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@teravec-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    manager = Manager(name)
    yield manager
    manager.close()


def test_states(manager: Manager) -> None:
    notifier = Notifier(manager.environment())
    notifier.ready("serving\nREADY=0")
    assert manager.next() == ["READY=1", "STATUS=serving READY=0"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    told, at = manager.next()
    assert told == "RELOADING=1"
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) < before + 60 * USEC
    notifier.stopping()
    assert manager.next()[0] == "STOPPING=1"


@pytest.mark.parametrize("name", ["", "relative", "vsock:2:1234"])
def test_without_a_manager(name: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"})
    notifier.ready("serving")
    assert notifier.watchdog_s is None


def test_a_manager_that_is_gone_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.ready("serving")
    notifier.stopping()
    assert len(caplog.records) == 1


def test_a_manager_that_reads_nothing_delays_little(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier(manager.environment())
    started = time.monotonic()
    blocked = 0
    while blocked < 2:  # the socket's buffer takes some messages
        before = time.monotonic()
        notifier.beat()
        blocked += time.monotonic() - before > 0.4
        assert time.monotonic() - started < 60
    assert time.monotonic() - before < 2
    manager.close()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_time(environment: dict[str, str], expected: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/run/notify", **environment}).watchdog_s == expected


class Loop:
    """An event loop that can hang."""

    def __init__(self) -> None:
        self.hangs = False

    def ping(self, done: Callable[[], None]) -> None:
        if not self.hangs:
            done()


def test_beats_stop_while_a_loop_hangs(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Loop(), Loop()
    notifier = Notifier(manager.environment(0.2))
    with watching(notifier, {"one": first.ping, "the other": second.ping}):
        for _ in range(3):
            assert manager.next() == ["WATCHDOG=1"]
        second.hangs = True
        until(lambda: bool(caplog.records))
        assert "the other hangs" in caplog.text
        manager.waiting()
        time.sleep(0.3)
        assert manager.waiting() == []
        second.hangs = False
        assert manager.next() == ["WATCHDOG=1"]
    assert len(caplog.records) == 1
    manager.waiting()
    time.sleep(0.2)
    assert manager.waiting() == []


def test_loops_of_a_server(serve: Launch, index: Path) -> None:
    """Both ports' loops are watched: a beat waits for each of them."""
    from teravec.serving.wire.security import Address

    server = serve(index, http=Address("127.0.0.1", 0))
    loops = server.loops
    assert len(loops) == 2
    for ping in loops.values():
        hang, go_on, answered = threading.Event(), threading.Event(), threading.Event()

        def block(hang: threading.Event = hang, go_on: threading.Event = go_on) -> None:
            hang.set()
            go_on.wait(60)

        ping(block)
        assert hang.wait(60)
        ping(answered.set)
        assert not answered.wait(0.1)
        go_on.set()
        assert answered.wait(60)
    assert len(serve(index).loops) == 1
    assert url(server)


def test_a_process(manager: Manager, index: Path) -> None:
    """``teravec serve`` as systemd runs it: start, reload, failed reload, stop."""
    command = ["serve", str(index), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "teravec", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **manager.environment(1.0)},
    )
    manifest = index / "manifest.json"
    content = manifest.read_bytes()
    try:
        ready = manager.until("READY=1")
        assert ready[1].startswith("STATUS=serving index version ")
        manager.until("WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        manager.until("RELOADING=1")
        assert manager.until("READY=1")[1].startswith("STATUS=reloaded; index version ")
        manifest.write_bytes(b"{")
        process.send_signal(signal.SIGHUP)
        assert manager.until("READY=1")[1].startswith("STATUS=reload failed; ")
        process.send_signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert process.wait(60) == 0
    finally:
        manifest.write_bytes(content)
        process.kill()
        process.wait()


def test_a_hung_process_sends_no_beats(manager: Manager, index: Path) -> None:
    command = ["serve", str(index), "--listen", "127.0.0.1:0", "--http", "none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "teravec", *command],
        stdout=subprocess.DEVNULL,
        env={**os.environ, **manager.environment(0.8)},
    )
    try:
        manager.until("WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        manager.waiting()
        time.sleep(1)
        assert manager.waiting() == []
        process.send_signal(signal.SIGCONT)
        manager.until("WATCHDOG=1")
    finally:
        process.kill()
        process.wait()
