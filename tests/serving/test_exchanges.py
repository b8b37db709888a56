"""Exchanges kept open: shared by requests, opened again when lost, closed when idle."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight

import teravec
from teravec.errors import DeadlineExceeded, Unavailable
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.flight_client import FlightPeer
from teravec.serving.wire.protocol import Answer
from teravec.serving.wire.security import ClientSecurity
from tests.serving.conftest import QUERIES, Launch, url
from tests.serving.test_faults import until

EMPTY = np.empty(0, np.float32)
ANSWER = Answer("v", np.zeros(1, np.uint32), EMPTY, EMPTY.astype(np.int64)).encode()


class Echo(flight.FlightServerBase):  # type: ignore[misc]
    """Answers every frame alike, and counts the calls that were opened and ended."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self.opened = self.ended = 0
        self.answers_a_call = 10**9
        self.go = threading.Event()
        self.go.set()

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self.opened += 1
        try:
            for _ in range(self.answers_a_call):
                reader.read_chunk()
                self.go.wait(60)
                writer.write_metadata(pa.py_buffer(ANSWER))
        except (StopIteration, pa.ArrowException):
            pass
        finally:
            self.ended += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server
        server.go.set()


@pytest.fixture
def peer(echo: Echo) -> Iterator[FlightPeer]:
    with closing(FlightPeer(f"grpc://127.0.0.1:{echo.port}", ClientSecurity())) as made:
        yield made


def ask(peer: FlightPeer, timeout_s: float = 5.0, method: str = "search") -> str:
    return peer.ask(method, b"frame", Deadline.after(timeout_s))[0].version


def test_requests_share_an_exchange(echo: Echo, peer: FlightPeer) -> None:
    assert {ask(peer) for _ in range(30)} == {"v"}
    assert echo.opened == 1
    ask(peer, method="refine")
    assert echo.opened == 2  # a call has one method


def test_requests_at_a_time_have_an_exchange_each(echo: Echo, peer: FlightPeer) -> None:
    echo.go.clear()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, peer) for _ in range(3)]
        until(lambda: echo.opened == 3)
        echo.go.set()
        assert [each.result() for each in asked] == ["v"] * 3
    assert [ask(peer) for _ in range(9)] == ["v"] * 9
    assert echo.opened == 3


def test_one_that_the_server_ends_is_opened_again(echo: Echo, peer: FlightPeer) -> None:
    echo.answers_a_call = 1
    assert [ask(peer) for _ in range(5)] == ["v"] * 5
    assert echo.opened == 5


def test_idle_ones_are_closed(echo: Echo) -> None:
    address = f"grpc://127.0.0.1:{echo.port}"
    with closing(FlightPeer(address, ClientSecurity(), idle_s=0.05)) as peer:
        ask(peer)
        until(lambda: echo.ended == 1)
        assert ask(peer) == "v"
    assert echo.opened == 2


def test_closing_the_peer_closes_them(echo: Echo) -> None:
    peer = FlightPeer(f"grpc://127.0.0.1:{echo.port}", ClientSecurity(), idle_s=120)
    ask(peer)
    started = time.monotonic()
    peer.close()
    until(lambda: echo.ended == 1)
    assert time.monotonic() - started < 60  # not for having been idle


def test_no_answer_in_time(echo: Echo, peer: FlightPeer) -> None:
    ask(peer)
    echo.go.clear()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="in time"):
        ask(peer, 0.2)
    assert time.monotonic() - started < 30
    echo.go.set()
    assert ask(peer) == "v"  # the answer to the one before does not come to this one
    assert echo.opened == 2


def test_a_request_is_not_sent_twice_when_it_was_the_first(peer: FlightPeer, echo: Echo) -> None:
    echo.shutdown()
    with pytest.raises(Unavailable):
        ask(peer)
    assert echo.opened == 0


def test_a_restart_between_two_requests_is_not_seen(index: Path, serve: Launch) -> None:
    server = serve(index)
    address = server.address
    with teravec.connect(url(server)) as remote:
        true = remote.search(QUERIES, 5, 60)[1]
        closed = threading.Thread(target=server.close)
        closed.start()
        closed.join(20)  # it waits for the idle exchange, and no longer
        assert not closed.is_alive()
        serve(index, listen=address)
        np.testing.assert_array_equal(remote.search(QUERIES, 5, 60)[1], true)


def test_a_server_closes_though_exchanges_are_open(index: Path, serve: Launch) -> None:
    server = serve(index)
    with teravec.connect(url(server)) as remote:
        remote.search(QUERIES, 5, 60)
        assert server.close(20.0)


@pytest.mark.parametrize("closes", [True, False])
def test_a_process_ends_as_soon_as_it_has_its_answer(
    closes: bool, index: Path, serve: Launch
) -> None:
    """The interpreter aborts where it ends while a thread is inside of gRPC."""
    script = (
        "import sys, threading, numpy as np, teravec\n"
        "remote, q = teravec.connect(sys.argv[1]), np.zeros((1, int(sys.argv[2])), np.float32)\n"
        "asked = [threading.Thread(target=remote.search, args=(q, 3, 4)) for _ in range(8)]\n"
        "[one.start() for one in asked]\n"
        "[one.join() for one in asked]\n"
        "remote.close() if len(sys.argv) > 3 else None\n"
    )
    arguments = [url(serve(index)), str(QUERIES.shape[1]), *(["close"] if closes else [])]
    for _ in range(4):
        ended = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stderr) == (0, "")


def test_an_exit_waits_for_no_server_that_hangs(echo: Echo) -> None:
    script = (
        "import sys, threading, time\n"
        "from teravec.serving.wire.deadline import Deadline\n"
        "from teravec.serving.wire.flight_client import FlightPeer\n"
        "from teravec.serving.wire.security import ClientSecurity\n"
        "peer = FlightPeer(sys.argv[1], ClientSecurity())\n"
        "def ask():\n"
        "    try: peer.ask('search', b'', Deadline.after(60))\n"
        "    except Exception: pass\n"
        "threading.Thread(target=ask, daemon=True).start()\n"
        "time.sleep(0.5)\n"
    )
    echo.go.clear()
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", script, f"grpc://127.0.0.1:{echo.port}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert time.monotonic() - began < 50  # of the 60 that the request has
