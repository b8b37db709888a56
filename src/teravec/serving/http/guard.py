"""The first checks of every HTTP request: the host name that it uses, and its token.

Bodies are not read here. A client that does not read its answer loses the connection.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from teravec.serving.http.search import ACCESS, CODE, ORIGIN
from teravec.serving.loop.asgi import ARRIVED
from teravec.serving.server.access import Access, is_on, log_access
from teravec.serving.server.origin import Origin
from teravec.serving.server.port_times import PortTimes
from teravec.serving.wire.context import CURRENT, RequestContext
from teravec.serving.wire.tokens import Token, Tokens

__all__ = ["HEADER_LINES", "HostNames", "HttpGuard"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_PIECE_BYTES = 1 << 18  # a client must read a piece of this size in some time
_CONTEXT_KEYS = {
    b"x-request-id": "request_id",
    b"traceparent": "traceparent",
    b"tracestate": "tracestate",
}
_PROBES = ("/healthz", "/readyz", "/metrics")  # their successes are not in the access log
_PATHS = (*_PROBES, "/search", "/get", "/info", "/statistics", "/openapi.json", "/")
_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
HEADER_LINES = b"".join(b"%b: %b\r\n" % each for each in _HEADERS)
"""The same, as they are sent with each answer."""


class HostNames:
    """Host names that requests may use: localhost, loopback addresses, and those given.

    A web page can point its own name at 127.0.0.1 and then read the answers of a server there (DNS
    rebinding). The browser still sends the page's name, which this check refuses.

    Parameters
    ----------
    names : tuple of str
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = {"localhost", *(name.lower().rstrip(".").strip("[]") for name in names)}

    def accept(self, host: str) -> bool:
        """Whether ``host``, with or without a port, is one of the names."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


class HttpGuard:
    """Wraps an ASGI application.

    Parameters
    ----------
    app : callable
    tokens : Tokens
        May be replaced while requests arrive.
    open_paths : tuple of str
        Paths that need no token.
    hosts : HostNames, optional
        Checked where callers need no token.
    progress_s : float
        Time in which a client must read a piece of an answer.
    responded : callable
        Learns the status of each response, and the code of its error or an empty text.
    """

    def __init__(
        self,
        app: App,
        tokens: Tokens,
        open_paths: tuple[str, ...],
        hosts: HostNames | None = None,
        progress_s: float = PortTimes.progress_s,
        responded: Callable[[int, str], None] = lambda status, code: None,
    ) -> None:
        self._app, self.tokens = app, tokens
        self._open_paths, self._hosts, self._progress_s = open_paths, hosts, progress_s
        self._responded = responded

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here

        tokens, status, code = self.tokens, 0, ""
        started_s = scope.get(ARRIVED) or time.monotonic()
        token = self._token(scope, tokens) if tokens else None
        context = _context(scope)
        CURRENT.set(context)  # for log lines of this request's task
        origin = Origin.of(_peer(scope), token, tokens, context)
        access = None
        if is_on():
            access = Access("http", _named(scope["path"]), context.request_id)
            access.trace_id = context.trace_id
        own = (b"x-request-id", context.request_id.encode())

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), own, *_HEADERS]
            await _send_in_pieces(send, message, self._progress_s)

        try:
            if await self._refused(scope, tokens, token, send_with_headers, context):
                code = "access-denied"
                return
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            passed = {**scope, "method": method, ORIGIN: origin, ACCESS: access}
            try:
                await self._app(passed, receive, send_with_headers)
            finally:
                code = passed.get(CODE, "")
        except (TimeoutError, ConnectionResetError):
            status = 0  # nobody reads: the connection closes, and the answer's memory is freed
        finally:
            if status:
                self._responded(status, code)
            if access is not None:
                _log(access, origin, status, time.monotonic() - started_s)

    def origin_of(self, lines: Sequence[tuple[bytes, bytes]], peer: str) -> Origin | None:
        """Return the origin of a request with these headers; None if it is to be refused."""
        scope, tokens = {"headers": lines}, self.tokens
        token = self._token(scope, tokens) if tokens else None
        if tokens:
            return None if token is None else Origin.of(peer, token, tokens)
        if self._hosts is not None:
            for name in (b"host", b"origin"):
                value = _header(scope, name)
                if value is not None and not self._hosts.accept(value.rpartition("://")[2]):
                    return None
        return Origin.of(peer, None, tokens)

    def answered(self, access: Access | None, origin: Origin, status: int, seconds: float) -> None:
        """Count and log a request that was answered past this guard."""
        if status:
            self._responded(status, "")
        if access is not None:
            _log(access, origin, status, seconds)

    async def _refused(
        self,
        scope: MutableMapping[str, Any],
        tokens: Tokens,
        token: Token | None,
        send: Send,
        context: RequestContext,
    ) -> bool:
        refuse = partial(_refuse, send, context.request_id)
        if tokens and token is None and scope["path"] not in self._open_paths:
            challenge = [(b"www-authenticate", b'Basic realm="teravec", charset="UTF-8"')]
            await refuse(401, "access-denied", "a valid token is needed", challenge)
            return True
        if self._hosts is None or tokens:
            return False
        if (host := _header(scope, b"host")) is not None and not self._hosts.accept(host):
            await refuse(
                421,
                "access-denied",
                f"called by the name {host[:80]!r}; this server has no tokens, and answers by the "
                "names localhost, 127.0.0.1 and [::1] only; teravec serve --allow-host NAME adds "
                "one",
            )
            return True
        origin = _header(scope, b"origin")
        if origin is not None and not self._hosts.accept(origin.rpartition("://")[2]):
            await refuse(
                403,
                "access-denied",
                f"asked by a page of {origin[:80]!r}; this server has no tokens, and answers pages "
                "of its own names only; teravec serve --allow-host NAME adds one",
            )
            return True
        return False

    @staticmethod
    def _token(scope: MutableMapping[str, Any], tokens: Tokens) -> Token | None:
        """Return the token that a request shows, if it is a valid one."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return None
        kind, _, secret = given[0].decode("latin-1").partition(" ")
        if kind.lower() == "basic":  # from a browser's dialog; the user name is ignored
            try:
                decoded = base64.b64decode(secret, validate=True).decode("utf-8")
            except (binascii.Error, ValueError):
                return None
            return tokens.find(decoded.partition(":")[2])
        return tokens.find(secret) if kind.lower() == "bearer" else None


