"""What a stage tells its user while it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["Bar", "NoBar", "NoProgress", "Progress"]


class Bar(Protocol):
    """Progress of one stage."""

    def advance(self, amount: int) -> None:
        """Count ``amount`` more units as done."""


class Progress(Protocol):
    """Shows stages; the command line draws bars, a library user sees nothing."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """Begin a stage of ``total`` units, as in 1,000,000 "vectors"."""


class NoBar:
    """Shows nothing."""

    def advance(self, amount: int) -> None:
        """Ignore it."""


class NoProgress:
    """Shows nothing."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """Ignore the stage."""
        return nullcontext(NoBar())
