"""The HTTP port: the application on a socket, in a thread of its own."""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from teravec.errors import InvalidArgument, Unavailable
from teravec.serving.http.app import SearchFirst, http_app
from teravec.serving.http.connections import MOST_CONNECTIONS, ConnectionServer
from teravec.serving.http.guard import HostNames, HttpGuard
from teravec.serving.server.gauges import PortLoad
from teravec.serving.server.listening import bound_socket
from teravec.serving.server.lookup import VectorLookup
from teravec.serving.server.port_times import PortTimes
from teravec.serving.server.service import SearchService
from teravec.serving.wire.security import Address, ServerSecurity
from teravec.serving.wire.tokens import Tokens

__all__ = ["HttpPort"]

_START_S = 10.0
_SWITCH_S = 0.001


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
        self._searches = app.state.searches
        hosts = HostNames((address.host, *security.allow_hosts))
        self._guard = HttpGuard(
            SearchFirst(app, service),
            security.tokens(),
            open_paths,
            hosts if security.checks_host(address) else None,
            times.progress_s,
            service.metrics.responded,
        )
        config = uvicorn.Config(
            self._guard,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=times.keep_alive_s,
            timeout_graceful_shutdown=5,
            ws="none",
            log_level="error",
            **_tls(security),
        )
        # Other Python threads give way to the event loop after a millisecond, not after five.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        self._socket = bound_socket(address)
        try:
            config.load()
        except (ssl.SSLError, OSError) as error:
            self._socket.close()
            raise InvalidArgument(
                f"{security.certificate}: no certificate that TLS can use ({error})"
            ) from error
        self.address = Address(address.host, self._socket.getsockname()[1])
        self._context = config.ssl
        self._server = ConnectionServer(
            config, times, connections, partial(service.metrics.responded, 400, "")
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="teravec-http", daemon=True
        )
        self._thread.start()
        self._wait_until_started()

    def _wait_until_started(self) -> None:
        waiting = threading.Event()
        for _ in range(int(_START_S / 0.01)):
            if self._server.started:
                return
            waiting.wait(0.01)
        raise Unavailable(f"the HTTP port {self.address} did not start within {_START_S:.0f} s")

    def use_tokens(self, tokens: Tokens) -> None:
        """Require these tokens from now on."""
        self._guard.tokens = tokens

    def use_certificates(self, security: ServerSecurity) -> None:
        """Show new connections the certificate as its file is now."""
        if self._context is not None:
            security.use_certificates(self._context)

    def ping(self, done: Callable[[], None]) -> None:
        """Call ``done`` on the port's event loop as soon as it runs."""
        self._server.loop.call_soon_threadsafe(done)

    @property
    def load(self) -> PortLoad:
        """The port's load now."""
        return PortLoad(self._server.count, self._server.delay.seconds)

    def close(self, timeout_s: float) -> None:
        """Stop listening and finish requests."""
        self._server.should_exit = True
        self._thread.join(timeout_s)
        self._searches.close()
        self._socket.close()


def _tls(security: ServerSecurity) -> dict[str, Any]:
    if security.certificate is None:
        return {}
    options: dict[str, Any] = {"ssl_certfile": security.certificate, "ssl_keyfile": security.key}
    if security.client_ca is not None:
        options |= {"ssl_ca_certs": security.client_ca, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options
