"""What a stage tells its user while it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from teravec.errors import InvalidArgument, shown

__all__ = ["Bar", "NoBar", "NoProgress", "Progress", "as_progress"]


class Bar(Protocol):
    """Progress of one stage."""

    def advance(self, amount: int) -> None:
        """Count ``amount`` more units as done."""


class Progress(Protocol):
    """Shows stages: ``teravec.Bars`` draws bars; who wants something else writes a class."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """Begin a stage of ``total`` units, as in 1,000,000 "vectors".

        A name is one word or two; what follows a comma ("k-means, 10 iterations") is for the eye.
        A total of 0 is one that nobody knows.
        """


class NoBar:
    """Shows nothing."""

    def advance(self, amount: int) -> None:
        """Ignore it."""


class NoProgress:
    """Shows nothing."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """Ignore the stage."""
        return nullcontext(NoBar())


def as_progress(progress: Any) -> Progress:
    """What shows stages, of what a user gives: True for bars, False or None for nothing.

    Raises
    ------
    InvalidArgument
        Something else than that or a `Progress`.
    """
    if progress is None or progress is False:
        return NoProgress()
    if progress is True:
        from teravec.bars import Bars  # here: it takes tens of milliseconds to import

        return Bars()
    if not callable(getattr(progress, "stage", None)):
        raise InvalidArgument(
            f"progress is {shown(progress)}; True or an object with stage(name, total, unit), as "
            "teravec.Bars(), expected"
        )
    return progress  # type: ignore[no-any-return]
