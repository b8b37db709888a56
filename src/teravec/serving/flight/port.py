"""The Flight port: frames in, frames out.

``DoExchange`` with the command ``search``, ``search-lists`` or ``refine`` answers each frame with
one frame, as long as its caller keeps the call open. ``DoAction`` offers ``info``, ``statistics``,
``list-sizes`` and ``reload``.

The port implements as much of Arrow Flight's protocol as this needs, on our own gRPC server.
pyarrow's server has no bound on messages, and decompresses them before it checks the token.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from teravec.errors import AccessDenied, Busy, InvalidArgument, ProtocolError
from teravec.serving.flight.call import Call, CallRefused, Reply, Status
from teravec.serving.flight.connection import Connection, Headers
from teravec.serving.flight.frames_app import FramesApp
from teravec.serving.flight.messages import (
    Action,
    FlightData,
    action_types,
    flight_data,
    frame_alone,
    result,
)
from teravec.serving.loop.http_connection import HttpConnection
from teravec.serving.loop.methods import Bounds, Method
from teravec.serving.loop.server import PortServer
from teravec.serving.server.access import Access, is_on, log_access
from teravec.serving.server.gauges import PortLoad
from teravec.serving.server.origin import Origin
from teravec.serving.server.port_times import PortTimes
from teravec.serving.server.service import SearchService
from teravec.serving.server.small import Asked, SmallSearch, SmallSearches
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.frames import decode, encode
from teravec.serving.wire.protocol import METHODS, encode_error, error_code, error_text
from teravec.serving.wire.security import Address, ServerSecurity
from teravec.serving.wire.tokens import Token, Tokens

__all__ = ["FlightPort"]

log = logging.getLogger(__name__)

_LARGEST_ACTION = 64 << 10
_CONTEXT_KEYS = {
    b"x-request-id": "request_id",
    b"traceparent": "traceparent",
    b"tracestate": "tracestate",
}
_SERVICE = b"/arrow.flight.protocol.FlightService/"


@dataclass(frozen=True)
class _Caller:
    """Who opened a call, and the tokens that knew it then."""

    origin: Origin
    tokens: Tokens
    token: Token | None

    @property
    def share(self) -> str:
        return self.origin.share

    @property
    def secret(self) -> str:
        """What it showed; of no interest where no token was needed."""
        return "" if self.token is None else self.token.secret


class FlightPort:
    """Serves one service on one address, from its creation until ``close``.

    Parameters
    ----------
    service : SearchService
    address : Address
    security : ServerSecurity
    bounds : Bounds or PortTimes, optional
        Times only: the other bounds are derived from the service's queue.
    reload : callable, optional
        Replaces the service's own reload for the action ``reload``; returns the index's version.

    Raises
    ------
    InvalidArgument
        The address is in use or not this machine's, or a certificate is invalid.
    """

    def __init__(
        self,
        service: SearchService,
        address: Address,
        security: ServerSecurity,
        bounds: Bounds | PortTimes | None = None,
        *,
        reload: Callable[[], str] | None = None,
    ) -> None:
        self._service, self._tokens = service, security.tokens()
        self._knows_callers, self._reload = security.knows_callers, reload or service.reload
        limits = service.limits
        self._methods = {
            _SERVICE + name: Method(most_bytes, answer, refuse, self._status)
            for name, most_bytes, answer, refuse in (
                (b"DoExchange", limits.request_bytes, self._exchange, self._exchange_error),
                (b"DoAction", _LARGEST_ACTION, self._action, self._action_error),
                (b"ListActions", 0, self._list_actions, self._action_error),
            )
        }
        exchange = _SERVICE + b"DoExchange"
        self._methods[exchange] = replace(
            self._methods[exchange], gather=self._gather, answer_together=self._exchange_together
        )
        self._small = SmallSearches(service)
        self._actions: dict[str, Callable[[memoryview], bytes]] = {
            "info": self._info,
            "statistics": self._statistics,
            "list-sizes": self._list_sizes,
            "reload": lambda _: _json({"version": self._reload()}),
        }
        if not isinstance(bounds, Bounds):
            bounds = Bounds(
                workers=limits.queue + 16, calls=4 * limits.queue + 64, times=bounds or PortTimes()
            )
        self._frames = FramesApp(
            service, self._small, self._actions, self._check_admin, self._count, self._tokens
        )
        self._context = security.server_context("h2", "http/1.1")
        self._server = PortServer(
            address,
            lambda server: HttpConnection(
                server, self._frames, lambda: Connection(server, self._accept)
            ),
            service.budget,
            bounds,
            self._context,
            self._refused,
        )
        self.address = self._server.address

    @property
    def open_calls(self) -> int:
        """Calls that are open, on all connections."""
        return self._server.calls

    @property
    def load(self) -> PortLoad:
        """The port's load now."""
        return self._server.load

    def use_tokens(self, tokens: Tokens) -> None:
        """Require these tokens from now on."""
        self._tokens = self._frames.tokens = tokens

    def use_certificates(self, security: ServerSecurity) -> None:
        """Show new connections the certificate as its file is now."""
        if self._context is not None:
            security.use_certificates(self._context)

    def ping(self, done: Callable[[], None]) -> None:
        """Call ``done`` on the port's event loop as soon as it runs."""
        self._server.ping(done)

    def close(self, timeout_s: float) -> bool:
        """Stop listening and finish calls; False if some did not end in time."""
        return self._server.close(timeout_s)

    def _refused(self, code: str) -> None:
        self._service.metrics.refused("flight", code)

    def _accept(self, headers: Headers, peer: str) -> tuple[Method, _Caller]:
        """Return a call's method and its caller; raises CallRefused without a valid token."""
        given = headers.get(b"authorization", [])
        text = given[0].decode("utf-8", "replace") if len(given) == 1 else ""
        token = text[7:] if text[:7].lower() == "bearer " else text
        caller = self._checked(token, peer, _context(headers))
        method = self._methods.get(headers.get(b":path", [b""])[0])
        if method is None:
            self._refused("not-found")
            raise CallRefused(Status.UNIMPLEMENTED, "not served here; see docs/serving.md")
        encoding = headers.get(b"grpc-encoding", [b"identity"])[0]
        if encoding != b"identity":
            raise CallRefused(Status.UNIMPLEMENTED, "compressed messages are not taken")
        return method, caller

    def _checked(self, given: str, peer: str, context: RequestContext | None) -> _Caller:
        tokens = self._tokens
        token = tokens.find(given) if tokens else None
        if tokens and token is None:
            self._refused("access-denied")
            if is_on():
                found = context.request_id if context else ""
                log_access(Access("flight", "other", found, "access-denied"), Origin(peer))
            raise CallRefused(Status.UNAUTHENTICATED, "a valid token is needed")
        return _Caller(Origin.of(peer, token, tokens, context), tokens, token)

    def _exchange(self, call: Call, message: memoryview | None) -> Reply:
        """Answer a frame with a frame."""
        if call.caller.tokens is not self._tokens:  # its token may have been withdrawn
            before = call.caller.origin
            call.caller = self._checked(call.caller.secret, before.peer, before.context)
        data = FlightData() if message is None else FlightData.decode(message)
        if data.command is not None:
            call.notes.setdefault("method", data.command[:40])
        if data.frame is None and data.command is not None and not data.has_batches:
            return Reply(())  # pyarrow's clients send the command first
        if data.frame is None:
            raise ProtocolError("no frame found in the call")
        method = call.notes.get("method", "")
        answer = self._service.answer_frame(method, data.frame, call.share, call.caller.origin)
        return Reply(flight_data(*answer), last=self._service.draining)

    def _gather(self, call: Call, message: memoryview) -> tuple[Hashable, Any] | None:
        """Read a small search; None if the message must go the usual way."""
        caller = call.caller
        if caller.tokens is not self._tokens or self._service.draining:
            return None
        if call.notes.get("method") != "search" or caller.origin.context is not None:
            return None
        frame = frame_alone(message)
        search = None if frame is None else self._small.read(frame)
        return None if search is None else ((search.key, caller.share), search)

    def _exchange_together(self, gathered: Sequence[tuple[Call, SmallSearch]]) -> list[Reply]:
        """Answer small searches with a frame each."""
        asked = [Asked(search, call.share, call.caller.origin) for call, search in gathered]
        last = self._service.draining
        heads: dict[int, bytes] = {}  # of frames by size, most are of one size
        replies = []
        for frame in self._small.answer(asked):
            head = heads.get(len(frame))
            if head is None:
                head = heads[len(frame)] = bytes(flight_data(frame)[0])
            replies.append(Reply((head + frame,), last))
        return replies

    def _exchange_error(self, error: Exception, call: Call) -> Reply:
        # The call stays open: Flight's client drops an answer if the call ends while it writes.
        return Reply(flight_data(self._error(error, call)))

    def _action(self, call: Call, message: memoryview | None) -> Reply:
        """Run a listed action."""
        started = time.perf_counter()
        action = Action.decode(message or memoryview(b""))
        act = self._actions.get(action.name)
        if act is None:
            names = ", ".join(self._actions)
            raise InvalidArgument(f"no action {action.name[:40]!r}; one of {names} expected")
        call.notes["method"] = action.name
        if action.name == "reload":
            self._check_admin(call.caller.token)
        answer = act(action.body)
        if action.name != "statistics":  # which coordinators ask for twice a second
            seconds = time.perf_counter() - started
            self._log_access(action.name, call.caller.origin, "ok", seconds)
        return Reply(result(answer), last=True)

    def _check_admin(self, token: Token | None) -> None:
        """Raise AccessDenied unless a caller may reload; where nobody is known, everybody may."""
        if self._knows_callers and not (token and token.is_admin):
            raise AccessDenied(
                "reload is an administrator's right: send SIGHUP to the server, or show a token "
                "of its --admin-token-file"
            )

    def _action_error(self, error: Exception, call: Call) -> Reply:
        return Reply(result(self._error(error, call)), last=True)

    def _error(self, error: Exception, call: Call) -> bytes:
        """Return an error as a frame."""
        return encode_error(error, self._count_of(error, call))

    def _status(self, error: Exception, call: Call) -> CallRefused:
        """Return an error as a status, whose text gives clients its code and message."""
        self._count_of(error, call)
        status = Status.UNAVAILABLE if isinstance(error, Busy) else Status.INVALID_ARGUMENT
        return CallRefused(status, error_text(error))

    def _count_of(self, error: Exception, call: Call) -> str:
        return self._count(error, call.notes.get("method", ""), call.caller.origin)

    def _count(self, error: Exception, method: str, origin: Origin) -> str:
        """Count and log an error; return the request's id."""
        code = error_code(error)
        found = (origin.context or RequestContext.new()).request_id
        if code == "internal":
            log.error("a call failed", exc_info=error, extra={"request_id": found})
        self._service.metrics.request("other", code, 0.0, 0, 0)
        self._refused(code)
        self._log_access(method, origin, code, 0.0, found)
        return found

    def _log_access(
        self, method: str, origin: Origin, code: str, seconds: float, request_id: str = ""
    ) -> None:
        if is_on():
            named = method if method in METHODS or method in self._actions else "other"
            if not request_id and origin.context is not None:
                request_id = origin.context.request_id
            log_access(Access("flight", named, request_id, code, seconds), origin)

    def _list_actions(self, call: Call, message: memoryview | None) -> Reply:
        names = {name: f"see docs/serving.md, {name}" for name in self._actions}
        return Reply(action_types(names), last=True)

    def _info(self, body: memoryview) -> bytes:
        asked = decode(body)[0] if body else {}
        told = self._service.details(asked) if asked else {}
        return _json({**self._service.info(), **told})

    def _statistics(self, body: memoryview) -> bytes:
        """State and load; a coordinator's body says which versions its requests are for."""
        if body:
            self._service.want(_wanted(body))
        return _json(self._service.statistics())

    def _list_sizes(self, body: memoryview) -> bytes:
        version = decode(body)[0].get("version") if body else None
        if version is not None and not isinstance(version, str):
            raise ProtocolError("version is not a text")
        named, sizes = self._service.list_sizes(version)
        return encode({"version": named}, {"sizes": sizes})


def _context(headers: Headers) -> RequestContext | None:
    """Read the id and the trace in a call's metadata; frames may have their own."""
    given = {
        name: headers[key][0].decode("latin-1")
        for key, name in _CONTEXT_KEYS.items()
        if key in headers
    }
    return RequestContext.read(given)


def _wanted(body: memoryview) -> dict[str, str]:
    """The versions that a body of ``statistics`` names, and their directories' names."""
    try:
        wanted = json.loads(bytes(body))["wanted"]
        return {str(version): str(name) for version, name in wanted.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ProtocolError('{"wanted": {version: name, ...}} expected') from None


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
