"""The HTTP port: the application on a socket, in a thread of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

from teravec.errors import DeadlineExceeded
from teravec.serving.http.app import SearchFirst, http_app
from teravec.serving.http.arrow import ARROW_TYPE
from teravec.serving.http.guard import HEADER_LINES, HostNames, HttpGuard
from teravec.serving.http.small_bodies import SmallBodies, SmallBody
from teravec.serving.loop.asgi import AsgiCall
from teravec.serving.loop.http_call import Head, HttpCall, Response
from teravec.serving.loop.http_connection import Exchange, HttpConnection
from teravec.serving.loop.methods import Bounds, Method
from teravec.serving.loop.server import PortServer
from teravec.serving.server.access import Access, is_on
from teravec.serving.server.gauges import PortLoad
from teravec.serving.server.lookup import VectorLookup
from teravec.serving.server.origin import Origin
from teravec.serving.server.port_times import PortTimes
from teravec.serving.server.service import SMALL_BYTES, SearchService
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.protocol import error_code, error_message
from teravec.serving.wire.security import Address, ServerSecurity
from teravec.serving.wire.tokens import Tokens

__all__ = ["MOST_CONNECTIONS", "HttpPort"]

_SWITCH_S = 0.001
_ARROW = ARROW_TYPE.encode()
_JSON = b"content-type: application/json\r\nx-request-id: %b\r\n"
_SHOWN = (b"authorization", b"host", b"origin")
_UNUSUAL = {b"content-encoding", b"x-request-id", b"traceparent", b"tracestate"}
_PLAIN = b"content-type: text/plain; charset=utf-8\r\n"

MOST_CONNECTIONS = 4096
"""Connections at a time, if the process may have enough descriptors."""


class HttpPort:
    """Serves one service on one address, from its creation until ``close``.

    Parameters
    ----------
    service : SearchService
    address : Address
    security : ServerSecurity
    lookup : VectorLookup, optional
    times : PortTimes, optional
    connections : int
        At a time; one more closes the one that has been silent longest.

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
        lookup: VectorLookup | None = None,
        times: PortTimes | None = None,
        connections: int = MOST_CONNECTIONS,
    ) -> None:
        times = times or PortTimes()
        open_paths = ("/healthz", "/readyz") if security.open_probes else ()
        app = http_app(service, lookup)
        self._service, self._searches = service, app.state.searches
        hosts = HostNames((address.host, *security.allow_hosts))
        self._guard = HttpGuard(
            SearchFirst(app, service),
            security.tokens(),
            open_paths,
            hosts if security.checks_host(address) else None,
            times.progress_s,
            service.metrics.responded,
        )
        # Other Python threads give way to the event loop after a millisecond, not after five.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        self._context = security.server_context("http/1.1")
        self._small = SmallBodies(service)
        self._small_method = Method(
            SMALL_BYTES,
            lambda call, message: None,
            lambda error, call: None,
            _refuse_unread,
            answer_together=self._answer_together,
        )
        most = min(service.limits.queue, 128)
        self._server = PortServer(
            address,
            lambda server: HttpConnection(server, self),
            service.budget,
            Bounds(workers=most, calls=most, connections=connections, times=times),
            self._context,
            self._refused,
        )
        self.address = self._server.address

    # --- for connections

    def begin(self, head: Head, connection: HttpConnection) -> Exchange:
        """Make a request's exchange."""
        if head.target == b"/search" and head.method == "POST" and _may_be_small(head):
            origin = self._origin(head, connection)
            if origin is not None and self._searches.has_room(origin):
                return SmallCall(connection, head, self._small_method, origin, self)
        return AsgiCall(connection, head, self._guard)

    def _origin(self, head: Head, connection: HttpConnection) -> Origin | None:
        """Return a request's origin, as its connection's last one showed it if that was equal."""
        shown = self._guard.tokens, [line for line in head.lines if line[0] in _SHOWN]
        if connection.known is None or connection.known[0] != shown:
            connection.known = shown, self._guard.origin_of(head.lines, connection.peer)
        return connection.known[1]  # type: ignore[no-any-return]

    def read(self, call: SmallCall, body: bytes) -> bool:
        """Gather a small search with others; False if it must go the usual way."""
        small = self._small.read(body, call.arrived_s)
        if small is None:
            return False
        key = small.key, call.caller.share
        if not self._server.gather(call, key, small):
            return False
        self._searches.count(call.caller, 1)
        return True

    def unread(self, call: SmallCall, body: bytes) -> None:
        """Have a search answered the usual way."""
        other = AsgiCall(call.connection, call.head, self._guard, body)
        other.arrived_s = call.arrived_s
        call.connection.replace(call, other)

    def _answer_together(
        self, gathered: Sequence[tuple[SmallCall, SmallBody]]
    ) -> list[Response | None]:
        contexts = [RequestContext.new() for _ in gathered]
        first = gathered[0][0].caller
        texts = self._small.answer([small for _, small in gathered], first, contexts[0])
        if is_on():
            for (call, small), context in zip(gathered, contexts, strict=True):
                access = Access("http", "/search", context.request_id)
                access.queries, access.k = 1, small.kind.request.wanted.k
                access.batch = contexts[0].request_id if context is not contexts[0] else ""
                call.notes["access"] = access
        return [
            None
            if text is None
            else Response(200, _JSON % context.request_id.encode() + HEADER_LINES, (text,))
            for text, context in zip(texts, contexts, strict=True)
        ]

    def refuse_malformed(self, why: str) -> Response:
        """Make the response to what is no HTTP."""
        return Response(400, _PLAIN, (b"This is no valid HTTP request.\n",))

    def ended(self, call: Exchange, status: int) -> None:
        """Count and log a small search; the guard does so for all others."""
        if isinstance(call, SmallCall):
            seconds = time.monotonic() - call.arrived_s
            self._guard.answered(call.notes.get("access"), call.caller, status, seconds)

    def left(self, call: SmallCall) -> None:
        """Note that a gathered search has its answer, or goes the usual way after all."""
        self._searches.count(call.caller, -1)

    def _refused(self, code: str) -> None:
        if code == "protocol":
            self._service.metrics.responded(400, "")
        else:
            self._service.metrics.refused("http", code)

    # --- for the owner

    def use_tokens(self, tokens: Tokens) -> None:
        """Require these tokens from now on."""
        self._guard.tokens = tokens

    def use_certificates(self, security: ServerSecurity) -> None:
        """Show new connections the certificate as its file is now."""
        if self._context is not None:
            security.use_certificates(self._context)

    def ping(self, done: Callable[[], None]) -> None:
        """Call ``done`` on the port's event loop as soon as it runs."""
        self._server.ping(done)

    @property
    def load(self) -> PortLoad:
        """The port's load now."""
        return self._server.load

    def close(self, timeout_s: float) -> None:
        """Stop listening and finish requests."""
        self._server.close(timeout_s)
        self._searches.close()


