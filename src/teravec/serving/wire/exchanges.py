"""Exchanges kept open with a server, so that a request costs a message and not a call.

A call of gRPC costs the server twice the processor time of one more message in a call that is
open (``benchmarks/serving_transport.py``). So a call that was
answered stays open for the next request, for a moment. Each has a thread of its own, which writes
the request and reads the answer: whoever asked waits as long as they like, for several at once if
they like, and gives up when they like.

A caller that wrote and read by itself would save two switches of threads, but a read of Flight
knows no timeout, and a write to a server that has stopped reading may never return.
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

__all__ = ["Call", "Exchanges"]

# Idle exchanges are closed after so long: less than a server that ends waits for them.
_IDLE_S = 1.0
_MOST_IDLE = 64
_EXIT_S = 5.0  # an exit waits for exchanges to end no longer than this


class Call:
    """A request on its way, and what came back.

    Parameters
    ----------
    frame : bytes
    arrivals : SimpleQueue of Call
        Gets the call when it has ended.

    Attributes
    ----------
    data : Buffer, optional
        The answer.
    error : Exception, optional
        Why there is none.
    ended_s : float
        When it ended, by the monotonic clock.
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
        """End the call now; its answer is not wanted any more."""
        with self._lock:
            self.given_up = True
            if self._reader is not None:
                self._reader.cancel()

    def watch(self, reader: Any) -> None:
        """Give up by cancelling this reader from now on; None: the answer is here."""
        with self._lock:
            self._reader = reader
            if self.given_up:
                raise flight.FlightCancelledError("given up")

    def end(self, data: Any, error: Exception | None) -> None:
        """Tell who waits."""
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

    def __init__(self, client: Any, method: str, options: Any) -> None:
        self._client, self._options = client, options
        self._descriptor = flight.FlightDescriptor.for_command(method)
        self._lock = threading.Lock()
        self._idle: list[_Exchange] = []  # the latest used is used next, the others run out
        self._closed = False

    def send(self, call: Call) -> None:
        """Send a call through an exchange that is idle, or a new one."""
        with self._lock:
            exchange = self._idle.pop() if self._idle else None
        if exchange is None:
            exchange = _Exchange(self)
        exchange.inbox.put(call)

    def open(self) -> tuple[Any, Any]:
        """Writer and reader of a new call."""
        opened: tuple[Any, Any] = self._client.do_exchange(self._descriptor, self._options)
        return opened

    def put_back(self, exchange: _Exchange) -> None:
        """Have an exchange that is idle again."""
        with self._lock:
            if not self._closed and len(self._idle) < _MOST_IDLE:
                self._idle.append(exchange)
                return
        exchange.inbox.put(None)

    def take_out(self, exchange: _Exchange) -> bool:
        """Forget an idle exchange; False if it has just been given a call."""
        with self._lock:
            if exchange in self._idle:
                self._idle.remove(exchange)
                return True
        return False

    def close(self) -> None:
        """Close what is idle now, and the others when their calls have ended."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for exchange in idle:
            exchange.inbox.put(None)


class _Exchange:
    """One call of gRPC, and the thread that asks through it."""

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
        """False when it has ended, and in a child of a fork."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Answer nothing more."""
        if (reader := self._reader) is not None:
            reader.cancel()
        self.inbox.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, for so long at most."""
        self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        while (call := self._next()) is not None:
            data = error = None
            try:
                data = self._ask(call)
            except Exception as failed:
                error = failed
            self._exchanges.put_back(self)  # first, so that who asks again finds it
            call.end(data, error)
            del call, data, error  # the answer is not to be held while nothing is asked
        self._close()

    def _next(self) -> Call | None:
        """The next call; None when it is time to close."""
        try:
            return self.inbox.get(timeout=_IDLE_S)
        except Empty:
            return None if self._exchanges.take_out(self) else self.inbox.get()

    def _ask(self, call: Call) -> Any:
        """The answer, from a new call of gRPC if the one that was kept has ended meanwhile."""
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
        with contextlib.suppress(OSError):  # the reader tells why the call has ended
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
            with contextlib.suppress(pa.ArrowException, OSError):  # raised where it was met
                writer.close()


_running: weakref.WeakSet[_Exchange] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End all exchanges before the interpreter: it aborts when it finds a thread inside of gRPC."""
    until = time.monotonic() + _EXIT_S
    exchanges = [exchange for exchange in _running if exchange.is_running]
    for exchange in exchanges:
        exchange.end()
    for exchange in exchanges:
        exchange.wait(until - time.monotonic())
