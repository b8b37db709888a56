"""The sample as k-means and codec see it: transformed, in blocks of fixed size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from teravec.model.transform import Transform
from teravec.training.sample import Sample
from teravec.training.weights import SampleWeights

__all__ = ["BLOCK_BYTES", "PROBE", "TrainingSet"]

Float32 = npt.NDArray[np.float32]

# The block's size decides the order of additions, so it must not depend on the memory
# limit: the same seed gives the same model in any memory.
BLOCK_BYTES = 12 << 20
PROBE = 4096  # vectors on which an assignment is compared with the exact one


@dataclass(frozen=True)
class TrainingSet:
    """Vectors of a sample after the transform.

    Parameters
    ----------
    sample : Sample
    transform : Transform
    d : int
        Dimensions after the transform.
    weights : SampleWeights, optional
        Not given: all vectors weigh the same.
    """

    sample: Sample
    transform: Transform
    d: int
    weights: SampleWeights | None = None

    @property
    def n(self) -> int:
        """Vectors in all."""
        return self.sample.n

    @property
    def block_rows(self) -> int:
        """Vectors of a block."""
        return max(1, BLOCK_BYTES // (4 * self.sample.d))

    def blocks(self) -> Iterator[Float32]:
        """All vectors, in order, float32 of shape (up to block_rows, d)."""
        for block in self.sample.blocks(self.block_rows):
            yield self.transform.apply(block)

    def read(self, start: int, stop: int) -> Float32:
        """Rows [start, stop), float32 of shape (stop - start, d)."""
        return self.transform.apply(self.sample.read(start, stop))

    def weights_of(self, start: int, stop: int) -> Float32 | None:
        """Weights of rows [start, stop), float32 of shape (stop - start,); None where all are 1."""
        return None if self.weights is None else self.weights.read(start, stop)

    def take(self, rows: npt.NDArray[np.int64]) -> Float32:
        """The given rows, ascending, float32 of shape (len(rows), d)."""
        out = np.empty((len(rows), self.d), np.float32)
        for start in range(0, len(rows), self.block_rows):
            part = rows[start : start + self.block_rows]
            out[start : start + len(part)] = self.transform.apply(self.sample.take(part))
        return out

    def evenly(self, count: int) -> Float32:
        """``count`` vectors at even distances: a fair part, as the sample itself is random."""
        count = min(count, self.n)
        return self.take(np.arange(count, dtype=np.int64) * self.n // count)

    @cached_property
    def _probe(self) -> Float32:
        return self.evenly(PROBE)

    def probe(self, part: int = 1) -> Float32:
        """Vectors on which assignments are checked: 4096, or one of every ``part`` of them."""
        return self._probe[::part]
