"""How hard a query is, beside those of a calibration: coefficients that the calibration seals."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MOST_HARDER", "Hardness"]

MOST_HARDER = 8
"""A query visits at most this many times the lists that its effort gives a usual query."""


@dataclass(frozen=True)
class Hardness:
    """Coefficients of a query's hardness; see ``search.probing``.

    Parameters
    ----------
    near : float
        Added to the squared distance to the nearest centroid, before gaps are divided by its root.
    sharpness : float
        How fast a list's share of the neighbours falls with its gap.
    usual, hard : float
        Mean crowding of the calibration's queries, and what the hardest tenth exceeds.
    slope, steeper : float
        Growth of the logarithm of a query's nprobe with its crowding, and beyond ``hard`` in
        addition.
    """

    near: float
    sharpness: float
    usual: float
    hard: float
    slope: float
    steeper: float
