"""Codes of some lists in one buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.kernels.mask import Mask
from teravec.native.lists import PLACE_BITS

__all__ = ["PLACE_BITS", "ListsInMemory"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ListsInMemory:
    """Codes of some lists, or of one part of a large list, in one buffer.

    A list may lie in several runs; each run is then an entry of its own.

    Parameters
    ----------
    list_nos : ndarray of shape (n,), int64
        List of each entry, ascending. Distinct if there are no ``run_nos``.
    sizes : ndarray of shape (n,), int64
        Codes of each entry in the buffer.
    offsets : ndarray of shape (n,), int64
        Byte of the buffer at which each entry's codes begin.
    buffer : ndarray of uint8
    row_start : int
        Row of the run at which the codes begin; above 0 only for a part of a large list.
    run_nos : ndarray of shape (n,), int64, optional
        Distinct number of each entry's run, by which the places of its rows are named; from 0 to
        2^31 - 1. None if each list is one run, with the list's number.
    allowed : Mask, optional
        Which rows of each entry's run may be found, counted from the start of the run, not from
        ``row_start``. None if all rows of all runs may be.
    """

    list_nos: Int64
    sizes: Int64
    offsets: Int64
    buffer: Bytes
    row_start: int = 0
    run_nos: Int64 | None = None
    allowed: Mask | None = None

    @property
    def runs(self) -> Int64:
        """Number of each entry's run."""
        return self.list_nos if self.run_nos is None else self.run_nos

    @property
    def kernel_arguments(self) -> tuple[Int64 | Bytes | None, ...]:
        """Last arguments of the compiled scans: nothing in the usual case."""
        if self.allowed is not None:
            return self.run_nos, self.allowed.bits, self.allowed.starts
        return () if self.run_nos is None else (self.run_nos,)

    def codes(self, entry: int, code_size: int) -> Bytes:
        """Return a view of an entry's codes, (sizes[entry], code_size)."""
        start, size = int(self.offsets[entry]), int(self.sizes[entry])
        return self.buffer[start : start + size * code_size].reshape(size, code_size)

    def visible_rows(self, entry: int, start: int, stop: int) -> Int64 | None:
        """Find the rows of [start, stop) of an entry that may be found, or None if all may be.

        Rows are counted from the first one in memory.
        """
        if self.allowed is None:
            return None
        first = self.row_start
        rows = self.allowed.find_visible(entry, first + start, first + stop)
        return None if rows is None else start + rows

    def places(self, entry: int, rows: Int64) -> Int64:
        """Return the places of rows of an entry, counted from the first one in memory."""
        return (int(self.runs[entry]) << PLACE_BITS) + self.row_start + rows
