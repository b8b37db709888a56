"""Checking that rounding does not erase the differences between neighbouring vectors.

Vectors are stored as float32, or as float16 by some codecs. The rounding error grows with the
values, but a search must distinguish distances between near vectors, which may be far smaller.
Some vectors of the sample are therefore compared with each other. The source is refused if many
of them

- are moved by rounding by more than a quarter of the distance to their nearest neighbour (many:
  more than a quarter of them);
- are so near to it that the squared distance underflows in float32 (more than half); or
- for cosine, are so near to it that their similarity is 1 in float32 (more than half).

A warning follows if more than a quarter are moved by more than a 32nd of that distance. Equal
vectors do not count. A few bad vectors are no reason to refuse: every source has some, such as
zeros.
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
_TOO_FAR, _FAR = 1 / 4, 1 / 32  # movement by rounding, relative to the neighbour's distance
_SHARE, _MOST = 1 / 4, 1 / 2  # shares of the vectors
_NO_SQUARE = 2.0**-50  # below, squared distances lose digits: float32 ends at 2^-149
_NO_ANGLE = 2.0**-11.5  # below, unit vectors have a cosine above 1 - 2^-24


def checked_places(n: int) -> npt.NDArray[np.int64]:
    """Choose the evenly spaced positions of the vectors to compare among n."""
    count = min(n, _CHECKED)
    return np.arange(count, dtype=np.int64) * n // count


@dataclass(frozen=True)
class Kept:
    """Some vectors, exact and as stored.

    Parameters
    ----------
    exact, rounded : ndarray of shape (n, d)
    kind : str
        Name of the stored form, for messages.
    place_of : callable
        Returns the name of a vector, given its number.
    """

    exact: Vectors
    rounded: Vectors
    kind: str
    place_of: Callable[[int], str]

    def is_lost(self) -> str | None:
        """Return a message if rounding erases too much, else None."""
        return self._describe_moved(_TOO_FAR, "most")

    def is_coarse(self) -> str | None:
        """Return a message if rounding erases much, else None."""
        return self._describe_moved(_FAR, "some")

    def is_too_near(self, *, unit: bool) -> str | None:
        """Return a message if vectors are too near to each other for float32, else None.

        ``unit`` means vectors of unit length, compared by their cosine.
        """
        near = self._nearest < (_NO_ANGLE if unit else _NO_SQUARE)
        if not self._are_many(near, _MOST):
            return None
        row = int(np.argmax(near))
        pair = f"{self.place_of(row)} and its nearest of {len(near) - 1} others, like most vectors,"
        if unit:
            return (
                f"{pair} have a cosine that is 1 in float32; "
                "subtract the mean from all vectors and queries, or use l2"
            )
        return (
            f"{pair} are {self._nearest[row]:.3g} apart, the square of which is too small for "
            "float32; scale all vectors and queries"
        )

    def _describe_moved(self, share: float, amount: str) -> str | None:
        lost = self._moved > share * self._nearest
        if not self._are_many(lost, _SHARE):
            return None
        row = int(np.argmax(np.where(lost, self._moved / self._nearest, 0)))
        return (
            f"{self.place_of(row)}, like many, is moved by {self._moved[row]:.3g} when stored as "
            f"{self.kind}, and its nearest of {len(lost) - 1} others is {self._nearest[row]:.3g} "
            f"away: {amount} of what tells vectors apart is lost; "
            "scale all vectors and queries, or subtract the mean from them"
        )

    def _are_many(self, lost: npt.NDArray[np.bool_], share: float) -> bool:
        apart = np.isfinite(self._nearest)
        return bool(np.count_nonzero(lost & apart) > share * np.count_nonzero(apart))

    @cached_property
    def _scale(self) -> float:
        """A power of 2 that keeps squares within the range of float64."""
        _, exponent = np.frexp(float(np.abs(self.exact).max(initial=0)))
        return float(np.ldexp(1.0, -int(exponent)))

    @cached_property
    def _moved(self) -> Float64:
        """Distance of each vector from its stored form."""
        moved = (self.exact.astype(np.float64) - self.rounded) * self._scale
        return np.asarray(np.linalg.norm(moved, axis=1) / self._scale)

    @cached_property
    def _nearest(self) -> Float64:
        """Distance of each vector to its nearest different vector; inf if all are equal."""
        x = self.exact.astype(np.float64) * self._scale
        nearest = np.full(len(x), np.inf)
        for row, vector in enumerate(x):
            squares = np.square(x - vector).sum(axis=1)
            nearest[row] = np.sqrt(squares[squares > 0].min(initial=np.inf))
        return nearest / self._scale
