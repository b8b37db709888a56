"""Clients with several addresses: whatever is wrong with one, another answers, soon."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec.errors import Busy, DeadlineExceeded, InvalidArgument, ProtocolError, Unavailable
from teravec.serving.deploy.program import Server
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.overdue import HedgeBudget, Usual
from tests.serving.conftest import QUERIES, Launch, Process, built, url
from tests.serving.test_faults import assert_exact

Spawn = Callable[..., Process]
DEADLINE_S = 50  # an address that hangs would take all of it
SOON_S = 25


@contextmanager
def listening(backlog: int) -> Iterator[str]:
    """An address that takes connections, up to the backlog, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    with listening(64) as address:
        yield f"grpc://{address}"


@contextmanager
def blackhole() -> Iterator[str]:
    """An address that takes not even connections: its backlog is full."""
    with listening(0) as address, ExitStack() as stack:
        host, port = address.split(":")
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, int(port)))
        yield f"grpc://{address}"


@contextmanager
def slow_handshake() -> Iterator[str]:
    with listening(64) as address:
        yield f"grpc+tls://{address}"


@contextmanager
def dead() -> Iterator[str]:
    with listening(1) as address:
        pass
    yield f"grpc://{address}"


@contextmanager
def closing() -> Iterator[str]:
    """An address that closes every connection at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_all() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=close_all, daemon=True)
        thread.start()
        try:
            yield f"grpc://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(60)


BAD = [silent, blackhole, slow_handshake, dead, closing]


@contextmanager
def soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON_S


def seconds_of_one(remote: teravec.RemoteIndex) -> float:
    started = time.monotonic()
    remote.search(QUERIES[:1], 10, 60)
    return time.monotonic() - started


@pytest.mark.parametrize("kind", BAD)
def test_connect_passes_over_a_bad_address(
    kind: Callable[[], Any], index: Path, serve: Launch
) -> None:
    server = serve(index)
    with kind() as bad, ExitStack() as stack:
        with soon():
            remote = stack.enter_context(
                teravec.connect(f"{bad},{bad},{url(server)}", timeout_s=DEADLINE_S)
            )
        with soon():
            assert_exact(remote, index, rounds=3)


def test_a_coordinator_that_hangs_costs_one_request_a_moment(index: Path, spawn: Spawn) -> None:
    server = spawn(str(index))
    fronts = [spawn(str(index), "--servers", server.address) for _ in range(2)]
    listed = ",".join(f"grpc://{front.address}" for front in fronts)
    with teravec.connect(listed, timeout_s=DEADLINE_S) as remote:
        assert_exact(remote, index, rounds=3)
        for hung, other in ((0, 1), (1, 0)):  # the one that answers hangs, the other is back
            process = fronts[hung].process
            assert process is not None
            process.send_signal(signal.SIGSTOP)
            try:
                with soon():
                    assert_exact(remote, index)
                assert any(seconds_of_one(remote) < 0.1 for _ in range(100))  # it is remembered
                with soon():
                    assert remote.info()["d"] == QUERIES.shape[1]
                with soon():
                    teravec.connect(listed, timeout_s=DEADLINE_S).close()
            finally:
                process.send_signal(signal.SIGCONT)
            assert fronts[other].process is not None


def test_both_hang_is_late_and_says_where(
    index: Path, serve: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(index)
    with silent() as bad, teravec.connect(f"{url(server)},{bad}", timeout_s=DEADLINE_S) as remote:
        monkeypatch.setattr(server.service, "answer_frame", lambda *_: time.sleep(6))
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="no answer in time"):
            remote.search(QUERIES[:1], 10, 60, timeout_s=0.6)
        assert time.monotonic() - started < 5


def failing(server: Server, error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []

    def fail(*_: object) -> None:
        asked.append(1)
        raise error

    monkeypatch.setattr(server.service.backend, "search", fail)
    return asked


@pytest.mark.parametrize(
    "error",
    [
        Busy("full"),
        Unavailable("gone"),
        ProtocolError("?"),
        teravec.CorruptFile("list 3"),
        ZeroDivisionError(),
    ],
)
def test_an_error_of_one_is_passed_over(
    error: Exception, index: Path, serve: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = serve(index), serve(index)
    with teravec.connect(f"{url(one)},{url(two)}", timeout_s=DEADLINE_S) as remote:
        asked = failing(one, error, monkeypatch)
        with soon():
            assert_exact(remote, index, rounds=4)
        assert len(asked) == 1  # then the other one is asked first
        failing(two, error, monkeypatch)
        with pytest.raises(teravec.TeravecError):
            remote.search(QUERIES[:1], 10, 60, timeout_s=0.3)


def test_a_bad_argument_is_asked_once(
    index: Path, serve: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = serve(index, limits=Limits(k=20)), serve(index)
    with teravec.connect(f"{url(one)},{url(two)}", timeout_s=DEADLINE_S) as remote:
        asked = failing(two, Busy("full"), monkeypatch)
        with pytest.raises(InvalidArgument, match="20"):
            remote.search(QUERIES[:1], 21, 60)
        assert not asked


def test_runs_of_one_search_have_one_version(
    index: Path, serve: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator hangs between two runs, and the other one has another version."""
    other = built(tmp_path, seed=6)
    # Batches of one run each, so that two that arrive together are two.
    one, two = (serve(path, limits=Limits(queries=20), batch_rows=20) for path in (index, other))
    with teravec.open(other) as local:
        true = local.search(QUERIES, 10, 60)[1]
    with teravec.connect(f"{url(one)},{url(two)}", timeout_s=DEADLINE_S) as remote:
        answer = one.service.backend.search
        answered: list[int] = []

        def once(*arguments: Any) -> Any:
            if answered:
                raise Unavailable("ended")
            answered.append(1)
            return answer(*arguments)

        monkeypatch.setattr(one.service.backend, "search", once)
        found = remote.search(QUERIES, 10, 60)[1]  # 40 queries, in runs of 20
    assert answered
    np.testing.assert_array_equal(found, true)


def test_usual_times() -> None:
    usual = Usual(least_s=0.1, most_s=2.0, unknown_s=0.25)
    assert usual.overdue_after_s(1 << 20) == 0.25
    for _ in range(50):
        usual.learn(1 << 20, 0.2)
    assert 0.4 <= usual.overdue_after_s(1 << 20) < 0.5
    assert usual.ratio(1 << 20, 1.0) == pytest.approx(5.0)
    assert usual.ratio(1 << 40, 1.0) is None
    usual.learn(1 << 20, 100.0, slow=True)
    assert usual.overdue_after_s(1 << 20) < 0.5
    usual.learn(1 << 20, 100.0)
    assert usual.overdue_after_s(1 << 20) == 2.0


def test_a_tenth_may_be_asked_twice() -> None:
    budget, hedges = HedgeBudget(), 0
    for _ in range(1000):
        budget.started(hedge=False)
        if budget.may_hedge:
            budget.started(hedge=True)
            hedges += 1
    assert 80 < hedges < 140
