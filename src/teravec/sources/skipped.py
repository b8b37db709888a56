"""Rows of a source that are no vectors, and how the others are numbered without them.

Every stage counts the rows that are left, 0 to ntotal; only reading knows where they lie in the
files. So plans, shards and samples are what they are for a source without bad rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import InvalidSource

__all__ = ["MOST_RUNS", "NONE", "Skipped"]

Int64 = npt.NDArray[np.int64]

MOST_RUNS = 1 << 18
"""Runs of bad rows that are skipped at most: every worker holds them, and a list names them."""


@dataclass(frozen=True, eq=False)
class Skipped:
    """Runs of rows that are left out.

    Parameters
    ----------
    runs : ndarray of shape (n, 2), int64
        Rows [start, stop) of the files, ascending and apart.
    """

    runs: Int64

    @staticmethod
    def of(rows: Iterable[Int64], most: int = MOST_RUNS) -> Skipped:
        """Gather row numbers that come ascending, some at a time.

        Raises
        ------
        InvalidSource
            More runs than are skipped.
        """
        return Skipped.of_runs(map(_find_runs, rows), most)

    @staticmethod
    def of_runs(found: Iterable[Int64], most: int = MOST_RUNS) -> Skipped:
        """Gather runs (n, 2) that come ascending; those that touch become one. Raises as `of`."""
        parts, count = [np.empty((0, 2), np.int64)], 0
        for runs in found:
            if len(runs) and len(parts[-1]) and parts[-1][-1, 1] == runs[0, 0]:
                parts[-1][-1, 1] = runs[0, 1]
                runs = runs[1:]
            if len(runs):
                parts.append(runs)
            count += len(runs)
            if count > most:
                raise InvalidSource(
                    f"bad rows at {count:,} places up to row {parts[-1][-1, 0]:,}; at most "
                    f"{most:,} can be skipped: write the good rows to new files"
                )
        return Skipped(np.concatenate(parts))

    @cached_property
    def rows(self) -> int:
        """How many rows are left out."""
        return int((self.runs[:, 1] - self.runs[:, 0]).sum())

    @cached_property
    def _tables(self) -> tuple[Int64, Int64]:
        """Of each run, rows left before it; of each and the end, rows left out before it."""
        out = np.concatenate(([0], np.cumsum(self.runs[:, 1] - self.runs[:, 0])))
        return self.runs[:, 0] - out[:-1], out

    def places(self, rows: Int64) -> Int64:
        """Where rows, numbered without those left out, lie in the files."""
        if not len(self.runs):
            return rows
        left, out = self._tables
        return np.asarray(rows + out[np.searchsorted(left, rows, "right")], np.int64)

    def before(self, row: int) -> int:
        """Rows left out before this one."""
        if not len(self.runs):
            return 0
        left, out = self._tables
        return int(out[np.searchsorted(left, row, "right")])

    def lie_within(self, start: int, stop: int) -> bool:
        """Whether a run lies between the first and the last of rows [start, stop)."""
        return start < stop and self.before(start) != self.before(stop - 1)

    def between(self, start: int, stop: int) -> Int64:
        """Runs, and parts of runs, in rows [start, stop) of the files."""
        starts, stops = self.runs.T
        within: Int64 = np.clip(self.runs[(starts < stop) & (stops > start)], start, stop)
        return within

    def describe(self) -> dict[str, Any]:
        """Their number and a checksum, fit for JSON."""
        checksum = xxhash.xxh3_64_hexdigest(self.runs.astype("<i8").tobytes())
        return {"rows": self.rows, "checksum": checksum}


def _find_runs(rows: Int64) -> Int64:
    """Runs (n, 2) of consecutive numbers among ascending ones."""
    if not len(rows):
        return np.empty((0, 2), np.int64)
    apart = np.diff(rows) > 1
    starts, ends = rows[np.append(True, apart)], rows[np.append(apart, True)]
    return np.stack([starts, ends + 1], axis=1)


NONE = Skipped(np.empty((0, 2), np.int64))
"""Nothing is left out."""
