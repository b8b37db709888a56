"""One HTTP/1.1 connection, with bounds on everything that a peer can send.

| what a peer may do | bound |
| --- | --- |
| send no head, or half of one | ``greeting_s`` |
| size of a head | 16 KiB |
| requests behind one that is not answered yet | 16; they are not begun before it is |
| time for a body | 30 s, and 1 s for each 128 KiB |
| be silent between requests | ``keep_alive_s`` |
| read slowly | 256 KiB in ``progress_s``; nothing is read from it meanwhile |
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

import httptools

from teravec.serving.loop.http_call import Head, Refusal, Response
from teravec.serving.loop.methods import Bounds
from teravec.serving.server.budget import Budget

__all__ = ["HttpApp", "HttpConnection", "HttpHost"]

log = logging.getLogger(__name__)

_MOST_HEAD_BYTES = 16 << 10
_MOST_WAITING = 16  # requests of a connection
_UNSENT_BYTES = 16 << 10  # in a connection's buffer before its peer counts as slow
_JOINED_BYTES = 64 << 10  # an answer up to this size is written in one piece
_ENOUGH_BYTES = 256 << 10  # that a peer must read within ``progress_s``
_KNOWN_HEADS = 3  # bytes that tell which protocol a peer speaks
_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpHost(Protocol):
    """The server's interface for its connections."""

    bounds: Bounds
    budget: Budget
    date: bytes  # the header line
    refused: Callable[[str], None]

    def admit(self, connection: Any) -> bool:
        """Accept a connection; False if there are too many."""

    def forget(self, connection: Any) -> None:
        """Remove a closed connection."""

    def start(self, call: Any, message: memoryview | None) -> bool:
        """Start a worker on a message; False if all are busy."""

    def gather(self, call: Any, key: Hashable, read: Any) -> bool:
        """Gather what was read of a call's message with others; False if it cannot be."""

    def run(self, coroutine: Any) -> None:
        """Run a coroutine on the loop."""

    def make_piece(self, pieces: Iterator[bytes], then: Callable[[bytes | None], None]) -> None:
        """Make the next piece of an answer on a thread; ``then`` takes it on the loop, or None."""


class Exchange(Protocol):
    """A request and its answer: an ``HttpCall`` or an ``AsgiCall``."""

    head: Head
    notes: dict[str, Any]
    is_complete: bool  # all of the body is here
    is_refused: bool  # it is answered before its body is complete
    is_old: bool  # HTTP/1.0
    keep_alive: bool

    def expect(self, size: int | None) -> None:
        """Learn the body's size before it is read; raises Refusal."""

    def received(self, data: bytes) -> None:
        """Take bytes of the body; raises Refusal."""

    def begin(self) -> None:
        """Begin, as the requests before it are answered."""

    def completed(self) -> None:
        """Go on, as the body is complete."""

    def check(self, now: float) -> None:
        """Raise Refusal if the body is late."""

    def release(self) -> None:
        """Give reserved bytes back."""

    def abandoned(self) -> None:
        """Release everything: the peer has left."""


class HttpApp(Protocol):
    """What a port answers."""

    def begin(self, head: Head, connection: HttpConnection) -> Exchange:
        """Make the exchange of a request, before its body is read; raises Refusal."""

    def refuse_malformed(self, why: str) -> Response:
        """Make the response to what is no HTTP."""

    def ended(self, call: Any, status: int) -> None:
        """Learn a call's status; 0 if it was left without an answer."""


