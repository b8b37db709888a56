"""How the vectors of a list lie about its centroid, as a query sees them: measured, and sealed.

A row of a list is nearer to a query than a threshold with a probability that depends on how far
the list's centroid is. With l2, c the squared distance to the centroid and e the mean squared
distance of rows to theirs, a row at squared distance D has the position

    z = (c + e - D) / (2 sqrt(c e)),

which is about the cosine of the angle between the row, seen from the centroid, and the query. For
inner products it is what the row has more than the centroid, for a query of unit length. The share
of rows above each z is measured, for lists of each *band*: the nearest, the 2nd to 4th, the 5th to
16th, and so on. So a search knows how many rows of the lists that it has not visited to expect
among the nearest, if it knows how many rows they have: docs/filters.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.native.waves import SpreadTable

__all__ = ["Spread", "bands_of", "parse_spread", "positions"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spread:
    """Shares of rows above positions, by band.

    Parameters
    ----------
    energy : float
        Mean squared distance of rows to their centroid (l2); 0 for inner products.
    first, step : float
        The position of a table's first entry, and from one to the next.
    table : tuple of tuple of float
        For each band, the natural logarithm of the share of rows above each position.
    """

    energy: float
    first: float
    step: float
    table: tuple[tuple[float, ...], ...]

    @cached_property
    def shares(self) -> SpreadTable:
        """The shares themselves, as searches take them."""
        table = np.exp(np.array(self.table, np.float64))
        return SpreadTable(self.energy, self.first, self.step, table)


def positions(
    distances: Float32, values: Float64 | Float32, energy: float, lengths: Float64 | None
) -> Float64:
    """The position z of values beside lists at these distances, by broadcasting."""
    far = distances.astype(np.float64)
    if lengths is not None:
        return np.asarray((values - far) / lengths[:, None])
    energy = max(energy, 1e-30)
    return np.asarray((far + energy - values) / (2 * np.sqrt(np.maximum(far, 1e-30) * energy)))


def bands_of(ranks: Int64) -> Int64:
    """Return the band of each rank, from 0: by powers of four."""
    return np.asarray(np.ceil(np.log(ranks + 1) / np.log(4) - 1e-9), np.int64)


def parse_spread(content: dict[str, Any]) -> Spread:
    """Make a spread of a calibration's JSON; ValueError if it is none."""
    table = tuple(tuple(map(float, row)) for row in content["table"])
    numbers = [float(content[key]) for key in ("energy", "first", "step")]
    whole = len({len(row) for row in table}) == 1 and len(table[0]) > 0
    finite = all(map(math.isfinite, [*numbers, *(share for row in table for share in row)]))
    if not whole or not finite or numbers[2] <= 0 or set(content) != {*_KEYS}:
        raise ValueError("a spread that is no table of shares")
    energy, first, step = numbers
    return Spread(energy, first, step, table)


_KEYS = ("energy", "first", "step", "table")
