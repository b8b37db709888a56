"""Connections kept open: shared by requests, opened again when lost, closed when idle."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.errors import DeadlineExceeded, ProtocolError, TeravecError, Unavailable
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.peer import ServerPeer
from teravec.serving.wire.protocol import Answer
from teravec.serving.wire.security import ClientSecurity
from tests.serving.conftest import QUERIES, Launch, url
from tests.serving.test_faults import until

EMPTY = np.empty(0, np.float32)
ANSWER = Answer("v", np.zeros(1, np.uint32), EMPTY, EMPTY.astype(np.int64)).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.teravec.frame\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER


class Echo:
    """Answers every request alike, and counts the connections that were opened and ended."""

    def __init__(self, answer: bytes = WHOLE) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.opened = self.ended = self.asked = 0
        self.answer, self.answers_a_connection = answer, 10**9
        self.go = threading.Event()
        self.go.set()
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                made = self.listener.accept()[0]
                self.opened += 1
                threading.Thread(target=self.talk, args=(made,), daemon=True).start()

    def talk(self, made: socket.socket) -> None:
        with made, made.makefile("rb") as file, contextlib.suppress(OSError):
            for _ in range(self.answers_a_connection):
                length = None
                while (line := file.readline()) not in (b"\r\n", b""):
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                if length is None:
                    break
                file.read(length)
                self.asked += 1
                self.go.wait(60)
                made.sendall(self.answer)
        self.ended += 1

    def close(self) -> None:
        self.go.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo()) as server:
        yield server


@pytest.fixture
def peer(echo: Echo) -> Iterator[ServerPeer]:
    with closing(ServerPeer(f"grpc://127.0.0.1:{echo.port}", ClientSecurity())) as made:
        yield made


def ask(peer: ServerPeer, timeout_s: float = 5.0, method: str = "search") -> str:
    return peer.ask(method, b"frame", Deadline.after(timeout_s))[0].version


def test_requests_share_a_connection(echo: Echo, peer: ServerPeer) -> None:
    assert {ask(peer) for _ in range(30)} == {"v"}
    assert echo.opened == 1
    ask(peer, method="refine")
    assert echo.opened == 1


def test_requests_at_a_time_have_a_connection_each(echo: Echo, peer: ServerPeer) -> None:
    echo.go.clear()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, peer) for _ in range(3)]
        until(lambda: echo.opened == 3)
        echo.go.set()
        assert [each.result() for each in asked] == ["v"] * 3
    assert [ask(peer) for _ in range(9)] == ["v"] * 9
    assert echo.opened == 3


def test_one_that_the_server_ends_is_opened_again(echo: Echo, peer: ServerPeer) -> None:
    echo.answers_a_connection = 1
    assert [ask(peer) for _ in range(5)] == ["v"] * 5
    assert echo.opened == 5


def test_idle_ones_are_closed(echo: Echo) -> None:
    address = f"grpc://127.0.0.1:{echo.port}"
    with closing(ServerPeer(address, ClientSecurity(), idle_s=0.05)) as peer:
        ask(peer)
        time.sleep(0.1)
        assert ask(peer) == "v"
        until(lambda: echo.ended == 1)
    assert echo.opened == 2


def test_closing_the_peer_closes_them(echo: Echo, peer: ServerPeer) -> None:
    ask(peer)
    started = time.monotonic()
    peer.close()
    until(lambda: echo.ended == 1)
    assert time.monotonic() - started < 60  # not for having been idle


def test_no_answer_in_time(echo: Echo, peer: ServerPeer) -> None:
    ask(peer)
    echo.go.clear()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="in time"):
        ask(peer, 0.2)
    assert time.monotonic() - started < 30
    echo.go.set()
    assert ask(peer) == "v"  # the answer to the one before does not come to this one
    assert echo.opened == 2


def test_a_request_is_not_sent_twice_when_it_was_the_first(peer: ServerPeer, echo: Echo) -> None:
    echo.close()
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
        "from teravec.serving.wire.peer import ServerPeer\n"
        "from teravec.serving.wire.security import ClientSecurity\n"
        "peer = ServerPeer(sys.argv[1], ClientSecurity())\n"
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
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", Unavailable),
        (b"HTTP/1.1 200 OK\r\n", Unavailable),
        (WHOLE[:-1], Unavailable),
        (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00", ProtocolError),  # HTTP/2's settings
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", ProtocolError),
        (HEAD + b"content-length: 99999999999\r\n\r\n", ProtocolError),
        (HEAD + b"content-length: -1\r\n\r\n", ProtocolError),
        (HEAD + b"\r\n" + ANSWER, ProtocolError),
        (HEAD + b"x: " + b"x" * 20_000, ProtocolError),
        (WHOLE + b"more", ProtocolError),
        (WHOLE[:-1] + b"?", ProtocolError),  # not its checksum
    ],
)
def test_what_is_no_answer(answer: bytes, kind: type[TeravecError]) -> None:
    with closing(Echo(answer)) as echo:
        echo.answers_a_connection = 1
        with (
            closing(ServerPeer(f"grpc://127.0.0.1:{echo.port}", ClientSecurity())) as peer,
            pytest.raises(kind),
        ):
            ask(peer)
