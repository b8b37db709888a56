"""Which vectors of the sample an iteration of k-means looks at: a growing part of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.training.options import KMeansOptions

__all__ = ["FEWEST_PER_LIST", "count_assigned", "pick_rows", "stride_of"]

FEWEST_PER_LIST = 3
"""Vectors that an iteration has for each list, at least.

With 3.4 of 6.8 (minilm, 16,384 lists) the first seven of ten iterations still end 1 % below ten on
all, with 3.4 of 27 (minilm, 4,096) 0.2 %.
"""
_WHOLE = 3  # last iterations, which look at all vectors


def stride_of(options: KMeansOptions, n: int, number: int) -> int:
    """One of how many vectors iteration ``number``, from 0, assigns and sums.

    The last three iterations see all n vectors, the two before them every second one, the two
    before those every fourth, and so on, as long as there are three for each list: centroids
    that will still move far need not be placed exactly. Of 64 vectors for each list, ten
    iterations so cost five, and end a little below ten on all vectors (benchmarks/growing.py).

    References
    ----------
    Growing batches: Newling, Fleuret, Nested mini-batch k-means, 2016, here on a fixed schedule
    and without nesting, so that nothing need be remembered between iterations.
    """
    halvings = (options.niter - _WHOLE + 1 - number) // 2
    stride = 1
    while halvings > 0 and n >= 2 * stride * FEWEST_PER_LIST * options.nlist:
        stride, halvings = 2 * stride, halvings - 1
    return stride


def pick_rows(
    options: KMeansOptions, n: int, number: int, start: int, stop: int
) -> slice | npt.NDArray[np.int64]:
    """Where in a block, of the sample's rows [start, stop), the rows of an iteration are.

    One of every ``stride`` consecutive rows, drawn anew for each block and iteration: a fixed
    step would see only one kind of a source that alternates.
    """
    stride, rows = stride_of(options, n, number), stop - start
    if stride == 1:
        return slice(rows)
    first = np.arange(0, rows, stride)
    rng = np.random.default_rng([options.seed, 6, number, start])
    found: npt.NDArray[np.int64] = first + rng.integers(0, np.minimum(stride, rows - first))
    return found


def count_assigned(options: KMeansOptions, n: int, number: int, block_rows: int) -> int:
    """How many vectors an iteration looks at, in blocks of so many."""
    stride = stride_of(options, n, number)
    return n // block_rows * -(-block_rows // stride) + -(-(n % block_rows) // stride)
