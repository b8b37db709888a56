"""Deadlines: the moment after which an answer is no longer useful."""

from __future__ import annotations

import time
from dataclasses import dataclass

from teravec.errors import DeadlineExceeded

__all__ = ["Deadline"]


@dataclass(frozen=True, order=True)
class Deadline:
    """A moment of this machine's monotonic clock.

    Requests carry the seconds left, not a time of day: clocks of two machines differ.
    """

    at_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """The moment ``timeout_s`` seconds from now."""
        return cls(time.monotonic() + timeout_s)

    @property
    def left_s(self) -> float:
        """Seconds left; 0 after the deadline."""
        return max(0.0, self.at_s - time.monotonic())

    def check(self) -> None:
        """Raise DeadlineExceeded after the deadline."""
        if not self.left_s:
            raise DeadlineExceeded("the request's deadline is over; work on it stopped")
