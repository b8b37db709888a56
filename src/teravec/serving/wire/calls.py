"""Calls under way: a thread waits for several servers at once, without threads of their own.

A call is one request on one connection. The thread that waits for answers also moves their bytes,
so a request costs no thread switch, and can be given up at any time. Connections are kept for the
next request: a new one costs a round trip, and with TLS several.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections import deque
from queue import Empty

import numpy as np
import numpy.typing as npt

from teravec.serving.wire.connection import Connection, Lost, Target

__all__ = ["IDLE_S", "Arrivals", "Call", "Connections"]

IDLE_S = 10.0
"""Connections that were idle for longer are not used again. Servers keep them for longer."""

_MOST_IDLE = 64


class Connections:
    """Connections to one server, for any number of threads.

    Parameters
    ----------
    target : Target
    idle_s : float
    """

    def __init__(self, target: Target, idle_s: float = IDLE_S) -> None:
        self.target, self._idle_s = target, idle_s
        self._lock = threading.Lock()
        self._idle: deque[tuple[float, Connection]] = deque()  # the one used last at the end
        self._closed, self._process = False, os.getpid()

    def take(self) -> Connection:
        """Return an idle connection, or a new one."""
        with self._lock:
            if self._process != os.getpid():  # the parent's connections are not ours
                self._idle, self._process = deque(), os.getpid()
            late = self._late(time.monotonic())
            connection = self._idle.pop()[1] if self._idle else None
        for each in late:
            each.close()
        return connection or Connection(self.target)

    def put_back(self, connection: Connection) -> None:
        """Keep a connection whose answer was read."""
        now_s = time.monotonic()
        with self._lock:
            keep = not self._closed and len(self._idle) < _MOST_IDLE
            if keep:
                self._idle.append((now_s, connection))
            late = self._late(now_s)
        if not keep:
            connection.close()
        for each in late:
            each.close()

    def close(self) -> None:
        """Close idle connections now, and the others when their calls have ended."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, deque(), True
        for _, connection in idle:
            connection.close()

    def _late(self, now_s: float) -> list[Connection]:
        """Take out connections that were idle for too long."""
        late = []
        while self._idle and now_s - self._idle[0][0] > self._idle_s:
            late.append(self._idle.popleft()[1])
        return late


class Call:
    """A request under way, and its outcome.

    Parameters
    ----------
    connections : Connections
    method : str
    frame : bytes

    Attributes
    ----------
    data : ndarray of uint8, optional
        The answer.
    error : Exception, optional
        Why there is no answer.
    ended_s : float
        Monotonic time of the end.
    """

    def __init__(self, connections: Connections | None, method: str, frame: bytes) -> None:
        self.frame = frame
        self.data: npt.NDArray[np.uint8] | None = None
        self.error: Exception | None = None
        self.ended_s = 0.0
        self._connections, self._method = connections, method
        self._connection: Connection | None = None
        self._arrivals: Arrivals | None = None
        self._watched: socket.socket | None = None
        self._events = 0

    @classmethod
    def failed(cls, frame: bytes, error: Exception, arrivals: Arrivals) -> Call:
        """Make a call that could not be sent."""
        call = cls(None, "", frame)
        call.error, call.ended_s = error, time.monotonic()
        arrivals.ended(call)
        return call

    def begin(self, arrivals: Arrivals) -> None:
        """Send the request, as far as that is possible at once."""
        assert self._connections is not None
        self._arrivals = arrivals
        self._connection = self._connections.take()
        self._go_on(ask=True)

    @property
    def is_under_way(self) -> bool:
        """Whether it has neither ended nor been given up."""
        return self._connection is not None

    def go_on(self) -> None:
        """Move bytes, as the connection is ready."""
        self._go_on(ask=False)

    def give_up(self) -> None:
        """End the call now, without waiting for its answer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._watch(None, 0)
            connection.close()

    def _go_on(self, ask: bool) -> None:
        assert self._connection is not None
        try:
            if ask:
                self._connection.ask(self._method, self.frame)
            data = self._connection.go_on()
        except Lost:  # it had been idle, and was closed before it had the request
            assert self._connections is not None
            self._watch(None, 0)
            self._connection.close()
            self._connection = Connection(self._connections.target)
            self._go_on(ask=True)
            return
        except Exception as error:
            self._end(None, error)
            return
        if data is None:
            self._watch(self._connection.waits_for, self._connection.events)
        else:
            self._end(data, None)

    def _end(self, data: npt.NDArray[np.uint8] | None, error: Exception | None) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        assert self._connections is not None
        assert self._arrivals is not None
        self._watch(None, 0)
        if error is None and connection.is_reusable:
            self._connections.put_back(connection)
        else:
            connection.close()
        self.data, self.error, self.ended_s = data, error, time.monotonic()
        self._arrivals.ended(self)

    def _watch(self, end: socket.socket | None, events: int) -> None:
        if (end is not self._watched or events != self._events) and self._arrivals is not None:
            before, self._watched, self._events = self._watched, end, events
            self._arrivals.watch(self, before, end, events)


class Arrivals:
    """The calls of one thread, in the order in which they end."""

    def __init__(self) -> None:
        self._ready = selectors.PollSelector()
        self._ended: deque[Call] = deque()

    def get(self, timeout: float) -> Call:
        """Return the next call that has ended; raises ``queue.Empty`` after ``timeout`` seconds."""
        until_s = time.monotonic() + timeout
        left_s = timeout
        while not self._ended:
            ready = self._ready.select(max(0.0, left_s))
            for key, _ in ready:
                if key.data.is_under_way:  # not given up meanwhile
                    key.data.go_on()
            left_s = until_s - time.monotonic()
            if not ready and left_s <= 0 and not self._ended:
                raise Empty
        return self._ended.popleft()

    def ended(self, call: Call) -> None:
        """Add a call that has ended."""
        self._ended.append(call)

    def watch(
        self, call: Call, before: socket.socket | None, end: socket.socket | None, events: int
    ) -> None:
        """Wait for events of a socket, instead of the one before."""
        if before is end and end is not None:
            self._ready.modify(end, events, call)
            return
        if before is not None:
            self._ready.unregister(before)
        if end is not None:
            self._ready.register(end, events, call)