class HttpConnection:
    """The requests of one peer, in turn. Everything here runs on the server's loop.

    Parameters
    ----------
    server : HttpHost
    app : HttpApp
    other : callable, optional
        Makes the protocol for a peer that speaks HTTP/2 right away.
    """

    def __init__(
        self, server: HttpHost, app: HttpApp, other: Callable[[], Any] | None = None
    ) -> None:
        self.server, self.budget, self._app, self._other = server, server.budget, app, other
        self.calls: deque[Exchange] = deque()  # the first one is answered, the last one read
        self.known: Any = None  # for the app: who the caller is, as it found last
        self.peer = "?"
        self.active_s = time.monotonic()
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._first = b""
        self._head_s: float | None = self.active_s  # since when a head is awaited or incomplete
        self._head_bytes = 0
        self._url, self._lines = b"", []  # type: bytes, list[tuple[bytes, bytes]]
        self._reading: Exchange | None = None
        self._sending: Exchange | None = None
        self._pieces: Iterator[bytes] | None = None
        self._sent_s = 0.0
        self._written = self._moved = 0  # bytes of the present answer: written, and taken before
        self._paused = self._draining = self._broken = False
        self._closing_s: float | None = None
        self._holds: set[str] = set()
        self._drained: asyncio.Future[None] | None = None

    # --- the loop's side

    def connection_made(self, transport: Any) -> None:
        """Admit the peer."""
        self._transport = transport
        transport.set_write_buffer_limits(_UNSENT_BYTES, 0)
        found = transport.get_extra_info("peername")
        self.peer = f"{found[0]}:{found[1]}" if isinstance(found, tuple) else "?"
        if not self.server.admit(self):
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget all requests."""
        self.server.forget(self)
        for call in self.calls:
            call.abandoned()
            self._app.ended(call, 0)
        self.calls.clear()
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(ConnectionResetError("the client has gone"))
        self._reading = self._sending = self._pieces = None

    def eof_received(self) -> bool:
        """Let the answer to what was asked go out."""
        self._draining = True
        if self._reading is not None or self._transport.get_extra_info("sslcontext") is not None:
            return False
        return bool(self.calls)

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests."""
        if self._closing_s is not None or self._broken:
            return
        if self._other is not None:
            data = self._first + data
            if len(data) < _KNOWN_HEADS:
                self._first = data
                return
            other, self._other, self._first = self._other, None, b""
            if data.startswith(b"PRI"):
                self._hand_over(other(), data)
                return
        if self._reading is None:
            self._head_bytes += len(data)
        while data:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:  # offered; we go on as before
                self._parser = httptools.HttpRequestParser(self)
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse_malformed(str(error))
                return
        if self._head_bytes > _MOST_HEAD_BYTES:
            self._refuse_malformed("a head that is too long")

    def pause_writing(self) -> None:
        """Stop reading from a peer that does not read its answers."""
        self._paused = True
        self.hold_reading("writing")

    def resume_writing(self) -> None:
        """Go on, as all was sent."""
        self._paused = False
        self.go_on_reading("writing")
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None
        elif self._pieces is not None:
            self._next_piece()
        elif self._sending is not None:
            self._finish(self._sending)

    def hold_reading(self, why: str) -> None:
        """Read nothing until ``go_on_reading`` for all reasons."""
        if not self._holds:
            self._transport.pause_reading()
        self._holds.add(why)

    def go_on_reading(self, why: str) -> None:
        """Read again, unless there is another reason not to."""
        if why in self._holds:
            self._holds.discard(why)
            if not self._holds and not self._transport.is_closing():
                self._transport.resume_reading()

    # --- the parser's side

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._url, self._lines = b"", []
        self._head_s = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._lines.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Begin a request, or refuse it."""
        method = self._parser.get_method().decode("latin-1")
        head = Head(method, self._url, dict(self._lines), self._lines)
        if self._head_s is not None:
            self.active_s = self._head_s
        self._head_s, self._head_bytes = None, 0
        call: Exchange
        try:
            call = self._app.begin(head, self)
        except Refusal as refusal:
            call = _Refused(head)
            self._admit(call)
            self._refuse(call, refusal.response)
            return
        self._admit(call)
        try:
            size = head.headers.get(b"content-length")
            call.expect(None if size is None else int(size[:20]))
        except Refusal as refusal:
            self._refuse(call, refusal.response)
            return
        if head.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(_CONTINUE)
        if call is self.calls[0]:
            call.begin()

    def on_body(self, data: bytes) -> None:
        """Take bytes of a body."""
        call = self._reading
        if call is None or call.is_refused:
            return
        try:
            call.received(data)
        except Refusal as refusal:
            self._refuse(call, refusal.response)

    def on_message_complete(self) -> None:
        """Have the request answered when its turn comes."""
        call, self._reading = self._reading, None
        if call is None:
            return
        call.is_complete = True
        self._head_s = None
        if not call.is_refused:
            if call is self.calls[0]:
                call.completed()
        elif self._draining and not self.calls:
            self.close()

    # --- requests in turn

    def _admit(self, call: Exchange) -> None:
        call.keep_alive = self._parser.should_keep_alive()
        call.is_old = self._parser.get_http_version() == "1.0"
        self.calls.append(call)
        self._reading = call
        if len(self.calls) > _MOST_WAITING:
            self._broken = True
            self.abort()

    def give(self, call: Any, message: memoryview) -> bool:
        """Have a message answered by a worker; False if all are busy."""
        return self.server.start(call, message)

    def replace(self, call: Exchange, other: Exchange) -> None:
        """Have the first request answered by another exchange, with all of its body."""
        other.keep_alive, other.is_old = call.keep_alive, call.is_old
        other.is_complete = call.is_complete
        self.calls[0] = other
        other.begin()

    def _refuse(self, call: Exchange, response: Response) -> None:
        """Answer before the body is complete; its rest is discarded."""
        if call.is_refused:
            return
        call.is_refused = True
        call.release()
        call.notes["response"] = response
        if call is self.calls[0]:
            self.respond(call, response)

    def respond(self, call: Exchange, response: Response) -> None:
        """Send the answer to the first call."""
        parts: tuple[bytes | memoryview, ...] = response.parts
        size = sum(map(len, parts))
        ends = response.last or self._draining or not call.keep_alive
        head = _LINES.get(response.status, _LINES[500]) + self.server.date + response.headers
        if response.pieces is None:
            head += b"content-length: %d\r\n" % size
        elif call.is_old:
            ends = True  # it has no chunks: the end of the connection ends the answer
        else:
            head += b"transfer-encoding: chunked\r\n"
        head += b"connection: close\r\n\r\n" if ends else b"\r\n"
        self._draining = ends
        call.notes["status"] = response.status
        if call.head.method == "HEAD":
            parts, response = (), response._replace(pieces=None)
        self._sending, self._written, self._moved = call, size, 0
        self._sent_s = time.monotonic()
        if response.pieces is not None:
            self._transport.write(head)
            self._pieces = response.pieces
            if not self._paused:
                self._next_piece()
            return
        if size <= _JOINED_BYTES:
            self._transport.write(b"".join((head, *parts)))
        else:
            self._transport.write(head)
            for part in parts:
                self._transport.write(part)
        if not self._paused:
            self._finish(call)

    def begin_answer(self, call: Exchange, head: bytes) -> None:
        """Write the head of an answer that its exchange writes by itself."""
        self._sending, self._written, self._moved = call, 0, 0
        self._sent_s = time.monotonic()
        self._transport.write(head)

    async def write(self, data: bytes) -> None:
        """Write bytes of such an answer; return when the peer has read most of what was written."""
        self._written += len(data)
        if data:
            self._transport.write(data)
        if self._paused:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def end_answer(self, call: Exchange, *, last: bool) -> None:
        """Go on after such an answer was written."""
        self._draining = self._draining or last
        self._finish(call)

    @property
    def is_draining(self) -> bool:
        """Whether this is the last answer."""
        return self._draining

    @property
    def transport(self) -> Any:
        """The transport, for what it knows of the peer."""
        return self._transport

    def _next_piece(self) -> None:
        assert self._pieces is not None
        self.server.make_piece(self._pieces, partial(self._send_piece, self._pieces))

    def _send_piece(self, pieces: Iterator[bytes], piece: bytes | None) -> None:
        if self._pieces is not pieces or self._sending is None:  # the peer has left
            return
        if piece is None:  # it could not be made: an answer that is cut is no answer
            self.abort()
            return
        self._written += len(piece)
        if not self._sending.is_old:
            piece_or_end = b"%x\r\n%b\r\n" % (len(piece), piece)
            self._transport.write(piece_or_end)
        elif piece:
            self._transport.write(piece)
        if not piece:
            self._pieces = None
        if self._paused:
            return
        if piece:
            self._next_piece()
        else:
            self._finish(self._sending)

    def _finish(self, call: Exchange) -> None:
        """Go on after an answer was sent."""
        self._sending = None
        call.release()
        self.active_s = time.monotonic()
        self._app.ended(call, call.notes["status"])
        if not call.is_complete:
            # The rest of its body is discarded, for at most a head's time.
            self._head_s = self.active_s
            call.is_refused = True
        self.calls.popleft()
        if self._draining and call.is_complete:
            self.close()
            return
        if self.calls:
            following = self.calls[0]
            if following.is_refused:
                self.respond(following, following.notes["response"])
                return
            following.begin()
            if following.is_complete:
                following.completed()

    def _refuse_malformed(self, why: str) -> None:
        log.info("%s sent no valid HTTP: %s", self.peer, why)
        self.server.refused("protocol")
        self._broken = True
        if not self.calls or (len(self.calls) == 1 and self._reading is not None):
            call = self.calls[0] if self.calls else None
            if call is None or not call.is_refused:
                response = self._app.refuse_malformed(why)
                head = _LINES[response.status] + response.headers
                body = b"".join(response.parts)
                lines = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
                self._transport.write(head + lines + body)
        self.close()

    def _hand_over(self, other: Any, data: bytes) -> None:
        """Let another protocol have the connection."""
        self.server.forget(self)
        self._transport.set_protocol(other)
        other.connection_made(self._transport)
        other.data_received(data)

    # --- ends

    def drain(self) -> None:
        """Accept no new requests, and close when those under way have ended."""
        self._draining = True
        if not self.calls:
            self.close()

    def close(self) -> None:
        """Close after what was written."""
        if self._closing_s is None and self._transport is not None:
            self._closing_s = time.monotonic()
            self._transport.close()

    def abort(self) -> None:
        """Close at once; the system drops unsent bytes too."""
        if self._transport is None:
            return
        end = self._transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):  # it is closed already
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def flush(self) -> None:
        """Do nothing: answers are written at once."""

    def check(self, now: float) -> None:
        """Disconnect a peer that makes no progress; runs once a second."""
        times = self.server.bounds.times
        if self._closing_s is not None:
            if now - self._closing_s > times.ending_s:
                self.abort()
        elif self._sending is not None:
            self._check_progress(now, times.progress_s)
        elif self._head_s is not None and now - self._head_s > times.greeting_s:
            self.close()
        elif self.calls:
            call = self.calls[-1]
            try:
                call.check(now)
            except Refusal as refusal:
                self._refuse(call, refusal.response)
        elif self._head_s is None and now - self.active_s > times.keep_alive_s:
            self.close()

    def _check_progress(self, now: float, progress_s: float) -> None:
        if now - self._sent_s > progress_s:
            taken = self._written - self._transport.get_write_buffer_size()
            if taken - self._moved < _ENOUGH_BYTES and self._paused:
                log.warning("%s does not read its answer: disconnected", self.peer)
                self.abort()
            self._sent_s, self._moved = now, taken


class _Refused:
    """A request that was refused by its head."""

    is_complete = is_refused = is_old = False
    keep_alive = True

    def __init__(self, head: Head) -> None:
        self.head = head
        self.notes: dict[str, Any] = {}

    def expect(self, size: int | None) -> None:
        """Do nothing, as all others."""

    def received(self, data: bytes) -> None: ...

    def begin(self) -> None: ...

    def completed(self) -> None: ...

    def check(self, now: float) -> None: ...

    def release(self) -> None: ...

    def abandoned(self) -> None: ...
