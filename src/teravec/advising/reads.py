"""The bytes that a query alone would read from an index whose lists' sizes are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.native.reads import join
from teravec.search.reader import USUAL_READS
from teravec.storage.listfile import ID_BYTES
from teravec.storage.local_store import LocalStore

__all__ = ["ListReads", "PageReads"]

Int64 = npt.NDArray[np.int64]

_ALIGNMENT = 512
_PAGE_GAP_BYTES = 4096  # see search.pages


@dataclass(frozen=True)
class ListReads:
    """Reads of whole lists from one file.

    Parameters
    ----------
    sizes : ndarray of shape (nlist,), int64
        Vectors of each list.
    code_size : int
        Bytes of a vector's code, or of its sketch.
    gap_bytes : int
        Largest gap that one read crosses.
    """

    sizes: Int64
    code_size: int
    gap_bytes: int = LocalStore.gap_bytes

    def count_bytes(self, list_nos: Int64) -> int:
        """Count the bytes read for the codes of these lists, gaps between near ones included."""
        return self._count(list_nos, self.code_size)

    def count_id_bytes(self, list_nos: Int64) -> int:
        """Count the bytes read for the ids of these lists."""
        return self._count(list_nos, ID_BYTES)

    def _count(self, list_nos: Int64, width: int) -> int:
        wanted = np.unique(list_nos)
        wanted = wanted[self.sizes[wanted] > 0]
        if not len(wanted):
            return 0
        starts = np.cumsum(self.sizes) - self.sizes
        ranges, _, _ = join(
            self.gap_bytes,
            USUAL_READS.segment_bytes,
            _ALIGNMENT,
            np.zeros(len(wanted), np.int64),
            np.ascontiguousarray(starts[wanted] * width),
            np.ascontiguousarray(self.sizes[wanted] * width),
        )
        return int(ranges[1].sum())


@dataclass(frozen=True)
class PageReads:
    """Reads of pages of finer codes.

    Parameters
    ----------
    sizes : ndarray of shape (nlist,), int64
    page_bytes, page_rows : int
    """

    sizes: Int64
    page_bytes: int
    page_rows: int

    def count_bytes(self, list_nos: Int64, rng: np.random.Generator) -> int:
        """Count the bytes read for one candidate in each of these lists, at any place in it."""
        if not len(list_nos):
            return 0
        starts = np.cumsum(self.sizes) - self.sizes
        rows = starts[list_nos] + (rng.random(len(list_nos)) * self.sizes[list_nos]).astype(
            np.int64
        )
        pages = np.unique(rows // self.page_rows)
        steps = np.diff(pages)
        joined = steps[steps <= 1 + _PAGE_GAP_BYTES // self.page_bytes]
        return int((len(pages) + (joined - 1).sum()) * self.page_bytes)
