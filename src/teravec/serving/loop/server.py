"""A port: its socket, its event loop, and its workers.

One thread reads and writes all connections; workers answer their messages. An open call without a
message costs no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from functools import partial
from typing import Any, Protocol

import uvloop

from teravec.serving.loop.gathering import Gatherer
from teravec.serving.loop.methods import Asking, Bounds
from teravec.serving.loop.workers import Workers
from teravec.serving.server.budget import Budget
from teravec.serving.server.fairness import FairShares
from teravec.serving.server.gauges import PortLoad
from teravec.serving.server.listening import bound_socket
from teravec.serving.server.loop_delay import LoopDelay
from teravec.serving.wire.security import Address

__all__ = ["PortConnection", "PortServer", "count_connections"]

log = logging.getLogger(__name__)

_TICK_S = 1.0
_BACKLOG = 1024
_AT_ONCE = 64
_OTHER_DESCRIPTORS = 256


class PortConnection(Protocol):
    """A connection, as its server sees it; also an ``asyncio.Protocol``."""

    calls: Any  # true while something is asked or answered
    active_s: float  # when that changed last

    def drain(self) -> None:
        """Accept no more, and close when what is under way has ended."""

    def abort(self) -> None:
        """Close at once."""

    def check(self, now: float) -> None:
        """Disconnect callers that make no progress; runs once a second."""

    def flush(self) -> None:
        """Write waiting bytes to the socket."""


class PortServer:
    """Listens on an address, from its creation until ``close``.

    Parameters
    ----------
    address : Address
    connect : callable
        Takes this server; makes the protocol of a new connection, a ``PortConnection``.
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
        connect: Callable[[PortServer], Any],
        budget: Budget,
        bounds: Bounds,
        tls: ssl.SSLContext | None = None,
        refused: Callable[[str], None] = lambda code: None,
    ) -> None:
        self._connect, self.budget, self.bounds = connect, budget, bounds
        self.calls = 0  # open, on all connections
        self.refused = refused
        self._delay = LoopDelay(_TICK_S)
        self.shares = FairShares(bounds.calls)
        self._connections: set[PortConnection] = set()
        self._most_connections = count_connections(bounds.connections)
        self._workers = Workers(bounds.workers)
        # One thread for pieces of all large answers: they are made in Python, and hold its lock.
        self._writing = ThreadPoolExecutor(1, "teravec-pieces")
        self._done: deque[tuple[Asking, Any]] = deque()
        self._ended: deque[tuple[Hashable, int]] = deque()
        self.date = b""  # the header line, as it is this second
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken = False
        self._tls = tls
        self._socket = bound_socket(address)
        self._heard, self._bell = socket.socketpair()
        self._heard.setblocking(False)
        self.address = Address(address.host, self._socket.getsockname()[1])
        self._loop = uvloop.new_event_loop()
        self._gatherer = Gatherer(self._loop, self._start_together)
        self._thread = threading.Thread(target=self._run, name="teravec-port", daemon=True)
        self._thread.start()
        self._listener = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    # --- for connections, on the loop

    def admit(self, connection: PortConnection) -> bool:
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

    def forget(self, connection: PortConnection) -> None:
        """Remove a closed connection."""
        self._connections.discard(connection)

    def start(self, call: Asking, message: memoryview | None) -> bool:
        """Start a worker on a message, or gather it with others; False if all are busy."""
        if message is not None and (gather := call.method.gather) is not None:
            found = gather(call, message)
            if found is not None and self._gatherer.add(found[0], (call, found[1])):
                return True
        return self._workers.start(partial(self._answer, call, message))

    def gather(self, call: Asking, key: Hashable, read: Any) -> bool:
        """Gather what was read of a call's message with others; False if it cannot be."""
        return self._gatherer.add(key, (call, read))

    def make_piece(self, pieces: Iterator[bytes], then: Callable[[bytes | None], None]) -> None:
        """Make the next piece of an answer on a thread; ``then`` takes it on the loop, or None."""
        self._writing.submit(self._piece, pieces, then)

    def _piece(self, pieces: Iterator[bytes], then: Callable[[bytes | None], None]) -> None:
        piece: bytes | None = None
        try:
            piece = next(pieces, b"")
        except Exception:
            log.exception("an answer could not be written")
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(then, piece)

    def _start_together(self, key: Hashable, gathered: list[tuple[Asking, Any]]) -> None:
        """Start a worker on messages that were gathered."""
        if not self._workers.start(partial(self._answer_together, key, gathered)):
            self._gatherer.ended(key, len(gathered))
            self._done.extend((call, call.refuse_busy()) for call, _ in gathered)
            self._collect()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the loop."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)  # the loop itself keeps weak references only
        task.add_done_callback(self._tasks.discard)

    def soon(self, act: Callable[[], None]) -> None:
        """Run ``act`` on the loop, after the events that are waiting now."""
        self._loop.call_soon(act)

    def _collect(self) -> None:
        """Hand finished answers to their calls."""
        with contextlib.suppress(BlockingIOError):
            self._heard.recv(64)
        self._woken = False  # only now: a bell that rings from here on is heard later
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
        self.date = b"date: %b\r\n" % formatdate(usegmt=True).encode()
        now = time.monotonic()
        for connection in list(self._connections):
            connection.check(now)
        self._loop.call_later(_TICK_S, self._check)

    # --- on workers

    def _answer(self, call: Asking, message: memoryview | None) -> None:
        self._done.append((call, call.run(message)))
        self._wake()

    def _answer_together(self, key: Hashable, gathered: list[tuple[Asking, Any]]) -> None:
        answer = gathered[0][0].method.answer_together
        assert answer is not None
        try:
            replies: Iterable[Any] = answer(gathered)
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
            # The loop's own way holds Python's lock while the system wakes the loop's thread.
            with contextlib.suppress(OSError):  # the loop has ended
                self._bell.send(b"!")

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
        self._writing.shutdown(wait=False, cancel_futures=True)
        return ended

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()
        self._heard.close()
        self._bell.close()

    async def _listen(self) -> asyncio.AbstractServer:
        self._loop.add_reader(self._heard, self._collect)
        self._loop.call_soon(self._check)
        handshake_s = None if self._tls is None else self.bounds.times.handshake_s
        # So many connections are accepted in a row; idle ones are closed in between.
        listener = await self._loop.create_server(
            lambda: self._connect(self),
            sock=self._socket,
            ssl=self._tls,
            backlog=_AT_ONCE,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=None if self._tls is None else self.bounds.times.ending_s,
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
        ended = not any(connection.calls for connection in self._connections)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)
        return ended


def count_connections(most: int) -> int:
    """Return the connections allowed at a time: ``most``, or half of the descriptors if fewer."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    return min(most, max(16, (soft - _OTHER_DESCRIPTORS) // 2))
