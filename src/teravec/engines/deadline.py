"""A deadline for work in stages: it then ends as an interrupt would end it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from teravec.progress import Bar, Progress

__all__ = ["Deadline", "TimeIsOver"]


class TimeIsOver(Exception):
    """The time for some work is over; what is sealed stays, and the same work goes on from there.

    No error of teravec: whoever sets a deadline catches it.
    """


class Deadline:
    """A progress that passes everything on, and raises TimeIsOver once the time is over.

    Stages report their progress between pieces of work, so a stage ends there as it does for
    Ctrl-C: files in the making disappear, and sealed ones stay.

    Parameters
    ----------
    progress : Progress
        What shows the stages.
    seconds : float
        From now on.
    """

    def __init__(self, progress: Progress, seconds: float) -> None:
        self._progress, self._end = progress, time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self._end - time.monotonic())

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Bar]:
        """Begin a stage, or raise TimeIsOver."""
        self.check()
        with self._progress.stage(name, total, unit) as bar:
            yield _TimedBar(bar, self)

    def check(self) -> None:
        """Raise TimeIsOver after the deadline."""
        if time.monotonic() >= self._end:
            raise TimeIsOver


class _TimedBar:
    def __init__(self, bar: Bar, deadline: Deadline) -> None:
        self._bar, self._deadline = bar, deadline

    def advance(self, amount: int) -> None:
        self._bar.advance(amount)
        self._deadline.check()
