"""Connections that say nothing, or do not read, are let go; probes are answered beside them."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from teravec.serving.deploy.program import Server
from teravec.serving.loop.server import count_connections
from teravec.serving.server.port_times import PortTimes
from teravec.serving.wire.security import Address, ServerSecurity
from tests.serving.certificates import Authority
from tests.serving.conftest import NLIST, QUERIES, Launch

LOCAL = Address("127.0.0.1", 0)
SOON = PortTimes(greeting_s=1.0, ending_s=1.0)


def connect(server: Server) -> socket.socket:
    assert server.http_address is not None
    made = socket.create_connection((server.http_address.host, server.http_address.port), 60)
    made.settimeout(60)
    return made


def ends(connection: socket.socket) -> bool:
    """Whether the server ends a connection within some seconds."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-a: ",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he",
        b"POST /search HTTP/1.1\r\nHost: evil\r\nContent-Length: 4000000\r\n\r\n{",
    ],
)
def test_headers_and_refused_bodies_have_a_time(index: Path, serve: Launch, sent: bytes) -> None:
    server = serve(index, http=LOCAL, times=SOON)
    with connect(server) as connection:
        connection.sendall(sent)
        assert ends(connection)


def send_slowly(connection: socket.socket) -> None:
    for byte in b"GET /" + b"a" * 2000:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def test_one_byte_after_another_does_not_help(index: Path, serve: Launch) -> None:
    server = serve(index, http=LOCAL, times=SOON)
    with connect(server) as connection:
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            send_slowly(connection)
        assert time.monotonic() - started < 60  # of 100


def test_silent_handshakes_have_a_time(index: Path, serve: Launch, tmp_path: Path) -> None:
    pem = Authority(tmp_path).sign("server")
    security = ServerSecurity(pem.certificate, pem.key)
    server = serve(index, http=LOCAL, security=security, times=PortTimes(handshake_s=0.5))
    with connect(server) as connection:
        assert ends(connection)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-a: "])
def test_too_many_connections_make_room(index: Path, serve: Launch, sent: bytes) -> None:
    server = serve(index, http=LOCAL, http_connections=30)
    url = f"http://{server.http_address}/healthz"
    with ExitStack() as stack:
        made = [stack.enter_context(connect(server)) for _ in range(80)]
        for connection in made:
            with suppress(ConnectionError):  # the server may have let it go already
                connection.sendall(sent)
        for _ in range(5):
            assert httpx.get(url, timeout=60).status_code == 200
        assert ends(made[0])  # the longest silent went first
        made[-1].settimeout(0.2)
        assert not ends(made[-1])


def test_idle_connections_are_not_what_the_queue_bounds(index: Path, serve: Launch) -> None:
    server = serve(index, http=LOCAL)
    with ExitStack() as stack:
        for _ in range(560):
            stack.enter_context(connect(server))
        assert httpx.get(f"http://{server.http_address}/healthz", timeout=60).status_code == 200


def test_who_does_not_read_is_let_go(index: Path, serve: Launch) -> None:
    server = serve(index, http=LOCAL, times=replace(SOON, progress_s=0.5))
    body = json.dumps(
        {"queries": np.tile(QUERIES, (9, 1)).astype(float).tolist(), "k": 5000, "nprobe": NLIST}
    ).encode()
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        wait(lambda: server.service.budget.held_bytes > 1 << 20)
        wait(lambda: server.service.budget.held_bytes == 0)
        assert ends(connection)


def wait(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_connections_follow_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((resource.RLIM_INFINITY, 4096), (1 << 20, 4096), (1024, 384), (300, 22)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert count_connections(4096) == most
