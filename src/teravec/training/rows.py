"""Which rows of the source form the sample: a pure function of sizes and a seed.

Any part of the sample can be computed without the rest, in memory for one block of rows. Workers
can therefore draw their parts independently, whatever the size of source and sample.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["SampleRows"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SampleRows:
    """n distinct rows of ntotal, in ascending order; every row is equally likely to be drawn.

    The source is cut into blocks. A block of B rows contributes n B / ntotal rows, rounded up or
    down by one random offset that all blocks share. The block's own random generator picks them.
    In a sorted source such a sample is more even than independently drawn rows would be.

    Parameters
    ----------
    ntotal, n : int
        1 <= n <= ntotal.
    seed : int
    least_block : int
        Fewest rows of the source in a block. This and ``block_drawn`` decide the sample.
    block_drawn : int
        Blocks are enlarged until about so many rows of the sample fall into one.

    References
    ----------
    Cochran, Sampling Techniques, 1977, chapter 5 (proportional allocation to strata) and
    section 8.1 (a systematic sample, by which sizes are rounded).
    """

    ntotal: int
    n: int
    seed: int
    least_block: int = 1 << 16
    block_drawn: int = 1024

    def rows(self, start: int, stop: int) -> Int64:
        """Return the source's row numbers of the sample's rows [start, stop), ascending."""
        block = self._find_block(start)
        found = [np.empty(0, np.int64)]
        while (first := self._count_before(block)) < stop:
            found.append(self._draw_block(block)[max(0, start - first) : stop - first])
            block += 1
        return np.concatenate(found)

    def draw_outside(self, count: int) -> Int64:
        """Draw ``count`` rows uniformly from those outside the sample, or all of these.

        Returns
        -------
        ndarray of shape (at most count,), int64
            Ascending.
        """
        free = self.ntotal - self.n
        rng = np.random.default_rng([self.seed, 2])
        # shuffle=False needs memory for a few times ``count`` numbers, not for all free rows.
        numbers = np.sort(rng.choice(free, min(count, free), replace=False, shuffle=False))
        found = [np.empty(0, np.int64)]
        while len(numbers):
            block = (
                bisect_right(range(self._blocks), int(numbers[0]), key=self._count_free_before) - 1
            )
            inside = int(np.searchsorted(numbers, self._count_free_before(block + 1)))
            drawn = self._draw_block(block) - block * self._block_rows
            # Row r of a block is its free row number r - (rows drawn before r).
            among = numbers[:inside] - self._count_free_before(block)
            before = np.searchsorted(drawn - np.arange(len(drawn)), among, "right")
            found.append(block * self._block_rows + among + before)
            numbers = numbers[inside:]
        return np.concatenate(found)

    @cached_property
    def _block_rows(self) -> int:
        return max(self.least_block, self.block_drawn * self.ntotal // self.n)

    @cached_property
    def _blocks(self) -> int:
        return -(-self.ntotal // self._block_rows)

    @cached_property
    def _offset(self) -> int:
        return int(np.random.default_rng([self.seed, 1]).integers(self.ntotal))

    def _count_before(self, block: int) -> int:
        """Count the sample's rows in the blocks before this one."""
        rows = min(self.ntotal, block * self._block_rows)
        return (self.n * rows + self._offset) // self.ntotal

    def _count_free_before(self, block: int) -> int:
        return min(self.ntotal, block * self._block_rows) - self._count_before(block)

    def _find_block(self, number: int) -> int:
        """Find the block of the sample's row ``number``."""
        return bisect_right(range(self._blocks), number, key=self._count_before) - 1

    def _draw_block(self, block: int) -> Int64:
        """Draw the rows of one block, ascending."""
        start = block * self._block_rows
        rows = min(self.ntotal, start + self._block_rows) - start
        count = self._count_before(block + 1) - self._count_before(block)
        # Blocks count from 1: a seed sequence is padded with 0, so [seed, 1, 0] would repeat the
        # generator of the offset.
        rng = np.random.default_rng([self.seed, 1, 1 + block])
        drawn: Int64 = rng.choice(rows, count, replace=False, shuffle=False)
        return start + np.sort(drawn)
