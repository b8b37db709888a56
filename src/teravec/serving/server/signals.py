"""Signals as a queue that a program waits on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType

__all__ = ["Signals", "heeded"]

_LOOK_S = 0.2


class Signals:
    """What came while ``heeded`` held.

    A SimpleQueue may be put into from a signal's handler, wherever that interrupts; an Event
    may not: its lock could be held by the very thread that is interrupted.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[int] = SimpleQueue()

    def heed(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal: a handler."""
        self._queue.put(number)

    def next(self) -> int:
        """Wait for a signal.

        The kernel may give a signal to another thread; Python then runs our handler when this
        one next runs, so it does from time to time.
        """
        while True:
            if (number := self.poll(_LOOK_S)) is not None:
                return number

    def poll(self, timeout_s: float) -> int | None:
        """Wait for a signal, at most so long; None if there was none."""
        with contextlib.suppress(Empty):
            return self._queue.get(timeout=timeout_s)
        return None


@contextmanager
def heeded() -> Iterator[Signals]:
    """Queue SIGTERM, SIGINT and SIGHUP while the body runs; on the main thread."""
    signals = Signals()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, signals.heed) for number in numbers}
    try:
        yield signals
    finally:
        for number, action in before.items():
            signal.signal(number, action)
