"""Joining messages of many connections before a worker gets them: one thread switch for all.

Messages that can be answered together are gathered on the port's event loop. They go to a worker
when the sockets hold no more of them. While a worker has some, later ones wait for its end, or at
most two milliseconds. After a batch of several, the next one waits as long for as many: their
clients will soon ask again. A lone message goes at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["Gatherer"]

_WAIT_S = 0.002
_MOST_LINES = 64
_MOST_TOGETHER = 256


class _Line:
    """Messages of one key that wait, and what is known about them."""

    __slots__ = ("expected", "looking", "seen", "timer", "under_way", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.seen = 0  # messages at the last look
        self.looking = False
        self.under_way = 0  # batches that workers have
        self.expected = 1  # as many as the last batch had
        self.timer: asyncio.TimerHandle | None = None


class Gatherer:
    """Everything here runs on the event loop.

    Parameters
    ----------
    loop : AbstractEventLoop
    start : callable
        Has a list of messages answered, and later calls ``ended`` with their key and number.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, start: Callable[[Hashable, list[Any]], None]
    ) -> None:
        self._loop, self._start = loop, start
        self._lines: dict[Hashable, _Line] = {}

    def add(self, key: Hashable, message: Any) -> bool:
        """Gather a message; False if there are too many keys."""
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= _MOST_LINES and not self._drop_idle():
                return False
            line = self._lines[key] = _Line()
        line.waiting.append(message)
        if not line.looking:
            line.looking = True
            self._loop.call_soon(self._look, key, line)
        return True

    def ended(self, key: Hashable, count: int) -> None:
        """Note that a worker has answered a batch of ``count`` messages."""
        line = self._lines[key]
        line.under_way -= 1
        line.expected = count
        if line.waiting and not line.looking:
            line.looking = True
            self._loop.call_soon(self._look, key, line)

    def _look(self, key: Hashable, line: _Line) -> None:
        """Hand messages over if no more come from the sockets, or all expected ones are here."""
        count = len(line.waiting)
        several = line.expected > 1 or count > 1
        if several and line.seen < count < _MOST_TOGETHER:
            line.seen = count
            self._loop.call_soon(self._look, key, line)
            return
        line.looking, line.seen = False, 0
        if not count:
            return
        if (
            not line.under_way and count >= min(line.expected, _MOST_TOGETHER)
        ) or count >= _MOST_TOGETHER:
            self._hand_over(key, line)
        elif line.timer is None:
            line.timer = self._loop.call_later(_WAIT_S, self._hand_over, key, line)

    def _hand_over(self, key: Hashable, line: _Line) -> None:
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        if line.waiting:
            messages, line.waiting = line.waiting, []
            line.under_way += 1
            self._start(key, messages)

    def _drop_idle(self) -> bool:
        """Forget keys without messages; False if there are none."""
        idle = [k for k, line in self._lines.items() if not (line.waiting or line.under_way)]
        for key in idle:
            del self._lines[key]
        return bool(idle)
