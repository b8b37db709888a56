"""Codes of some lists in one buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.native.lists import PLACE_BITS

__all__ = ["PLACE_BITS", "ListsInMemory"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ListsInMemory:
    """Codes of some lists, or of one part of a large list, in one buffer.

    Parameters
    ----------
    list_nos : ndarray of shape (n,), int64
        Ascending and distinct.
    sizes : ndarray of shape (n,), int64
        Codes of each list in the buffer.
    offsets : ndarray of shape (n,), int64
        Byte of the buffer at which each list's codes begin.
    buffer : ndarray of uint8
    row_start : int
        Row of the list at which the codes begin; above 0 only for a part of a large list.
    """

    list_nos: Int64
    sizes: Int64
    offsets: Int64
    buffer: npt.NDArray[np.uint8]
    row_start: int = 0
