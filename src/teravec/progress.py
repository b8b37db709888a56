"""Progress: how a stage reports to its user while it runs."""

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
    """Displays stages. ``teravec.Bars`` draws bars; any class with this method will do."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """Begin a stage of ``total`` units, as in 1,000,000 "vectors".

        The name is the part before a comma; the rest is for display only, as in
        "k-means, 10 iterations". A total of 0 means unknown.
        """


class NoBar:
    """Shows nothing."""

    def advance(self, amount: int) -> None:
        """Ignore the amount."""


class NoProgress:
    """Shows nothing."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """Ignore the stage."""
        return nullcontext(NoBar())


def as_progress(progress: Any) -> Progress:
    """Convert a user's argument to a `Progress`: True means bars, False and None mean nothing.

    Raises
    ------
    InvalidArgument
        The argument is neither a bool, None, nor a `Progress`.
    """
    if progress is None or progress is False:
        return NoProgress()
    if progress is True:
        from teravec.bars import Bars  # imported only here: it takes tens of milliseconds

        return Bars()
    if not callable(getattr(progress, "stage", None)):
        raise InvalidArgument(
            f"progress is {shown(progress)}; True or an object with stage(name, total, unit), as "
            "teravec.Bars(), expected"
        )
    return progress  # type: ignore[no-any-return]
