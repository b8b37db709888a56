"""How late an event loop is: probes and small answers wait at least as long."""

from __future__ import annotations

import time
from collections import deque

__all__ = ["LoopDelay"]

_WINDOW_S = 60.0


class LoopDelay:
    """The longest delay of a loop's regular ticks within the last minute.

    Parameters
    ----------
    tick_s : float
        Time between two ticks on an idle loop.
    """

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._last_s: float | None = None
        # Time and delay of ticks that no later tick was as late as: delays descend.
        self._latest: deque[tuple[float, float]] = deque()

    def tick(self) -> None:
        """Note a tick; on the loop."""
        now_s = time.monotonic()
        if self._last_s is not None:
            late_s = max(0.0, now_s - self._last_s - self._tick_s)
            while self._latest and self._latest[-1][1] <= late_s:
                self._latest.pop()
            self._latest.append((now_s, late_s))
            while self._latest[0][0] < now_s - _WINDOW_S:
                self._latest.popleft()
        self._last_s = now_s

    @property
    def seconds(self) -> float:
        """The longest delay; it counts a tick that is overdue now."""
        try:
            longest_s = self._latest[0][1]
        except IndexError:
            longest_s = 0.0
        if self._last_s is None:
            return longest_s
        return max(longest_s, time.monotonic() - self._last_s - self._tick_s)
