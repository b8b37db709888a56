"""How far ranges that arrive in any order have arrived in their own order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Progress"]

Int64 = npt.NDArray[np.int64]


class Progress:
    """Of ``Reader.filled``: tells which of the stops have been reached.

    Parameters
    ----------
    count : int
        Ranges.
    stops : sequence of int
        As for ``Reader.filled``.
    """

    def __init__(self, count: int, stops: Sequence[int]) -> None:
        self._there = bytearray(count + 1)  # its last byte stays 0
        self._stops = stops
        self._first_missing = self._reached = 0

    @property
    def ended(self) -> bool:
        """Whether all stops were yielded."""
        return self._reached == len(self._stops)

    def mark(self, numbers: Int64) -> None:
        """Note that ranges (n,) are there."""
        for number in numbers.tolist():
            self._there[number] = 1

    def reached(self) -> Iterator[int]:
        """Yield the highest stop before which everything is there, if it was not yielded yet."""
        self._first_missing = self._there.index(0, self._first_missing)
        before = self._reached
        while not self.ended and self._stops[self._reached] <= self._first_missing:
            self._reached += 1
        if self._reached > before:
            yield self._stops[self._reached - 1]
