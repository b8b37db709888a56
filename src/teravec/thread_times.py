"""Processor time of each thread of this process: is one of them what a stage waits for?"""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["ThreadTimes"]

_EVERY_S = 0.25
_TASKS = Path("/proc/self/task")


class ThreadTimes:
    """Watches the threads of this process while a stage runs.

    A thread counts even if it has ended, but for its last quarter of a second.

    Parameters
    ----------
    every_s : float
        ``look`` reads the clocks at most this often: a few microseconds a thread.
    """

    def __init__(self, every_s: float = _EVERY_S) -> None:
        self._every_s = every_s
        self._first = _thread_seconds()
        self._last = dict(self._first)
        self._looked = time.monotonic()

    def look(self) -> None:
        """Read the clocks, if the last reading is old enough."""
        if time.monotonic() - self._looked >= self._every_s:
            self._read()

    def busiest_seconds(self) -> float:
        """Processor seconds of the thread that has most since the beginning; 0 if unknown."""
        self._read()
        spent = (last - self._first.get(name, 0.0) for name, last in self._last.items())
        return max(spent, default=0.0)

    def _read(self) -> None:
        self._last |= _thread_seconds()
        self._looked = time.monotonic()


def _thread_seconds() -> dict[str, float]:
    """Processor seconds of each thread so far; none on systems that do not tell."""
    seconds = {}
    for path in _TASKS.glob("*/schedstat"):
        try:
            seconds[path.parent.name] = int(path.read_text().split()[0]) / 1e9
        except (OSError, ValueError, IndexError):  # it has ended, or none are counted
            continue
    return seconds