def _peer(scope: MutableMapping[str, Any]) -> str:
    """Return the caller's address; it may be unknown when it has left already."""
    host, port = scope.get("client") or ("?", 0)
    return f"{host}:{port}"


def _context(scope: MutableMapping[str, Any]) -> RequestContext:
    """Read a request's id and trace from its headers; make an id if it has none."""
    given = {
        _CONTEXT_KEYS[name]: value.decode("latin-1")
        for name, value in scope["headers"]
        if name in _CONTEXT_KEYS
    }
    return RequestContext.read(given) or RequestContext.new()


def _named(path: str) -> str:
    """Return a path for the log, which holds no text of callers."""
    return path if path in _PATHS else "console" if path.startswith("/console/") else "other"


def _log(access: Access, origin: Origin, status: int, seconds: float) -> None:
    if status == 200 and access.method in _PROBES:
        return
    access.status, access.seconds = status or None, seconds
    access.outcome = "ok" if 200 <= status < 400 else "refused" if status else "abandoned"
    if status >= 500 and status != 503:
        access.outcome = "failed"
    log_access(access, origin)


def _header(scope: MutableMapping[str, Any], name: bytes) -> str | None:
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1").strip() if values else None


async def _send_in_pieces(send: Send, message: Message, progress_s: float) -> None:
    """Pass a message on, or raise TimeoutError where the client does not read."""
    body, more = message.get("body", b""), message.get("more_body", False)
    if message["type"] != "http.response.body" or len(body) <= _PIECE_BYTES:
        async with asyncio.timeout(progress_s):
            await send(message)
        return
    for start in range(0, len(body), _PIECE_BYTES):
        stop = start + _PIECE_BYTES
        piece = {**message, "body": body[start:stop], "more_body": more or stop < len(body)}
        async with asyncio.timeout(progress_s):
            await send(piece)


async def _refuse(
    send: Send,
    request_id: str,
    status: int,
    code: str,
    message: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    content = {"error": code, "message": message, "request_id": request_id}
    body = json.dumps(content).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*head, *headers]})
    await send({"type": "http.response.body", "body": body})
