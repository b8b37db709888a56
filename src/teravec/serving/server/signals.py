"""Signals as a queue on which a program waits."""

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
    """The signals received while ``heeded`` is active.

    A signal handler may put into a SimpleQueue wherever it interrupts. It may not set an Event,
    whose lock could be held by the interrupted thread itself.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[int] = SimpleQueue()

    def heed(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal by queueing it."""
        self._queue.put(number)

    def next(self) -> int:
        """Wait for a signal.

        The kernel may deliver a signal to another thread. Python then runs the handler when the
        main thread next runs, so this wait wakes from time to time.
        """
        while True:
            if (number := self.poll(_LOOK_S)) is not None:
                return number

    def poll(self, timeout_s: float) -> int | None:
        """Wait at most ``timeout_s`` for a signal; None if there was none."""
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
