"""Where the rows of joined list files come from: list after list, and in each file after file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.storage.listfile import ListFile

__all__ = ["RowOrder"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowOrder:
    """File and row of each row of a concatenation: list after list, and in each file after file.

    Parameters
    ----------
    ends : ndarray of shape (nlists * nfiles,), int64
        Where in the result the rows of each list and file end.
    firsts : ndarray of the same shape, int64
        Row of the file at which they begin.
    nfiles : int
    """

    ends: Int64
    firsts: Int64
    nfiles: int

    @classmethod
    def of(cls, files: Sequence[ListFile]) -> RowOrder:
        """Return the order of the lists that are open in some files."""
        sizes = np.stack([file.sizes for file in files], axis=1).ravel()
        firsts = np.stack([file.starts[:-1] for file in files], axis=1).ravel()
        return cls(np.cumsum(sizes), firsts.astype(np.int64), len(files))

    def take(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """Return the file's number and the row in it for rows [start, stop) of the result."""
        places = np.arange(start, stop)
        cells = np.searchsorted(self.ends, places, side="right")
        begins = np.where(cells > 0, self.ends[cells - 1], 0)
        return cells % self.nfiles, self.firsts[cells] + places - begins

    def take_lists(self, start: int, stop: int) -> Int64:
        """Return the list, as a position in the files' tables, of rows [start, stop)."""
        places = np.arange(start, stop)
        lists: Int64 = np.searchsorted(self.ends, places, side="right") // self.nfiles
        return lists
