"""A proxy between a client and the stand-in that delays, refuses, cuts and alters on request."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

Fault = str
"""What befalls a request: a status such as "503", or "reset", "stall", "cut", "wrong range",
"whole", "lost" (carried out, but not answered), "stale" (the first listing once more), "flip" (a
bit of the body on its way to the store)."""

Choose = Callable[[str, str, int], Fault | None]
"""Given the method, the path with its query, and the number of the request, returns a fault."""


_CODES = {"403": "AccessDenied", "409": "ConditionalRequestConflict", "500": "InternalError"}


class Span(NamedTuple):
    """A request: when it began and ended, and what it was."""

    began: float
    ended: float
    method: str
    path: str
    range: str


def count_waves(spans: list[Span]) -> int:
    """Count the waves of requests: those of a wave began before any of it ended."""
    waves, first_end = 0, 0.0
    for span in sorted(spans):
        if not waves or span.began > first_end:
            waves, first_end = waves + 1, span.ended
        first_end = min(first_end, span.ended)
    return waves


def count_bytes(spans: list[Span]) -> int:
    """Count the bytes that requests of ranges asked for."""
    bounds = [span.range.removeprefix("bytes=").split("-") for span in spans if span.range]
    return sum(int(stop) - int(start) + 1 for start, stop in bounds)


@dataclass
class FaultProxy:
    """What the proxy does; tests may change it at any time.

    Parameters
    ----------
    endpoint : str
        Of the stand-in.
    url : str
        Of the proxy.
    latency_s : float
    choose : callable, optional
    requests : Counter
        Requests so far, by method.
    spans : list of Span
        When requests began and ended.
    seen : callable, optional
        Called with method, path and headers of each request.
    alter : callable, optional
        Changes the body of each answer.
    stall_s : float
    """

    endpoint: str
    url: str = ""
    latency_s: float = 0.0
    choose: Choose | None = None
    requests: Counter[str] = field(default_factory=Counter)
    seen: Callable[[str, str, dict[str, str]], None] | None = None
    alter: Callable[[bytes], bytes] | None = None
    stall_s: float = 30.0
    spans: list[Span] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    listings: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)

    def begin(self, method: str, path: str) -> Fault | None:
        with self.lock:
            number = self.requests.total()
            self.requests[method] += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.latency_s:
            time.sleep(self.latency_s)
        return self.choose(method, path, number) if self.choose else None

    def end(self) -> None:
        with self.lock:
            self.in_flight -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    proxy: FaultProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _forward(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if proxy.seen is not None:
            proxy.seen(self.command, self.path, dict(self.headers.items()))
        began = time.monotonic()
        fault = proxy.begin(self.command, self.path)
        try:
            self._answer(proxy, fault, body)
        finally:
            proxy.end()
            sent = self.headers.get("range", "")
            proxy.spans.append(Span(began, time.monotonic(), self.command, self.path, sent))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815

    def _answer(self, proxy: FaultProxy, fault: Fault | None, body: bytes) -> None:
        if fault == "reset":
            self._reset()
            return
        if fault == "stall":
            proxy.stopping.wait(proxy.stall_s)
            self._reset()
            return
        if fault is not None and fault.isdigit():
            code = _CODES.get(fault, "SlowDown")
            self._send(int(fault), {}, b"<Error><Code>%s</Code></Error>" % code.encode())
            return
        if fault == "flip":
            body = body[:-1] + bytes([body[-1] ^ 1])
        status, headers, answer = self._ask(proxy.endpoint, body)
        answer = answer if proxy.alter is None else proxy.alter(answer)
        if "list-type=2" in self.path:
            before = proxy.listings.setdefault(self.path, answer)
            answer = before if fault == "stale" else answer
        if fault == "lost":
            self._reset()
        elif fault == "cut":
            self._send(status, headers, answer, sent=len(answer) // 2)
        elif fault == "wrong range" and status == 206:
            start = headers["Content-Range"].split("-")[0].split()[1]
            moved = headers["Content-Range"].replace(f" {start}-", f" {int(start) + 1}-", 1)
            self._send(status, {**headers, "Content-Range": moved}, answer)
        elif fault == "whole" and status == 206:
            self._send(200, headers, answer)
        else:
            self._send(status, headers, answer)

    def _ask(self, endpoint: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        target = urlsplit(endpoint)
        connection = HTTPConnection(target.hostname or "", target.port, timeout=60)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, sent: int | None = None
    ) -> None:
        left_out = ("content-length", "transfer-encoding", "connection", "server", "date")
        length = headers.get("Content-Length", str(len(body)))
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in left_out:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        if sent is not None:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        """End the connection at once, so that the client sees it broken."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@contextmanager
def fault_proxy(endpoint: str) -> Iterator[FaultProxy]:
    """Run a proxy in front of the stand-in."""
    server = _Server(("127.0.0.1", 0), _Handler)
    proxy = FaultProxy(endpoint, f"http://127.0.0.1:{server.server_port}")
    server.proxy = proxy
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


def first(count: int, fault: Fault, method: str = "", part: str = "") -> Choose:
    """A fault for the first ``count`` requests of a method whose path has a part."""
    left = [count]
    lock = threading.Lock()

    def choose(found: str, path: str, number: int) -> Fault | None:
        if method not in ("", found) or part not in path:
            return None
        with lock:
            left[0] -= 1
            return fault if left[0] >= 0 else None

    return choose
