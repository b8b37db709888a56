"""Which rows of the source are the sample's: a pure function of sizes and a seed.

Any part of the sample is found without the rest, in memory for one block of rows: so workers
draw parts of their own, whatever the size of source and sample.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["SampleRows"]

Int64 = npt.NDArray[np.int64]

_BLOCK_ROWS = 1 << 16  # of the source, at least
_BLOCK_DRAWN = 1024  # rows of the sample in a block, at least; of a small share, about


@dataclass(frozen=True)
class SampleRows:
    """n distinct rows of ntotal, numbered in their order; each row is one of them equally likely.

    The source is cut into blocks, and a block of B rows gives n B / ntotal of them, up or down to
    a whole number by one random offset for all; which ones, a generator of the block's own says.
    So the sample follows a sorted source more closely than rows drawn at large would.

    Parameters
    ----------
    ntotal, n : int
        1 <= n <= ntotal.
    seed : int

    References
    ----------
    Cochran, Sampling Techniques, 1977, chapter 5 (proportional allocation to strata) and
    section 8.1 (a systematic sample, by which sizes are rounded).
    """

    ntotal: int
    n: int
    seed: int

    def rows(self, start: int, stop: int) -> Int64:
        """Row numbers of the sample's rows [start, stop), ascending."""
        block = self._find_block(start)
        found = [np.empty(0, np.int64)]
        while (first := self._count_before(block)) < stop:
            found.append(self._draw_block(block)[max(0, start - first) : stop - first])
            block += 1
        return np.concatenate(found)

    def draw_outside(self, count: int) -> Int64:
        """Draw ``count`` rows uniformly from those that are not the sample's, or all of them.

        Returns
        -------
        ndarray of shape (at most count,), int64
            Ascending.
        """
        free = self.ntotal - self.n
        rng = np.random.default_rng([self.seed, 2])
        # Memory for a few times ``count`` numbers, never for all that are free.
        numbers = np.sort(rng.choice(free, min(count, free), replace=False, shuffle=False))
        found = [np.empty(0, np.int64)]
        while len(numbers):
            block = (
                bisect_right(range(self._blocks), int(numbers[0]), key=self._count_free_before) - 1
            )
            inside = int(np.searchsorted(numbers, self._count_free_before(block + 1)))
            drawn = self._draw_block(block) - block * self._block_rows
            # Row r of a block is its free row r - (rows drawn before it).
            among = numbers[:inside] - self._count_free_before(block)
            before = np.searchsorted(drawn - np.arange(len(drawn)), among, "right")
            found.append(block * self._block_rows + among + before)
            numbers = numbers[inside:]
        return np.concatenate(found)

    @cached_property
    def _block_rows(self) -> int:
        return max(_BLOCK_ROWS, _BLOCK_DRAWN * self.ntotal // self.n)

    @cached_property
    def _blocks(self) -> int:
        return -(-self.ntotal // self._block_rows)

    @cached_property
    def _offset(self) -> int:
        return int(np.random.default_rng([self.seed, 1]).integers(self.ntotal))

    def _count_before(self, block: int) -> int:
        """Rows of the sample in the blocks before this one."""
        rows = min(self.ntotal, block * self._block_rows)
        return (self.n * rows + self._offset) // self.ntotal

    def _count_free_before(self, block: int) -> int:
        return min(self.ntotal, block * self._block_rows) - self._count_before(block)

    def _find_block(self, number: int) -> int:
        """The block that the sample's row ``number`` is in."""
        return bisect_right(range(self._blocks), number, key=self._count_before) - 1

    def _draw_block(self, block: int) -> Int64:
        """Row numbers drawn from one block, ascending."""
        start = block * self._block_rows
        rows = min(self.ntotal, start + self._block_rows) - start
        count = self._count_before(block + 1) - self._count_before(block)
        # Not 0, which a seed sequence is filled up with: that is the offset's generator.
        rng = np.random.default_rng([self.seed, 1, 1 + block])
        drawn: Int64 = rng.choice(rows, count, replace=False, shuffle=False)
        return start + np.sort(drawn)
