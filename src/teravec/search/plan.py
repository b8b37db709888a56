"""Which runs are read together: pure functions of what the queries want."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.storage.list_runs import list_runs

__all__ = ["Chunk", "plan_chunks"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """Runs, or one part of a large run, that are in memory at the same time.

    Parameters
    ----------
    runs : ndarray of shape (n,), int64
        Ascending and distinct; see ``index.runs``.
    row_start : int
        Row of the run at which the chunk begins: not 0 only for a part of a large run.
    counts : ndarray of shape (n,), int64
        Rows of each run in the chunk.
    whole : bool
        False for a part of a run.
    """

    runs: Int64
    row_start: int
    counts: Int64
    whole: bool = True

    def part(self, some: slice) -> Chunk:
        """Return some of the runs."""
        return Chunk(self.runs[some], self.row_start, self.counts[some], self.whole)


def plan_chunks(runs: Int64, sizes: Int64, row_bytes: int, chunk_bytes: int) -> Iterator[Chunk]:
    """Cut runs, in file order, into chunks of at most ``chunk_bytes``.

    Parameters
    ----------
    runs : ndarray of shape (n,), int64
        Runs wanted, ascending and distinct.
    sizes : ndarray of shape (n,), int64
        Vectors of each.
    row_bytes : int
        Bytes read for a vector.
    chunk_bytes : int
        A run that is larger is cut into parts.
    """
    rows_each = max(1, chunk_bytes // row_bytes)
    for start, stop, fits in list_runs(sizes, rows_each):
        if fits:
            yield Chunk(runs[start:stop], 0, sizes[start:stop])
            continue
        for row in range(0, int(sizes[start]), rows_each):
            count = min(rows_each, int(sizes[start]) - row)
            yield Chunk(runs[start:stop], row, np.array([count], np.int64), whole=False)
