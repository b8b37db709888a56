"""Whether numbers can tell vectors apart: what is kept of them, against their nearest neighbours.

Vectors are kept as float32, and as float16 where the codec says so. What is lost thereby is of
the size of their values; what a search must tell apart is of the size of the distances between
near ones. So some vectors of a sample are compared with each other. A set is refused where many of
them (more than a quarter, or half for the last two)

- are moved by the rounding by more than a quarter of the distance to their nearest neighbour;
- are so near to it that float32 has no square of that distance (squared distances underflow); or
- for cosine, are so near to it that their similarity is 1 in float32.

Less, but more than a 32nd of that distance, is a warning. Vectors that are equal count as neither,
and a few that are lost are what they are in any set: zeros, or near to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["Kept", "checked_places"]

Float64 = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32] | Float64

_CHECKED = 128  # vectors that are compared with each other
_TOO_FAR, _FAR = 1 / 4, 1 / 32  # that a vector is moved, of the distance to its neighbour
_SHARE, _MOST = 1 / 4, 1 / 2  # of the vectors
_NO_SQUARE = 2.0**-50  # distances whose squares lose digits: float32 ends at 2^-149
_NO_ANGLE = 2.0**-11.5  # unit vectors so near have a cosine above 1 - 2^-24


def checked_places(n: int) -> npt.NDArray[np.int64]:
    """Places of the vectors to compare among n, evenly."""
    count = min(n, _CHECKED)
    return np.arange(count, dtype=np.int64) * n // count


@dataclass(frozen=True)
class Kept:
    """Some vectors as they are, and as they are kept.

    Parameters
    ----------
    exact, rounded : ndarray of shape (n, d)
    kind : str
        What they are kept as, for messages.
    place_of : callable
        Names the vector of a number.
    """

    exact: Vectors
    rounded: Vectors
    kind: str
    place_of: Callable[[int], str]

    def is_lost(self) -> str | None:
        """In words, where too much is lost; None where vectors are told apart."""
        return self._describe_moved(_TOO_FAR, "most")

    def is_coarse(self) -> str | None:
        """In words, where much is lost."""
        return self._describe_moved(_FAR, "some")

    def is_too_near(self, *, unit: bool) -> str | None:
        """In words, where vectors are too near to each other for float32.

        ``unit`` are vectors of unit length that are compared by their cosine.
        """
        near = self._nearest < (_NO_ANGLE if unit else _NO_SQUARE)
        if not self._are_many(near, _MOST):
            return None
        row = int(np.argmax(near))
        told = f"{self.place_of(row)} and its nearest of {len(near) - 1} others, like most vectors,"
        if unit:
            return (
                f"{told} have a cosine that is 1 in float32; "
                "subtract the mean from all vectors and queries, or use l2"
            )
        return (
            f"{told} are {self._nearest[row]:.3g} apart, the square of which is too small for "
            "float32; scale all vectors and queries"
        )

    def _describe_moved(self, share: float, amount: str) -> str | None:
        lost = self._moved > share * self._nearest
        if not self._are_many(lost, _SHARE):
            return None
        row = int(np.argmax(np.where(lost, self._moved / self._nearest, 0)))
        return (
            f"{self.place_of(row)}, like many, is moved by {self._moved[row]:.3g} where it is kept "
            f"as {self.kind}, and its nearest of {len(lost) - 1} others is "
            f"{self._nearest[row]:.3g} away: {amount} of what tells vectors apart is "
            "lost; "
            "scale all vectors and queries, or subtract the mean from them"
        )

    def _are_many(self, lost: npt.NDArray[np.bool_], share: float) -> bool:
        apart = np.isfinite(self._nearest)
        return bool(np.count_nonzero(lost & apart) > share * np.count_nonzero(apart))

    @cached_property
    def _scale(self) -> float:
        """A power of 2, by which squares are within float64."""
        _, exponent = np.frexp(float(np.abs(self.exact).max(initial=0)))
        return float(np.ldexp(1.0, -int(exponent)))

    @cached_property
    def _moved(self) -> Float64:
        """How far each vector is from what is kept of it."""
        moved = (self.exact.astype(np.float64) - self.rounded) * self._scale
        return np.asarray(np.linalg.norm(moved, axis=1) / self._scale)

    @cached_property
    def _nearest(self) -> Float64:
        """Distance of each vector to the nearest that is not equal; inf where there is none."""
        x = self.exact.astype(np.float64) * self._scale
        nearest = np.full(len(x), np.inf)
        for row, vector in enumerate(x):
            squares = np.square(x - vector).sum(axis=1)
            nearest[row] = np.sqrt(squares[squares > 0].min(initial=np.inf))
        return nearest / self._scale
