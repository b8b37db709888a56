"""A cache of pages of finer codes, bounded in bytes, for queries that want the same candidates.

Page p has one place, ``p % places``. There a new page goes over the old one, but an old one that
was wanted meanwhile is spared once for each time, up to three: so a batch passing through does not
flush it. All work is on arrays, as a query wants hundreds of pages.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

__all__ = ["FineCache", "rows_of"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_MOST_SPARED = 3


class FineCache:
    """Verified pages, by number.

    Parameters
    ----------
    npages, page_bytes : int
        Pages that there are, and the size of one.
    capacity_bytes : int
        Reserved whole, but memory is taken only where a page was kept.
    """

    def __init__(self, npages: int, page_bytes: int, capacity_bytes: int) -> None:
        places = min(npages, capacity_bytes // page_bytes)
        self._pages = np.empty((places, page_bytes), np.uint8)
        self._numbers = np.full(places, -1, np.int64)
        self._spared = np.zeros(places, np.uint8)
        self._lock = threading.Lock()

    def rows(
        self, numbers: Int64, at: Int64, row_bytes: int
    ) -> tuple[Bytes, npt.NDArray[np.bool_]]:
        """Rows of pages that are kept.

        Parameters
        ----------
        numbers, at : ndarray of shape (n,), int64
            Page, and byte of the page at which the row begins.
        row_bytes : int

        Returns
        -------
        rows : ndarray of shape (n, row_bytes), uint8
            Not filled where the page is not kept.
        kept : ndarray of shape (n,), bool
        """
        rows = np.empty((len(numbers), row_bytes), np.uint8)
        if not len(self._pages):
            return rows, np.zeros(len(numbers), bool)
        places = numbers % len(self._pages)
        with self._lock:
            kept = self._numbers[places] == numbers
            places = places[kept]
            rows[kept] = rows_of(self._pages, places, at[kept], row_bytes)
            self._spared[places] = np.minimum(self._spared[places] + 1, _MOST_SPARED)
        return rows, kept

    def keep(self, numbers: Int64, read: Bytes, at: Int64) -> None:
        """Copy pages, where their places are free.

        Parameters
        ----------
        numbers : ndarray of shape (n,), int64
            Distinct.
        read : ndarray of shape (m, page_bytes), uint8
        at : ndarray of shape (n,), int64
            Where in ``read`` each page is.
        """
        if not len(self._pages):
            return
        places, first = np.unique(numbers % len(self._pages), return_index=True)
        with self._lock:
            spared = self._spared[places]
            self._spared[places] = np.maximum(spared, 1) - 1
            free = spared == 0
            places, first = places[free], first[free]
            self._pages[places] = read[at[first]]
            self._numbers[places] = numbers[first]


def rows_of(pages: Bytes, places: Int64, at: Int64, row_bytes: int) -> Bytes:
    """Rows, given by page and byte of the page, (n, row_bytes)."""
    begins = places * pages.shape[1] + at
    windows = np.lib.stride_tricks.sliding_window_view(pages.reshape(-1), row_bytes)
    rows: Bytes = windows[begins]
    return rows
