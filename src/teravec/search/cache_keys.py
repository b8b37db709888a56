"""Which keys of the caches belong to which segment, for versions that share caches."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.index.open_segment import OpenSegment

__all__ = ["CacheKeys", "SegmentKeys"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SegmentKeys:
    """The keys of one segment: one for the codes, one for the ids of each list, and its pages.

    Parameters
    ----------
    codes, ids : range
        Keys in the cache of lists, in the order of the segment's lists.
    first_page : int
        Number of the first page of its row file, in the cache of finer codes.
    """

    codes: range
    ids: range
    first_page: int


class CacheKeys:
    """Hands out keys to open segments, for as long as some version has them.

    A segment keeps its keys from one version to the next, so what was kept of it stays valid. The
    first version's runs have their own numbers as keys: nothing is translated there.

    Parameters
    ----------
    segments : sequence of OpenSegment
        Those of the first version, in its order.
    firsts : ndarray of shape (nsegments,), int64
        The first run of each.
    nruns : int
    """

    def __init__(self, segments: Sequence[OpenSegment], firsts: Int64, nruns: int) -> None:
        self._lock = threading.Lock()
        self._keys: dict[OpenSegment, SegmentKeys] = {}
        self._users: dict[OpenSegment, int] = {}
        self._free: defaultdict[int, list[int]] = defaultdict(list)  # first keys, by how many
        self._page = 0
        self.nkeys = 2 * nruns
        for segment, first in zip(segments, firsts.tolist(), strict=True):
            codes = range(first, first + len(segment.lists.sizes))
            ids = range(nruns + codes.start, nruns + codes.stop)
            self._keys[segment] = SegmentKeys(codes, ids, self._take_pages(segment))

    def hold(self, segments: Sequence[OpenSegment]) -> list[SegmentKeys]:
        """Return the keys of a version's segments, which it holds until ``let_go``."""
        with self._lock:
            for segment in segments:
                if segment not in self._keys:
                    n = len(segment.lists.sizes)
                    pages = self._take_pages(segment)
                    self._keys[segment] = SegmentKeys(self._take(n), self._take(n), pages)
                self._users[segment] = self._users.get(segment, 0) + 1
            return [self._keys[segment] for segment in segments]

    def let_go(self, segments: Sequence[OpenSegment]) -> list[range]:
        """Let go of a version's segments; return the keys that nobody uses any more."""
        unused: list[range] = []
        with self._lock:
            for segment in segments:
                self._users[segment] -= 1
                if not self._users[segment]:
                    del self._users[segment]
                    keys = self._keys.pop(segment)
                    unused += [keys.codes, keys.ids]
        return unused

    def free(self, keys: range) -> None:
        """Let other segments have keys, of which nothing is kept any more."""
        with self._lock:
            self._free[len(keys)].append(keys.start)

    def _take(self, n: int) -> range:
        if self._free[n]:
            start = self._free[n].pop()
        else:
            start, self.nkeys = self.nkeys, self.nkeys + n
        return range(start, start + n)

    def _take_pages(self, segment: OpenSegment) -> int:
        first = self._page
        if segment.rows is not None:
            self._page += segment.rows.header.npages
        return first
