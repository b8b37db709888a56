"""Vectors outside of a scalar quantizer's trained range, which their codes clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.kernels.blocks import over_blocks
from teravec.kernels.codec import Codec
from teravec.kernels.decoding import STEPS
from teravec.native.lists import count_clipped

__all__ = ["ScalarRange"]

Float32 = npt.NDArray[np.float32]

_ROWS = 4096
_SHARE = 1 / 64  # of the square of a residual


@dataclass(frozen=True)
class ScalarRange:
    """The box of residuals that codes of ``sq8``, ``sq6`` or ``sq4`` can hold.

    A vector counts as clipped if its residual's distance from the box is above two bounds: half of
    the diagonal of one step, the largest rounding error inside the box; and an eighth of the
    residual's length. Ordinary vectors slightly beyond the sample's extremes therefore do not
    count.

    Parameters
    ----------
    middle, half : ndarray of shape (d,), float32
        Middle and half-width of the trained range.
    most : float
        Squared distance from the box up to which a residual is not clipped.
    """

    middle: Float32
    half: Float32
    most: float

    @classmethod
    def of(cls, codec: Codec, parameters: Float32) -> ScalarRange | None:
        """Return the range of a codec with parameters (2 d,); None if it has no range."""
        steps = STEPS.get(codec.fine_name)
        if steps is None:
            return None
        low, size = parameters.astype(np.float64).reshape(2, -1)
        most = float(np.square(size / steps).sum()) / 4
        return cls((low + size / 2).astype(np.float32), (size / 2).astype(np.float32), most)

    def clipped(
        self, vectors: Float32, list_nos: npt.NDArray[np.int32], centroids: Float32, threads: int
    ) -> int:
        """Count the clipped ones of vectors (n, d) in lists (n,)."""
        found = []

        def block(start: int, stop: int) -> None:
            part = slice(start, stop)
            found.append(
                count_clipped(
                    vectors[part],
                    list_nos[part],
                    centroids,
                    self.middle,
                    self.half,
                    self.most,
                    _SHARE,
                )
            )

        over_blocks(block, len(vectors), rows=_ROWS, threads=threads, even=True)
        return sum(found)
