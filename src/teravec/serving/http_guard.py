"""What every HTTP request passes first: a token, a bounded body, a bounded time to send it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from teravec.errors import LimitExceeded
from teravec.serving.limits import Limits
from teravec.serving.security import Tokens

__all__ = ["HttpGuard"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_BODY_S = 30.0
_PIECE_BYTES, _PIECE_S = 1 << 18, 30.0  # of an answer that a client takes, at least that fast
_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class HttpGuard:
    """Wraps an ASGI application.

    Parameters
    ----------
    app : callable
    tokens : Tokens
        May be replaced while requests come.
    limits : Limits
    open_paths : tuple of str
        Paths that need no token.
    """

    def __init__(self, app: App, tokens: Tokens, limits: Limits, open_paths: tuple[str, ...]):
        self._app, self.tokens = app, tokens
        self._limits, self._open_paths = limits, open_paths

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:  # fmt: skip
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here
        if self.tokens and scope["path"] not in self._open_paths and not self._may(scope):
            challenge = [(b"www-authenticate", b'Basic realm="teravec", charset="UTF-8"')]
            await _refuse(send, 401, "access-denied", "a valid token is needed", challenge)
            return
        try:
            body = await self._body(scope, receive)
        except LimitExceeded as error:
            await _refuse(send, 413, "limit-exceeded", str(error))
            return
        except TimeoutError:
            await _refuse(send, 408, "deadline-exceeded", f"no body within {_BODY_S:.0f} s")
            return
        if body is None:
            return  # the client has gone
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await _send_in_pieces(send, message)

        try:
            await self._app(scope, replay, send_with_headers)
        except TimeoutError:
            return  # the connection is closed, and the answer's memory free

    def _may(self, scope: MutableMapping[str, Any]) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        kind, _, secret = given[0].decode("latin-1").partition(" ")
        if kind.lower() == "basic":  # what browsers ask their user for; the name is ours to ignore
            try:
                decoded = base64.b64decode(secret, validate=True).decode("utf-8")
            except (binascii.Error, ValueError):
                return False
            return self.tokens.accept(decoded.partition(":")[2])
        return kind.lower() == "bearer" and self.tokens.accept(secret)

    async def _body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes | None:
        most = self._limits.json_bytes
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                _check(int(value[:20]), most)
        body = bytearray()
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                _check(len(body), most)
                if not message.get("more_body"):
                    return bytes(body)


async def _send_in_pieces(send: Send, message: Message) -> None:
    """Pass a message on, or raise TimeoutError where the client does not read."""
    body, more = message.get("body", b""), message.get("more_body", False)
    if message["type"] != "http.response.body" or len(body) <= _PIECE_BYTES:
        await asyncio.wait_for(send(message), _PIECE_S)
        return
    for start in range(0, len(body), _PIECE_BYTES):
        stop = start + _PIECE_BYTES
        piece = {**message, "body": body[start:stop], "more_body": more or stop < len(body)}
        await asyncio.wait_for(send(piece), _PIECE_S)


def _check(size: int, most: int) -> None:
    if size > most:
        raise LimitExceeded(f"request bytes: {size:,} found, this server takes at most {most:,}")


async def _refuse(
    send: Send, status: int, code: str, message: str, headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:  # fmt: skip
    body = json.dumps({"error": code, "message": message}).encode()
    head = [(b"content-type", b"application/json"), (b"connection", b"close")]
    head += [(b"content-length", str(len(body)).encode()), *headers, *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
