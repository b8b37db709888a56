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
    left: int  # bytes that nobody has read yet


class HeldRanges:
    """Some ranges of a file, each held until all of its bytes were read once.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._ranges: list[_Held] = []
        self._lock = threading.Lock()

    def add(self, start: int, stop: int, bring: Callable[[], memoryview]) -> None:
        """Hold a range; ``bring`` returns its bytes, or waits for them, and may be called again."""
        with self._lock:
            self._ranges.append(_Held(start, stop, bring, stop - start))

    def read_into(self, buffer: memoryview, offset: int) -> bool:
        """Fill a buffer if one of the ranges has all of its bytes; return whether one has."""
        end = offset + len(buffer)
        with self._lock:
            held = next((r for r in self._ranges if r.start <= offset and end <= r.stop), None)
        if held is None:
            return False
        data = held.bring()
        if end - held.start > len(data):
            return False
        buffer[:] = data[offset - held.start : end - held.start]
        with self._lock:
            held.left -= len(buffer)
            if held.left <= 0 and held in self._ranges:
                self._ranges.remove(held)
        return True

    def clear(self) -> None:
        """Hold nothing any more."""
        with self._lock:
            self._ranges.clear()
