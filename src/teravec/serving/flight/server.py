"""A gRPC server whose bounds are checked before memory is taken: sockets, loop and workers.

One thread reads and writes all connections; workers answer their messages. An open call without a
message costs no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

from teravec.serving.flight.call import Call, Caller, CallRefused, Method, Reply
from teravec.serving.flight.connection import Bounds, Connection, Headers
from teravec.serving.flight.gathering import Gatherer
from teravec.serving.flight.workers import Workers
from teravec.serving.server.budget import Budget
from teravec.serving.server.fairness import FairShares
from teravec.serving.server.gauges import PortLoad
from teravec.serving.server.listening import bound_socket
from teravec.serving.server.loop_delay import LoopDelay
from teravec.serving.wire.security import Address

__all__ = ["GrpcServer"]

log = logging.getLogger(__name__)

_TICK_S = 1.0
_BACKLOG = 1024
_AT_ONCE = 64
_OTHER_DESCRIPTORS = 256


class GrpcServer:
    """Listens on an address, from its creation until ``close``.

    Parameters
    ----------
    address : Address
    accept : callable
        Takes a call's headers and the peer's address. Returns its Method and Caller, or raises
        CallRefused. Runs before any data of the call is read.
    budget : Budget
        Bytes that messages and answers may take together.
    bounds : Bounds
    tls : SSLContext, optional
    refused : callable, optional
        Learns the code of each error for which a connection is refused or closed.
    """

    def __init__(
        self,
        address: Address,
        accept: Callable[[Headers, str], tuple[Method, Caller]],
        budget: Budget,
        bounds: Bounds,
        tls: ssl.SSLContext | None = None,
        refused: Callable[[str], None] = lambda code: None,
    ) -> None:
        self.accept, self.budget, self.bounds = accept, budget, bounds
        self.calls = 0  # open, on all connections
        self.refused = refused
        self._delay = LoopDelay(_TICK_S)
        self.shares = FairShares(bounds.calls)
        self._connections: set[Connection] = set()
        self._most_connections = min(bounds.connections, _free_descriptors())
        self._workers = Workers(bounds.workers)
        self._done: deque[tuple[Call, Reply | CallRefused]] = deque()
        self._ended: deque[tuple[Hashable, int]] = deque()
        self._woken = False
        self._tls = tls
        self._socket = bound_socket(address)
        self.address = Address(address.host, self._socket.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._gatherer = Gatherer(self._loop, self._start_together)
        self._thread = threading.Thread(target=self._run, name="teravec-grpc", daemon=True)
        self._thread.start()
        self._listener = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    # --- for connections, on the loop

    def admit(self, connection: Connection) -> bool:
        """Accept a connection; False if there are too many."""
        if len(self._connections) >= self._most_connections:
            idle = (each for each in self._connections if not each.calls)
            oldest = min(idle, key=lambda each: each.active_s, default=None)
            if oldest is None:
                log.warning("%d connections are open: refused another", self._most_connections)
                self.refused("busy")
                return False
            self.forget(oldest)
            oldest.abort()
        self._connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self._connections.discard(connection)

    def start(self, call: Call, message: memoryview | None) -> bool:
        """Start a worker on a message, or gather it with others; False if all are busy."""
        if message is not None and (gather := call.method.gather) is not None:
            found = gather(call, message)
            if found is not None and self._gatherer.add(found[0], (call, found[1])):
                return True
        return self._workers.start(partial(self._answer, call, message))

    def _start_together(self, key: Hashable, gathered: list[tuple[Call, Any]]) -> None:
        """Start a worker on messages that were gathered."""
        if not self._workers.start(partial(self._answer_together, key, gathered)):
            self._gatherer.ended(key, len(gathered))
            self._done.extend((call, call.refuse_busy()) for call, _ in gathered)
            self._collect()

    def soon(self, act: Callable[[], None]) -> None:
        """Run ``act`` on the loop, after the events that are waiting now."""
        self._loop.call_soon(act)

    def _collect(self) -> None:
        """Hand finished answers to their calls."""
        self._woken = False
        while self._ended:
            self._gatherer.ended(*self._ended.popleft())
        connections = set()
        while self._done:
            call, reply = self._done.popleft()
            call.answered(reply)
            connections.add(call.connection)
        for connection in connections:
            connection.flush()

    def _check(self) -> None:
        self._delay.tick()
        now = time.monotonic()
        for connection in list(self._connections):
            connection.check(now)
        self._loop.call_later(_TICK_S, self._check)

    # --- on workers

    def _answer(self, call: Call, message: memoryview | None) -> None:
        self._done.append((call, call.run(message)))
        self._wake()

    def _answer_together(self, key: Hashable, gathered: list[tuple[Call, Any]]) -> None:
        answer = gathered[0][0].method.answer_together
        assert answer is not None
        try:
            replies: Iterable[Reply | CallRefused] = answer(gathered)
        except Exception as error:
            replies = [call.method.refuse(error, call) for call, _ in gathered]
        calls = (call for call, _ in gathered)
        self._done.extend(zip(calls, replies, strict=True))
        self._ended.append((key, len(gathered)))
        self._wake()

    def _wake(self) -> None:
        """Have the loop collect what is done."""
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._collect)

    # --- for the owner

    @property
    def load(self) -> PortLoad:
        """The port's load now."""
        return PortLoad(len(self._connections), self._delay.seconds)

    def ping(self, done: Callable[[], None]) -> None:
        """Call ``done`` on the loop as soon as it runs."""
        self._loop.call_soon_threadsafe(done)

    def close(self, timeout_s: float) -> bool:
        """Stop listening and finish calls; False if some did not end in time."""
        if not self._thread.is_alive():
            return True
        ended = asyncio.run_coroutine_threadsafe(self._end(timeout_s), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._workers.close()
        return ended

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        self._loop.call_later(_TICK_S, self._check)
        handshake_s = None if self._tls is None else self.bounds.times.handshake_s
        # asyncio accepts this many connections in a row. A small backlog lets idle ones be closed
        # in between.
        listener = await self._loop.create_server(
            lambda: Connection(self),
            sock=self._socket,
            ssl=self._tls,
            backlog=_AT_ONCE,
            ssl_handshake_timeout=handshake_s,
        )
        self._socket.listen(_BACKLOG)
        return listener

    async def _end(self, timeout_s: float) -> bool:
        self._listener.close()
        for connection in list(self._connections):
            connection.drain()
        until = time.monotonic() + timeout_s
        while self._connections and time.monotonic() < until:
            await asyncio.sleep(0.005)
        ended = not self.calls
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)
        return ended


def _free_descriptors() -> int:
    """Return half of the connections that this process's descriptor limit allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    return max(16, (soft - _OTHER_DESCRIPTORS) // 2)
