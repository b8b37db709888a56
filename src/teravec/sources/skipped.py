"""Bad rows that a source skips, and the numbering of the good rows.

Every stage numbers the good rows from 0 to ntotal. Only reading maps these numbers to rows of the
files. Plans, shards and samples are therefore the same as for a source without bad rows.
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
"""Largest number of runs of bad rows: every worker holds them in memory."""


@dataclass(frozen=True, eq=False)
class Skipped:
    """The runs of bad rows of a source.

    Parameters
    ----------
    runs : ndarray of shape (n, 2), int64
        Rows [start, stop) of the files, ascending, with a gap between runs.
    """

    runs: Int64

    @staticmethod
    def of(rows: Iterable[Int64], most: int = MOST_RUNS) -> Skipped:
        """Gather row numbers from arrays in ascending order.

        Raises
        ------
        InvalidSource
            The rows form more than ``most`` runs.
        """
        return Skipped.of_runs(map(_find_runs, rows), most)

    @staticmethod
    def of_runs(found: Iterable[Int64], most: int = MOST_RUNS) -> Skipped:
        """Gather runs (n, 2) in ascending order, and join those that touch. Raises as `of`."""
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
        """Number of bad rows."""
        return int((self.runs[:, 1] - self.runs[:, 0]).sum())

    @cached_property
    def _tables(self) -> tuple[Int64, Int64]:
        """Good rows before each run; bad rows before each run, and in all."""
        out = np.concatenate(([0], np.cumsum(self.runs[:, 1] - self.runs[:, 0])))
        return self.runs[:, 0] - out[:-1], out

    def places(self, rows: Int64) -> Int64:
        """Map numbers of good rows to rows of the files."""
        if not len(self.runs):
            return rows
        left, out = self._tables
        return np.asarray(rows + out[np.searchsorted(left, rows, "right")], np.int64)

    def before(self, row: int) -> int:
        """Count the bad rows before a good row."""
        if not len(self.runs):
            return 0
        left, out = self._tables
        return int(out[np.searchsorted(left, row, "right")])

    def lie_within(self, start: int, stop: int) -> bool:
        """Whether a run of bad rows lies between the good rows [start, stop)."""
        return start < stop and self.before(start) != self.before(stop - 1)

    def between(self, start: int, stop: int) -> Int64:
        """Clip the runs to rows [start, stop) of the files."""
        starts, stops = self.runs.T
        within: Int64 = np.clip(self.runs[(starts < stop) & (stops > start)], start, stop)
        return within

    def describe(self) -> dict[str, Any]:
        """Return the number of bad rows and a checksum of the runs, ready for JSON."""
        checksum = xxhash.xxh3_64_hexdigest(self.runs.astype("<i8").tobytes())
        return {"rows": self.rows, "checksum": checksum}


def _find_runs(rows: Int64) -> Int64:
    """Find the runs (n, 2) of consecutive numbers in an ascending array."""
    if not len(rows):
        return np.empty((0, 2), np.int64)
    apart = np.diff(rows) > 1
    starts, ends = rows[np.append(True, apart)], rows[np.append(apart, True)]
    return np.stack([starts, ends + 1], axis=1)


NONE = Skipped(np.empty((0, 2), np.int64))
"""No bad rows."""
