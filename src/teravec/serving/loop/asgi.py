"""Requests that an ASGI application answers, while their bodies come and their answers go.

References
----------
ASGI, HTTP and WebSocket message format, 2.3.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from teravec.serving.loop.http_call import Head
from teravec.serving.loop.http_connection import HttpConnection

__all__ = ["ARRIVED", "AsgiApp", "AsgiCall"]

log = logging.getLogger(__name__)

ARRIVED = "teravec.arrived"
"""In a request's scope: when its head arrived, by the monotonic clock."""

_UNREAD_BYTES = 64 << 10  # of a body before the peer has to wait
_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_READING = "reading"

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[Message]],
        Callable[[Message], Awaitable[None]],
    ],
    Awaitable[None],
]


class AsgiCall:
    """A request.

    Parameters
    ----------
    connection : HttpConnection
    head : Head
    app : callable
        The application.
    body : bytes, optional
        The whole body, if it was read already.
    """

    def __init__(
        self, connection: HttpConnection, head: Head, app: AsgiApp, body: bytes = b""
    ) -> None:
        self.head, self._connection, self._app = head, connection, app
        self.arrived_s = time.monotonic()
        self.notes: dict[str, Any] = {}
        self.is_complete = self.is_refused = self.is_old = False
        self.keep_alive = True
        self._body = bytearray(body)
        self._more: asyncio.Event = asyncio.Event()
        self._has_left = False
        self._start: Message | None = None
        self._chunked = self._is_answered = False

    # --- for the connection

    def expect(self, size: int | None) -> None:
        """Do nothing: the application bounds its bodies."""

    def received(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self._is_answered:
            return
        self._body += data
        if len(self._body) > _UNREAD_BYTES:
            self._connection.hold_reading(_READING)
        self._more.set()

    def begin(self) -> None:
        """Run the application."""
        self._connection.server.run(self._run())

    def completed(self) -> None:
        """Tell the application that its body has ended."""
        self._more.set()

    def check(self, now: float) -> None:
        """Do nothing: the application has time limits of its own."""

    def release(self) -> None:
        """Do nothing: the application counts its bytes."""

    def abandoned(self) -> None:
        """Tell the application that the peer has left."""
        self._has_left = True
        self._body.clear()
        self._more.set()

    # --- for the application

    async def _run(self) -> None:
        try:
            await self._app(self._scope(), self._receive, self._send)
        except Exception:
            log.exception("a request over HTTP failed")
        finally:
            if not self._is_answered:  # the client left, or does not read
                self._has_left = True
                self._connection.abort()

    def _scope(self) -> Message:
        path, _, query = self.head.target.partition(b"?")
        extra = self._connection.transport.get_extra_info
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if self.is_old else "1.1",
            "scheme": "http" if extra("sslcontext") is None else "https",
            "method": self.head.method,
            "root_path": "",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "headers": self.head.lines,
            "client": _pair(extra("peername")),
            "server": _pair(extra("sockname")),
            ARRIVED: self.arrived_s,
        }

    async def _receive(self) -> Message:
        while not (self._body or self.is_complete or self._has_left):
            self._more.clear()
            await self._more.wait()
        if self._has_left or self._is_answered:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        self._connection.go_on_reading(_READING)
        return {"type": "http.request", "body": body, "more_body": not self.is_complete}

    async def _send(self, message: Message) -> None:
        if self._has_left:
            raise ConnectionResetError("the client has gone")
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        head = b""
        if self._start is not None:
            head = self._begin(self._start, more)
            self._start = None
        if self.head.method == "HEAD":
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += b"" if more else b"0\r\n\r\n"
        if head:
            # In one piece: of two, the second would wait for the first one's acknowledgement.
            small = len(body) <= _UNREAD_BYTES
            self._connection.begin_answer(self, head + body if small else head)
            body = b"" if small else body
        await self._connection.write(body)
        if not more:
            self._is_answered = True
            self._body.clear()
            self._connection.go_on_reading(_READING)
            self._connection.end_answer(self, last=not self.keep_alive)

    def _begin(self, start: Message, more: bool) -> bytes:
        self.notes["status"] = start["status"]
        lines = [_LINES.get(start["status"], _LINES[500]), self._connection.server.date]
        lines += [b"%b: %b\r\n" % (name, value) for name, value in start.get("headers", ())]
        sized = any(name.lower() == b"content-length" for name, _ in start.get("headers", ()))
        if not sized:
            if self.is_old:
                self.keep_alive = False  # the end of the connection ends the answer
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if self._connection.is_draining:
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        return b"".join((*lines, b"\r\n"))


def _pair(address: Any) -> tuple[str, int] | None:
    return tuple(address[:2]) if isinstance(address, tuple) else None
