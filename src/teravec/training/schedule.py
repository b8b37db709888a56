"""Which vectors of the sample an iteration of k-means assigns: a growing part of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.training.options import KMeansOptions

__all__ = ["FEWEST_PER_LIST", "count_assigned", "pick_rows", "stride_of"]

FEWEST_PER_LIST = 3
"""Fewest vectors per list in any iteration.

Measured with ten iterations, the first seven of them on a part (minilm). With 3.4 of 6.8 vectors
per list (16,384 lists) the final objective is 1 % better than after ten iterations on all
vectors; with 3.4 of 27 (4,096 lists), 0.2 % better.
"""
_WHOLE = 3  # number of final iterations, which assign all vectors


def stride_of(options: KMeansOptions, n: int, number: int) -> int:
    """Return the stride of iteration ``number``, from 0: it assigns one of ``stride`` vectors.

    The last three iterations assign all n vectors, the two before them every second vector, the
    two before those every fourth, and so on, while there are three vectors per list. Early
    centroids will still move far, and need not be exact. With 64 vectors per list, ten
    iterations then cost as much as five, and end at a slightly lower objective than ten
    iterations on all vectors (benchmarks/growing.py).

    References
    ----------
    Growing batches: Newling, Fleuret, Nested mini-batch k-means, 2016. Here the schedule is fixed
    and batches are not nested: iterations need no memory of earlier ones.
    """
    halvings = (options.niter - _WHOLE + 1 - number) // 2
    stride = 1
    while halvings > 0 and n >= 2 * stride * FEWEST_PER_LIST * options.nlist:
        stride, halvings = 2 * stride, halvings - 1
    return stride


def pick_rows(
    options: KMeansOptions, n: int, number: int, start: int, stop: int
) -> slice | npt.NDArray[np.int64]:
    """Pick an iteration's rows in a block, which holds rows [start, stop) of the sample.

    Picks one of every ``stride`` consecutive rows, at random for each block and iteration. A
    fixed step would be biased if the source alternates between kinds of vectors.
    """
    stride, rows = stride_of(options, n, number), stop - start
    if stride == 1:
        return slice(rows)
    first = np.arange(0, rows, stride)
    rng = np.random.default_rng([options.seed, 6, number, start])
    found: npt.NDArray[np.int64] = first + rng.integers(0, np.minimum(stride, rows - first))
    return found


def count_assigned(options: KMeansOptions, n: int, number: int, block_rows: int) -> int:
    """Count the vectors that an iteration assigns, given the rows of a block."""
    stride = stride_of(options, n, number)
    return n // block_rows * -(-block_rows // stride) + -(-(n % block_rows) // stride)
