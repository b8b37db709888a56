"""Rows of a source that are no vectors, and how the others are numbered without them.

Every stage counts the rows that are left, 0 to ntotal; only reading knows where they lie in the
files. So plans, shards and samples are what they are for a source without bad rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import InvalidSource

__all__ = ["MOST_RUNS", "NONE", "Skipped"]

Int64 = npt.NDArray[np.int64]

MOST_RUNS = 1 << 20
"""Runs of bad rows that are skipped at most; they are held by every worker, 40 bytes each."""


@dataclass(frozen=True)
class Skipped:
    """Runs of rows that are left out.

    Parameters
    ----------
    runs : tuple of (int, int)
        Rows [start, stop) of the files, ascending and apart.
    """

    runs: tuple[tuple[int, int], ...]

    @staticmethod
    def of(rows: Iterable[Int64]) -> Skipped:
        """Gather row numbers that come ascending, some at a time.

        Raises
        ------
        InvalidSource
            More runs than are skipped.
        """
        return Skipped.of_runs(run for some in rows for run in _runs(some))

    @staticmethod
    def of_runs(found: Iterable[tuple[int, int]]) -> Skipped:
        """Gather runs that come ascending; those that touch become one. Raises as `of`."""
        runs: list[tuple[int, int]] = []
        for start, stop in found:
            if runs and runs[-1][1] == start:
                start = runs.pop()[0]
            runs.append((start, stop))
            if len(runs) > MOST_RUNS:
                raise InvalidSource(
                    f"bad rows at {len(runs):,} places up to row {runs[-1][0]:,}; at most "
                    f"{MOST_RUNS:,} can be skipped: write the good rows to new files"
                )
        return Skipped(tuple(runs))

    @cached_property
    def rows(self) -> int:
        """How many rows are left out."""
        return sum(stop - start for start, stop in self.runs)

    @cached_property
    def _tables(self) -> tuple[Int64, Int64]:
        """Of each run, rows left before it; of each and the end, rows left out before it."""
        runs = np.array(self.runs, np.int64).reshape(-1, 2)
        out = np.concatenate(([0], np.cumsum(runs[:, 1] - runs[:, 0]))).astype(np.int64)
        return runs[:, 0] - out[:-1], out

    def places(self, rows: Int64) -> Int64:
        """Where rows, numbered without those left out, lie in the files."""
        if not self.runs:
            return rows
        left, out = self._tables
        return np.asarray(rows + out[np.searchsorted(left, rows, "right")], np.int64)

    def before(self, row: int) -> int:
        """Rows left out before this one."""
        if not self.runs:
            return 0
        left, out = self._tables
        return int(out[np.searchsorted(left, row, "right")])

    def lie_within(self, start: int, stop: int) -> bool:
        """Whether a run lies between the first and the last of rows [start, stop)."""
        return bool(self.runs) and start < stop and self.before(start) != self.before(stop - 1)

    def between(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Runs, and parts of runs, in rows [start, stop) of the files."""
        for low, high in self.runs:
            if low < stop and high > start:
                yield max(low, start), min(high, stop)

    def describe(self) -> dict[str, Any]:
        """Their number and a checksum, fit for JSON."""
        runs = np.array(self.runs, "<i8")
        return {"rows": self.rows, "checksum": xxhash.xxh3_64_hexdigest(runs.tobytes())}


def _runs(rows: Int64) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers among ascending ones."""
    cuts = np.flatnonzero(np.diff(rows) > 1) + 1
    for run in np.split(rows, cuts):
        if len(run):
            yield int(run[0]), int(run[-1]) + 1


NONE = Skipped(())
"""Nothing is left out."""
