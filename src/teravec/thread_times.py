"""Processor time that one thread of this process must spend alone: what a stage waits for."""

from __future__ import annotations

import time
from pathlib import Path

from teravec.native import pool

__all__ = ["ThreadTimes"]

_EVERY_S = 0.25
_TASKS = Path("/proc/self/task")


class ThreadTimes:
    """Watches the threads of this process while a stage runs.

    What a thread does within a compiled call that other threads may share does not count: with more
    processors they would take it. A thread counts even if it has ended, but for its last quarter of
    a second.

    Parameters
    ----------
    every_s : float
        ``look`` reads the clocks at most this often: a few microseconds a thread.

    Attributes
    ----------
    busiest_seconds : float
        Of the thread that had most alone, once the body has ended; 0 if unknown.
    """

    def __init__(self, every_s: float = _EVERY_S) -> None:
        self._every_s = every_s
        self.busiest_seconds = 0.0

    def __enter__(self) -> ThreadTimes:
        pool.watch(1)
        self._first = _seconds_alone()
        self._last = dict(self._first)
        self._looked = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._read()
        pool.watch(-1)
        spent = (last - self._first.get(name, 0.0) for name, last in self._last.items())
        self.busiest_seconds = max(spent, default=0.0)

    def look(self) -> None:
        """Read the clocks, if the last reading is old enough."""
        if time.monotonic() - self._looked >= self._every_s:
            self._read()

    def _read(self) -> None:
        self._last |= _seconds_alone()
        self._looked = time.monotonic()


def _seconds_alone() -> dict[int, float]:
    """Processor seconds so far of each thread but the pool's; none on systems that do not tell."""
    shared, seconds = pool.shared_ns(), {}
    for path in _TASKS.glob("*/schedstat"):
        try:
            thread, ns = int(path.parent.name), int(path.read_text().split()[0])
        except (OSError, ValueError, IndexError):  # it has ended, or none are counted
            continue
        seconds[thread] = max(0, ns - shared.get(thread, 0)) / 1e9
    return seconds
