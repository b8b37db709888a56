"""Frames over HTTP/1.1: what this package's own clients and coordinators speak.

``POST /frames/METHOD`` takes a frame, and answers with one: ``search``, ``search-lists`` and
``refine``, and the actions ``info``, ``statistics``, ``list-sizes`` and ``reload``. A connection
serves one request after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from teravec.errors import AccessDenied, ProtocolError
from teravec.serving.loop.http_call import Head, HttpCall, Refusal, Response
from teravec.serving.loop.http_connection import HttpConnection
from teravec.serving.loop.methods import Method
from teravec.serving.loop.statuses import status_of
from teravec.serving.server.access import Access, is_on, log_access
from teravec.serving.server.origin import Origin
from teravec.serving.server.service import SearchService
from teravec.serving.server.small import Asked, SmallSearch, SmallSearches
from teravec.serving.wire.protocol import METHODS, encode_error, error_code
from teravec.serving.wire.tokens import Token, Tokens

__all__ = ["FRAMES", "FramesApp"]

FRAMES = "/frames/"
_HEADERS = b"content-type: application/vnd.teravec.frame\r\n"
_LARGEST_ACTION = 64 << 10


class FramesCaller(NamedTuple):
    """Who asks on a connection, as its last request showed."""

    authorization: bytes | None
    tokens: Tokens
    token: Token | None
    origin: Origin

    @property
    def share(self) -> str:
        """Its name for fairness."""
        return self.origin.share


class FramesApp:
    """Answers frames for one service.

    Parameters
    ----------
    service : SearchService
    small : SmallSearches
    actions : mapping
        Functions from a body to an answer, by name.
    check_admin : callable
        Takes a token; raises AccessDenied unless it may reload.
    count : callable
        Counts and logs an error of a request that its service never had: takes the error, the
        method's name and the origin; returns the request's id.
    tokens : Tokens
        May be replaced while requests arrive.
    """

    def __init__(
        self,
        service: SearchService,
        small: SmallSearches,
        actions: Mapping[str, Callable[[memoryview], bytes]],
        check_admin: Callable[[Token | None], None],
        count: Callable[[Exception, str, Origin], str],
        tokens: Tokens,
    ) -> None:
        self._service, self._small, self._actions = service, small, actions
        self._check_admin, self._count, self.tokens = check_admin, count, tokens
        most = service.limits.request_bytes
        self._methods = {
            f"{FRAMES}{name}": Method(most, self._search, self._error, self._error)
            for name in METHODS
        }
        self._methods[f"{FRAMES}search"] = Method(
            most, self._search, self._error, self._error, self._gather, self._search_together
        )
        self._methods |= {
            f"{FRAMES}{name}": Method(_LARGEST_ACTION, self._act, self._error, self._error)
            for name in actions
        }

    # --- for connections

    def begin(self, head: Head, connection: HttpConnection) -> HttpCall:
        """Make a request's call; raises Refusal."""
        known, given = connection.known, head.headers.get(b"authorization")
        if known is None or known.authorization != given or known.tokens is not self.tokens:
            known = connection.known = self._caller(head, given, connection.peer)
        method = self._methods.get(head.path)
        if method is None or head.method != "POST":
            self._service.metrics.refused("flight", "not-found")
            raise Refusal(self._refusal(404, ProtocolError(_not_here(head))))
        return HttpCall(connection, head, method, known)

    def _caller(self, head: Head, given: bytes | None, peer: str) -> FramesCaller:
        tokens, token = self.tokens, None
        if tokens:
            if given is not None and len(head.lines) == len(head.headers):
                kind, _, secret = given.decode("latin-1").partition(" ")
                token = tokens.find(secret) if kind.lower() == "bearer" else None
            if token is None:
                self._service.metrics.refused("flight", "access-denied")
                if is_on():
                    log_access(Access("flight", "other", "", "access-denied"), Origin(peer))
                raise Refusal(self._refusal(401, AccessDenied("the server requires a valid token")))
        return FramesCaller(given, tokens, token, Origin.of(peer, token, tokens))

    def refuse_malformed(self, why: str) -> Response:
        """Make the response to what is no HTTP."""
        return self._refusal(400, ProtocolError(f"no HTTP/1.1: {why}"))

    def ended(self, call: HttpCall, status: int) -> None:
        """Do nothing: requests are counted where they are answered."""

    # --- methods

    def _search(self, call: HttpCall, message: memoryview | None) -> Response:
        name = call.head.path[len(FRAMES) :]
        body = memoryview(b"") if message is None else message
        parts = self._service.answer_frame(name, body, call.share, call.caller.origin)  # type: ignore[attr-defined]
        return Response(200, _HEADERS, tuple(parts))

    def _gather(self, call: HttpCall, message: memoryview) -> tuple[Hashable, Any] | None:
        """Read a small search; None if the message must go the usual way."""
        if self._service.draining:
            return None
        search = self._small.read(message)
        return None if search is None else ((search.key, call.caller.share), search)

    def _search_together(self, gathered: Sequence[tuple[HttpCall, SmallSearch]]) -> list[Response]:
        asked = [
            Asked(search, call.share, call.caller.origin)  # type: ignore[attr-defined]
            for call, search in gathered
        ]
        return [Response(200, _HEADERS, (frame,)) for frame in self._small.answer(asked)]

    def _act(self, call: HttpCall, message: memoryview | None) -> Response:
        started, name = time.perf_counter(), call.head.path[len(FRAMES) :]
        caller: FramesCaller = call.caller  # type: ignore[assignment]
        if name == "reload":
            self._check_admin(caller.token)
        answer = self._actions[name](memoryview(b"") if message is None else message)
        if is_on() and name != "statistics":  # which coordinators ask for twice a second
            seconds = time.perf_counter() - started
            log_access(Access("flight", name, "", "ok", seconds), caller.origin)
        return Response(200, _HEADERS, (answer,))

    def _error(self, error: Exception, call: HttpCall) -> Response:
        """Make the response for a request that failed before its service had it."""
        name = call.head.path[len(FRAMES) :]
        request_id = self._count(error, name, call.caller.origin)  # type: ignore[attr-defined]
        return self._refusal(status_of(error_code(error)), error, request_id)

    @staticmethod
    def _refusal(status: int, error: Exception, request_id: str = "") -> Response:
        return Response(status, _HEADERS, (encode_error(error, request_id),))


def _not_here(head: Head) -> str:
    return (
        f"{head.method} {head.path[:80]} found; this port takes POST {FRAMES}search and the like, "
        "from teravec's own clients; JSON and the console are on the HTTP port (--http)"
    )
