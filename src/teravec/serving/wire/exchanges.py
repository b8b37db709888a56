"""Exchanges: gRPC calls that stay open, so that a request costs a message and not a call.

A new call costs the server twice the processor time of one more message in an open call
(``benchmarks/serving_transport.py``). After its answer a call therefore stays open briefly for the
next request. Each exchange has its own thread, which writes the request and reads the answer. The
caller can wait for several exchanges at once, with a timeout, and can give up at any time.

If the caller wrote and read by itself, two thread switches would be saved. But Flight's read has no
timeout, and a write to a server that has stopped reading may never return.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from queue import Empty, SimpleQueue
from typing import Any

import pyarrow as pa
from pyarrow import flight

__all__ = ["IDLE_S", "Call", "Exchanges"]


IDLE_S = 1.0
"""Idle exchanges close after this time. A server that shuts down waits longer than this."""

_MOST_IDLE = 64
_EXIT_S = 5.0  # longest wait for exchanges when the interpreter exits


class Call:
    """A request under way, and its outcome.

    Parameters
    ----------
    frame : bytes
    arrivals : SimpleQueue of Call
        Receives the call when it has ended.

    Attributes
    ----------
    data : Buffer, optional
        The answer.
    error : Exception, optional
        Why there is no answer.
    ended_s : float
        Monotonic time of the end.
    given_up : bool
    """

    def __init__(self, frame: bytes, arrivals: SimpleQueue[Call]) -> None:
        self.frame, self._arrivals = frame, arrivals
        self.data: Any = None
        self.error: Exception | None = None
        self.ended_s = 0.0
        self.given_up = False
        self._lock = threading.Lock()
        self._reader: Any = None

    def give_up(self) -> None:
        """End the call now, without waiting for its answer."""
        with self._lock:
            self.given_up = True
            if self._reader is not None:
                self._reader.cancel()

    def watch(self, reader: Any) -> None:
        """Name the reader that ``give_up`` cancels; None once the answer has arrived."""
        with self._lock:
            self._reader = reader
            if self.given_up:
                raise flight.FlightCancelledError("given up")

    def end(self, data: Any, error: Exception | None) -> None:
        """Store the outcome and notify the waiting caller."""
        self.data, self.error, self.ended_s = data, error, time.monotonic()
        self._arrivals.put(self)


class Exchanges:
    """The exchanges with one server for one method.

    Parameters
    ----------
    client : FlightClient
    method : str
    options : FlightCallOptions
    """

    def __init__(self, client: Any, method: str, options: Any, idle_s: float = IDLE_S) -> None:
        self._client, self._options, self.idle_s = client, options, idle_s
        self._descriptor = flight.FlightDescriptor.for_command(method)
        self._lock = threading.Lock()
        self._idle: list[_Exchange] = []  # a stack: exchanges at its bottom time out
        self._closed = False

    def send(self, call: Call) -> None:
        """Send a call through an idle exchange, or a new one."""
        with self._lock:
            exchange = self._idle.pop() if self._idle else None
        if exchange is None:
            exchange = _Exchange(self)
        exchange.inbox.put(call)

    def open(self) -> tuple[Any, Any]:
        """Open a new gRPC call; return its writer and reader."""
        opened: tuple[Any, Any] = self._client.do_exchange(self._descriptor, self._options)
        return opened

    def put_back(self, exchange: _Exchange) -> None:
        """Return an exchange to the idle ones."""
        with self._lock:
            if not self._closed and len(self._idle) < _MOST_IDLE:
                self._idle.append(exchange)
                return
        exchange.inbox.put(None)

    def take_out(self, exchange: _Exchange) -> bool:
        """Remove an idle exchange; False if it has just received a call."""
        with self._lock:
            if exchange in self._idle:
                self._idle.remove(exchange)
                return True
        return False

    def close(self) -> None:
        """Close idle exchanges now, and the others when their calls have ended."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for exchange in idle:
            exchange.inbox.put(None)


class _Exchange:
    """One gRPC call and its thread."""

    def __init__(self, exchanges: Exchanges) -> None:
        self.inbox: SimpleQueue[Call | None] = SimpleQueue()
        self._exchanges = exchanges
        self._writer: Any = None
        self._reader: Any = None
        self._thread = threading.Thread(target=self._run, name="teravec-exchange", daemon=True)
        self._thread.start()
        _running.add(self)

    @property
    def is_running(self) -> bool:
        """False after the thread has ended, and in a forked child."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Accept no more calls."""
        if (reader := self._reader) is not None:
            reader.cancel()
        self.inbox.put(None)

    def wait(self, seconds: float) -> None:
        """Wait at most ``seconds`` for the thread to end."""
        self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        while (call := self._next()) is not None:
            data = error = None
            try:
                data = self._ask(call)
            except Exception as failed:
                error = failed
            self._exchanges.put_back(self)  # before the caller wakes and may send again
            call.end(data, error)
            del call, data, error  # an idle exchange must not keep an answer in memory
        self._close()

    def _next(self) -> Call | None:
        """Wait for the next call; None when it is time to close."""
        try:
            return self.inbox.get(timeout=self._exchanges.idle_s)
        except Empty:
            return None if self._exchanges.take_out(self) else self.inbox.get()

    def _ask(self, call: Call) -> Any:
        """Return the answer; open a new gRPC call if the idle one has ended meanwhile."""
        if self._reader is not None:
            try:
                return self._ask_once(call)
            except (pa.ArrowException, OSError, StopIteration):
                self._cancel()
                if call.given_up:
                    raise
        try:
            return self._ask_once(call)
        except BaseException:
            self._cancel()
            raise

    def _ask_once(self, call: Call) -> Any:
        if self._reader is None:
            self._writer, self._reader = self._exchanges.open()
        call.watch(self._reader)
        with contextlib.suppress(OSError):  # the reader raises the reason
            self._writer.write_metadata(pa.py_buffer(call.frame))
        data = self._reader.read_chunk().app_metadata
        call.watch(None)
        return data

    def _cancel(self) -> None:
        """Close without waiting for the server."""
        if self._reader is not None:
            self._reader.cancel()
        self._close()

    def _close(self) -> None:
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            with contextlib.suppress(pa.ArrowException, OSError):  # already raised to the caller
                writer.close()


_running: weakref.WeakSet[_Exchange] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End all exchanges before the interpreter exits: a thread inside gRPC would abort it."""
    until = time.monotonic() + _EXIT_S
    exchanges = [exchange for exchange in _running if exchange.is_running]
    for exchange in exchanges:
        exchange.end()
    for exchange in exchanges:
        exchange.wait(until - time.monotonic())