class SmallCall(HttpCall):
    """A search with a small body, answered together with others if it fits.

    Parameters
    ----------
    connection : HttpConnection
    head : Head
    method : Method
    caller : Origin
    port : HttpPort
    """

    __slots__ = ("_port", "_whole")
    caller: Origin
    connection: HttpConnection

    def __init__(
        self, connection: HttpConnection, head: Head, method: Method, caller: Origin, port: HttpPort
    ) -> None:
        super().__init__(connection, head, method, caller)
        self._port, self._whole = port, b""

    def completed(self) -> None:
        """Gather the search, or have it answered the usual way."""
        self._whole = bytes(self.message())
        if self._port.read(self, self._whole):
            self.gathered()
        else:
            self._go_usual_way()

    def answered(self, response: Response | None) -> None:
        """Send the response; None has the search answered the usual way."""
        self._port.left(self)
        if response is None and not self.closed:
            self._go_usual_way()
        else:
            super().answered(response or Response(500))

    def refuse_busy(self) -> None:
        """Have the search refused the usual way."""

    def _go_usual_way(self) -> None:
        self.release()
        self._port.unread(self, self._whole)


def _refuse_unread(error: Exception, call: SmallCall) -> Response:
    """Make the response to a search whose body does not come."""
    content = {"error": error_code(error), "message": error_message(error)}
    request_id = RequestContext.new().request_id
    headers = _JSON % request_id.encode() + HEADER_LINES
    body = json.dumps({**content, "request_id": request_id}).encode()
    return Response(408 if isinstance(error, DeadlineExceeded) else 503, headers, (body,))


def _may_be_small(head: Head) -> bool:
    """Whether a search with these headers may have a small body, and is usual otherwise."""
    size = head.headers.get(b"content-length", b"")
    return (
        size.isdigit()
        and len(size) < 6
        and 0 < int(size) <= SMALL_BYTES
        and not any(name in _UNUSUAL for name in head.headers)
        and not head.headers.get(b"content-type", b"").lower().startswith(_ARROW)
    )
