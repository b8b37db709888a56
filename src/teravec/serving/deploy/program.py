"""A server as a process: its ports, its signals, its orderly shutdown."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable

from teravec.errors import TeravecError
from teravec.serving.deploy.maintenance import Maintenance
from teravec.serving.deploy.notify import Notifier, Ping, watching
from teravec.serving.flight.port import FlightPort
from teravec.serving.http.port import MOST_CONNECTIONS, HttpPort
from teravec.serving.server.gauges import PortLoad
from teravec.serving.server.listening import check_free
from teravec.serving.server.lookup import VectorLookup
from teravec.serving.server.port_times import PortTimes
from teravec.serving.server.service import SearchService
from teravec.serving.server.signals import heeded
from teravec.serving.wire.rotation import FileWatch
from teravec.serving.wire.security import Address, ServerSecurity

__all__ = ["Server"]

log = logging.getLogger(__name__)

_CLOSE_S = 2.0
_END_S = 10.0  # after draining, to close ports and files


class Server:
    """A service and its ports.

    Parameters
    ----------
    service : SearchService
        Closed with the server.
    listen : Address
        Address of the Flight port.
    http : Address, optional
        Address of the HTTP port. Not given: no HTTP.
    security : ServerSecurity
    lookup : VectorLookup, optional
    times : PortTimes, optional
        How long both ports wait for their peers.
    http_connections : int
        Connections of the HTTP port at a time.

    Attributes
    ----------
    maintenance : Maintenance, optional
        Set by whoever starts one; closed with the server.
    """

    def __init__(
        self,
        service: SearchService,
        listen: Address,
        http: Address | None,
        security: ServerSecurity,
        lookup: VectorLookup | None = None,
        times: PortTimes | None = None,
        http_connections: int = MOST_CONNECTIONS,
    ) -> None:
        self.service, self._security = service, security
        self._http: HttpPort | None = None
        for address in (listen, *([] if http is None else [http])):
            security.check_address(address)
            check_free(address)
        security.check_files()
        self._flight = FlightPort(service, listen, security, times, reload=self._reload)
        try:
            if http is not None:
                self._http = HttpPort(service, http, security, lookup, times, http_connections)
        except BaseException:
            self._flight.close(_CLOSE_S)
            raise
        self._watch = FileWatch(security.files, self._read_secrets)
        self.maintenance: Maintenance | None = None

    @property
    def address(self) -> Address:
        """Address of the Flight port."""
        return self._flight.address

    @property
    def http_address(self) -> Address | None:
        """Address of the HTTP port."""
        return None if self._http is None else self._http.address

    @property
    def loads(self) -> dict[str, PortLoad]:
        """Load of each port."""
        loads = {"flight": self._flight.load}
        if self._http is not None:
            loads["http"] = self._http.load
        return loads

    @property
    def open_calls(self) -> int:
        """Open calls over Flight."""
        return self._flight.open_calls

    def reload(self) -> str:
        """Read tokens and certificates again, and switch to the index now in the directory.

        Returns
        -------
        str
            How it ended, in a line; it is in the log as well.
        """
        try:
            return f"reloaded; index version {self._reload()}"
        except TeravecError as error:
            return f"reload failed; the server goes on with the previous index: {error}"

    def _reload(self) -> str:
        try:
            version = self.service.reload(self._read_secrets)
        except TeravecError as error:
            log.error("reload failed; the server goes on with the previous index: %s", error)
            raise
        log.info("reloaded; index version %s", version)
        return version

    def _read_secrets(self) -> None:
        tokens = self._security.tokens()
        ports: list[FlightPort | HttpPort] = [self._flight]
        if self._http is not None:
            ports.append(self._http)
        for port in ports:
            port.use_tokens(tokens)
        for port in ports:
            port.use_certificates(self._security)

    @property
    def loops(self) -> dict[str, Ping]:
        """The event loops, which must run for the server to be healthy."""
        loops: dict[str, Ping] = {"the Flight port": self._flight.ping}
        if self._http is not None:
            loops["the HTTP port"] = self._http.ping
        return loops

    def close(self, drain_s: float = 0.0) -> bool:
        """Refuse new requests, finish the others, and close; False if some were cut off."""
        self._watch.close()
        if self.maintenance is not None:
            self.maintenance.close()
        drained = self.service.drain(drain_s)
        if self._http is not None:
            self._http.close(_CLOSE_S)
        drained = self._flight.close(_CLOSE_S) and drained
        self.service.close()
        return drained

    def run(self, drain_s: float, ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP reloads. The service manager is told each state.

        Parameters
        ----------
        drain_s : float
            Longest wait for requests under way.
        ready : callable
            Called once signals are handled.
        """
        notifier = Notifier()
        with heeded() as signals, watching(notifier, self.loops):
            ready()
            version = self.service.backend.versions.current.version
            notifier.ready(f"serving index version {version} on {self.address}")
            while signals.next() == signal.SIGHUP:
                notifier.reloading()
                notifier.ready(self.reload())
        notifier.stopping()
        log.info("draining for at most %.0f s", drain_s)
        latest = threading.Timer(drain_s + _END_S, _end_now)
        latest.daemon = True
        latest.start()
        if not self.close(drain_s):
            _end_now()
        latest.cancel()


def _end_now() -> None:
    """End the process although a caller holds a call open, possibly for ever."""
    log.warning("some calls were cut off")
    logging.shutdown()
    os._exit(0)
