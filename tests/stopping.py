"""Progress that ends the work in its midst, as a kill would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from teravec.progress import Bar, NoBar

__all__ = ["Stopped", "StopsAfter"]


class Stopped(Exception):
    """The work was ended."""


class StopsAfter:
    """Raises Stopped once more than so many ``blocks``, or ``units``, are done.

    They are counted in one stage where it is named, up to a comma in the stage's own name, and over
    all stages where none is.
    """

    def __init__(self, *, blocks: float = inf, units: float = inf, stage: str | None = None):
        self.blocks, self.units, self.wanted = blocks, units, stage

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Bar]:
        yield self if self.wanted in (None, name.partition(",")[0]) else NoBar()

    def advance(self, amount: int) -> None:
        self.blocks, self.units = self.blocks - 1, self.units - amount
        if min(self.blocks, self.units) < 0:
            raise Stopped
