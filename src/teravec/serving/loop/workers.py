"""Threads that answer requests: one for each concurrent request, up to a bound.

An idle thread ends after a while, so a flood of requests leaves no threads behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

__all__ = ["Workers"]

_IDLE_S = 10.0


class Workers:
    """Runs work on its own threads; only one thread may call ``start``.

    Parameters
    ----------
    most : int
        Most threads at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0  # running, or about to be

    def start(self, work: Callable[[], None]) -> bool:
        """Run ``work`` soon; False if all threads are busy, or none can be started."""
        with self._lock:
            if self._busy >= self._most:
                return False
            new = self._busy == self._threads
            self._busy += 1
            self._threads += new
        if new:
            thread = threading.Thread(target=self._run, name="teravec-worker", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads
                with self._lock:
                    self._busy -= 1
                    self._threads -= 1
                return False
        self._work.put(work)
        return True

    def close(self) -> None:
        """End each thread after its current work."""
        with self._lock:
            count, self._most = self._threads, 0
        for _ in range(count):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            work()
            del work  # an idle thread must not keep the work's memory
            with self._lock:
                self._busy -= 1

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next work; None when the thread is to end."""
        while True:
            try:
                return self._work.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    if self._threads > self._busy:
                        self._threads -= 1
                        return None
