"""Ranges of a file that are there, or on their way, before anybody asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["HeldRanges"]


@dataclass
class _Held:
    start: int
    stop: int
    bring: Callable[[], memoryview]
    is_there: Callable[[], bool]
    left: int  # bytes that nobody has read yet


class HeldRanges:
    """Some ranges of a file, each held until all of its bytes were read once.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._ranges: list[_Held] = []
        self._lock = threading.Lock()

    def add(
        self,
        start: int,
        stop: int,
        bring: Callable[[], memoryview],
        is_there: Callable[[], bool] = lambda: True,
    ) -> None:
        """Hold a range.

        Parameters
        ----------
        start, stop : int
        bring : callable
            Returns its bytes, or waits for them; may be called again.
        is_there : callable
            Whether ``bring`` would not wait.
        """
        with self._lock:
            self._ranges.append(_Held(start, stop, bring, is_there, stop - start))

    def find(self, start: int, stop: int, *, wait: bool = True) -> memoryview | None:
        """Return bytes [start, stop) if one of the ranges has them all, and need not wait."""
        with self._lock:
            held = next((r for r in self._ranges if r.start <= start and stop <= r.stop), None)
        if held is None or not (wait or held.is_there()):
            return None
        data = held.bring()
        if stop - held.start > len(data):
            return None
        with self._lock:
            held.left -= stop - start
            if held.left <= 0 and held in self._ranges:
                self._ranges.remove(held)
        return data[start - held.start : stop - held.start]

    def read_into(self, buffer: memoryview, offset: int) -> bool:
        """Fill a buffer if one of the ranges has all of its bytes; return whether one has."""
        data = self.find(offset, offset + len(buffer))
        if data is not None:
            buffer[:] = data
        return data is not None

    def clear(self) -> None:
        """Hold nothing any more."""
        with self._lock:
            self._ranges.clear()
