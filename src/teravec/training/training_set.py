"""The transformed sample, in blocks of fixed size, for k-means and the codec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.model.transform import Transform
from teravec.training.sample import Sample
from teravec.training.weights import SampleWeights

__all__ = ["PROBE", "TrainingSet"]

Float32 = npt.NDArray[np.float32]

PROBE = 4096  # vectors on which an assignment is compared with an exact one


@dataclass(frozen=True)
class TrainingSet:
    """The vectors of a sample after the transform.

    Parameters
    ----------
    sample : Sample
    transform : Transform
    d : int
        Dimensions after the transform.
    weights : SampleWeights, optional
        Not given: all vectors weigh the same.
    sizes : BlockSizes
        They decide the order of additions, so they must not depend on the memory limit: the same
        seed must give the same model in any memory.
    """

    sample: Sample
    transform: Transform
    d: int
    weights: SampleWeights | None = None
    sizes: BlockSizes = USUAL_SIZES

    @property
    def n(self) -> int:
        """Number of vectors."""
        return self.sample.n

    @property
    def block_rows(self) -> int:
        """Number of vectors in a block."""
        return max(1, self.sizes.training_block_bytes // (4 * self.sample.d))

    def blocks(self) -> Iterator[Float32]:
        """Yield all vectors in order, float32 of shape (up to block_rows, d)."""
        for block in self.sample.blocks(self.block_rows):
            yield self.transform.apply(block)

    def read(self, start: int, stop: int) -> Float32:
        """Read rows [start, stop), float32 of shape (stop - start, d)."""
        return self.transform.apply(self.sample.read(start, stop))

    def weights_of(self, start: int, stop: int) -> Float32 | None:
        """Read the weights of rows [start, stop), float32; None if all vectors weigh the same."""
        return None if self.weights is None else self.weights.read(start, stop)

    def take(self, rows: npt.NDArray[np.int64]) -> Float32:
        """Read single rows, ascending, float32 of shape (len(rows), d)."""
        out = np.empty((len(rows), self.d), np.float32)
        for start in range(0, len(rows), self.block_rows):
            part = rows[start : start + self.block_rows]
            out[start : start + len(part)] = self.transform.apply(self.sample.take(part))
        return out

    def evenly(self, count: int) -> Float32:
        """Read ``count`` evenly spaced vectors; the sample's rows are already random."""
        count = min(count, self.n)
        return self.take(np.arange(count, dtype=np.int64) * self.n // count)

    @cached_property
    def _probe(self) -> Float32:
        return self.evenly(PROBE)

    def probe(self, part: int = 1) -> Float32:
        """Return the 4,096 vectors that check assignments, or one of every ``part`` of them."""
        return self._probe[::part]
