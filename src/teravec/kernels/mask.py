"""Which rows of some runs are visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Mask"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_ALL = -1  # _mask.h has this too


@dataclass(frozen=True)
class Mask:
    """Which rows of some runs are visible: one bit for each row.

    Row r of a run is visible where bit r % 8 of byte r // 8 of the run's bits is 1. Bits after the
    run's last row mean nothing.

    Parameters
    ----------
    bits : ndarray of uint8
        The bits of all runs.
    starts : ndarray of shape (n,), int64
        Byte of ``bits`` at which each run's bits begin; -1: all rows of the run are visible.
    """

    bits: Bytes
    starts: Int64

    @classmethod
    def of(cls, runs: Sequence[Bytes | None]) -> Mask:
        """Make the mask of runs from the bits of each; None: all of its rows are visible."""
        parts = [np.empty(0, np.uint8) if bits is None else bits for bits in runs]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        hidden = np.array([bits is not None for bits in runs], np.bool_)
        starts = np.where(hidden, ends - [len(part) for part in parts], _ALL)
        return cls(np.concatenate([np.empty(0, np.uint8), *parts]), starts.astype(np.int64))

    def find_visible(self, entry: int, start: int, stop: int) -> Int64 | None:
        """Find the visible rows of [start, stop) of a run, counted from ``start``.

        Returns
        -------
        ndarray of int64, ascending, or None if all are visible

        Raises
        ------
        ValueError
            The run has fewer bits.
        """
        at = int(self.starts[entry])
        if at == _ALL:
            return None
        first, last = start // 8, -(-stop // 8)
        if at < 0 or at + last > len(self.bits):
            raise ValueError(
                f"entry {entry}: {last} bytes of bits at byte {at} of {len(self.bits)}"
            )
        bits = np.unpackbits(self.bits[at + first : at + last], bitorder="little")
        return np.flatnonzero(bits[start - 8 * first : stop - 8 * first].view(np.bool_))
