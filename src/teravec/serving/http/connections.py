"""Connections of the HTTP port: their number, and how long they may be silent.

uvicorn waits for a header without a limit. Here a connection must send a complete header within
some seconds. When there are too many connections, the one that has been silent longest is closed.
So probes are answered however many strangers connect.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from teravec.serving.server.loop_delay import LoopDelay
from teravec.serving.server.port_times import PortTimes

__all__ = ["MOST_CONNECTIONS", "Connection", "ConnectionServer", "count_connections"]

log = logging.getLogger(__name__)

_TICK_S = 0.1  # uvicorn's
_UNSENT_BYTES = 16 << 10  # in a connection's buffer before its sender waits
_OTHER_FILES = 256  # descriptors for slices, Flight calls and everything else

MOST_CONNECTIONS = 4096
"""Connections at a time, if the process may have enough descriptors."""


def count_connections(most: int = MOST_CONNECTIONS) -> int:
    """Return the connections allowed at a time: ``most``, or half of the descriptors if fewer."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return most
    return min(most, max(16, (soft - _OTHER_FILES) // 2))


class Connection(H11Protocol):
    """One connection. ``check`` runs once a second and closes it if it is silent for too long.

    Parameters
    ----------
    times : PortTimes
    most : int
        Connections at a time.
    malformed : callable
        Called for each request that is not HTTP.
    options
        As uvicorn's.
    """

    def __init__(
        self, times: PortTimes, most: int, malformed: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(**options)
        self._times, self._most, self._malformed = times, most, malformed
        self._answered, self.app = self.app, self._answer
        self._awaits_header, self.since = True, time.monotonic()
        self._ending_since: float | None = None

    @property
    def is_answering(self) -> bool:
        """Whether a request is being read or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close the connection that has been silent longest, if there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        if len(self.connections) > count_connections(self._most):
            silent = [c for c in self.connections if not c.is_answering]  # type: ignore[union-attr]
            min(silent, key=lambda c: c.since, default=self).abort()  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        """Take bytes; the first byte of a header starts its time limit."""
        if not (self._awaits_header or self.is_answering):
            self._awaits_header, self.since = True, time.monotonic()
        super().data_received(data)
        if self.is_answering:
            self._awaits_header = False

    def on_response_complete(self) -> None:
        """Wait for another request; uvicorn's own timer closes idle connections."""
        super().on_response_complete()
        if not self.is_answering:
            self.since = time.monotonic()
            # Discard the rest of a refused request's body, for at most a header's time limit.
            begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
            self._awaits_header = bool(begun)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; who sent it is logged."""
        log.info("%s:%s sent no valid HTTP request", *(self.client or ("?", 0)))
        self._malformed()
        super().send_400_response(msg)

    def check(self, now: float) -> None:
        """Close this connection if its header is late, or if closing it takes too long."""
        if self.transport.is_closing():
            self._ending_since = self._ending_since or now
            if now - self._ending_since > self._times.ending_s:
                self.abort()
        elif (
            self._awaits_header
            and not self.is_answering
            and now - self.since > self._times.greeting_s
        ):
            self.transport.close()

    def abort(self) -> None:
        """Close this connection at once; the system drops unsent bytes too."""
        end = self.transport.get_extra_info("socket")
        with suppress(OSError):  # it is closed already
            if end is not None:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        cycle = self.cycle

        async def send_to_reader(message: Any) -> None:
            if cycle.disconnected:
                raise ConnectionResetError("the client has gone")
            await send(message)
            if cycle.response_complete and self.flow.write_paused:
                try:
                    await self.flow.drain()  # leaves nothing large in the buffer
                except asyncio.CancelledError:
                    self.abort()
                    raise

        try:
            await self._answered(scope, receive, send_to_reader)
        finally:
            if not cycle.response_complete:  # the client left or does not read
                cycle.disconnected = True
                self.abort()


class ConnectionServer(uvicorn.Server):
    """A uvicorn server of such connections, on one socket.

    Parameters
    ----------
    config : uvicorn.Config
    times : PortTimes
    most : int
        Connections at a time.
    malformed : callable
        Called for each request that is not HTTP.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        times: PortTimes,
        most: int = MOST_CONNECTIONS,
        malformed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._times, self._most, self._malformed = times, most, malformed
        self.delay = LoopDelay(_TICK_S)

    @property
    def count(self) -> int:
        """Open connections."""
        return len(self.server_state.connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, but with a time limit on TLS handshakes."""
        config = self.config

        def connect() -> asyncio.Protocol:
            return Connection(
                self._times,
                self._most,
                self._malformed,
                config=config,
                server_state=self.server_state,
                app_state={},
            )

        self.loop = loop = asyncio.get_running_loop()
        handshake_s = None if config.ssl is None else self._times.handshake_s
        end_s = None if config.ssl is None else self._times.ending_s
        self.servers = [
            await loop.create_server(
                connect,
                sock=each,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=handshake_s,
                ssl_shutdown_timeout=end_s,
            )
            for each in sockets or []
        ]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Check the connections once a second; uvicorn calls this ten times a second."""
        self.delay.tick()
        if counter % 10 == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                connection.check(now)  # type: ignore[union-attr]
        return await super().on_tick(counter)
