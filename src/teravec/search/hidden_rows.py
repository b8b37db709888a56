"""Rows that delete sets hide, as masks for the scanners."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from teravec.index.opened import OpenedIndex
from teravec.kernels.mask import Mask
from teravec.segments.delete_set import is_deleted

__all__ = ["HiddenRows"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
ReadIds = Callable[[Int64], Iterator[tuple[int, Int64]]]
"""Given runs (n,), ascending, yields each run and its ids in row order; large runs in parts."""

_RUN_BYTES = 120  # of a kept run's entry, besides its bits


class HiddenRows:
    """Makes the mask of a run from its ids when the run is first wanted, and keeps it.

    A hidden row is therefore never a candidate: a search finds k visible rows, and its recall is
    that of an index without the hidden ones.

    Parameters
    ----------
    index : OpenedIndex
    most_bytes : int
        For masks that are kept; the longest unused goes first.
    before : HiddenRows, optional
        Of another version of the index. Masks of segments in which nothing more is hidden stay.

    Attributes
    ----------
    none : bool
        Whether no row of the index can be hidden.
    """

    def __init__(
        self, index: OpenedIndex, most_bytes: int, before: HiddenRows | None = None
    ) -> None:
        self._index, self._most_bytes = index, most_bytes
        self._hides = np.array([len(ids) > 0 for ids in index.deleted], np.bool_)
        self.none = not self._hides.any()
        self._kept: OrderedDict[int, Bytes | None] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        if before is not None and not self.none:
            self._take_over(before)

    def _take_over(self, before: HiddenRows) -> None:
        """Keep masks of a version before, of segments that hide the same rows in both."""
        old, new = before._index, self._index
        known = {segment: number for number, segment in enumerate(old.open_segments)}
        shifts: dict[int, int] = {}  # of the run's number, by segment of the version before
        for number, segment in enumerate(new.open_segments):
            earlier = known.get(segment)
            if earlier is not None and old.deleted[earlier] is new.deleted[number]:
                shifts[earlier] = int(new.runs.firsts[number] - old.runs.firsts[earlier])
        with before._lock:
            kept = list(before._kept.items())
        runs = np.array([run for run, _ in kept], np.int64)
        for (run, bits), segment_no in zip(kept, old.runs.segments_of(runs).tolist(), strict=True):
            if segment_no in shifts:
                self._kept[run + shifts[segment_no]] = bits
                self._kept_bytes += _size(bits)

    def mask(self, runs: Int64, read_ids: ReadIds) -> Mask | None:
        """Return the mask of runs (n,), in any order; None if all of their rows are visible.

        Parameters
        ----------
        runs : ndarray of shape (n,), int64
        read_ids : callable
            Reads the ids of runs whose mask is not kept.
        """
        if self.none:
            return None
        hit = self._hides[self._index.runs.segments_of(runs)]
        if not hit.any():
            return None
        bits = self._bits_of(np.sort(runs[hit]), read_ids)
        found = [bits.get(run) for run in runs.tolist()]
        return None if all(each is None for each in found) else Mask.of(found)

    def _bits_of(self, runs: Int64, read_ids: ReadIds) -> dict[int, Bytes | None]:
        """Find the bits of each run; None for a run without hidden rows."""
        found: dict[int, Bytes | None] = {}
        with self._lock:
            for run in runs.tolist():
                if run in self._kept:
                    self._kept.move_to_end(run)
                    found[run] = self._kept[run]
        missing = [run for run in runs.tolist() if run not in found]
        if missing:
            made = self._make(np.array(missing, np.int64), read_ids)
            self._keep(made)
            found |= made
        return found

    def _make(self, runs: Int64, read_ids: ReadIds) -> dict[int, Bytes | None]:
        visible: dict[int, list[npt.NDArray[np.bool_]]] = {}
        segments = dict(
            zip(runs.tolist(), self._index.runs.segments_of(runs).tolist(), strict=True)
        )
        for run, ids in read_ids(runs):
            segment = segments[run]
            deleted = self._index.deleted[segment]
            hidden = is_deleted(ids + self._index.id_bases[segment], deleted)
            visible.setdefault(run, []).append(~hidden)
        made: dict[int, Bytes | None] = {}
        for run, parts in visible.items():
            rows = np.concatenate(parts)
            made[run] = None if rows.all() else np.packbits(rows, bitorder="little")
        return made

    def _keep(self, made: dict[int, Bytes | None]) -> None:
        with self._lock:
            for run, bits in made.items():
                if run not in self._kept:
                    self._kept[run] = bits
                    self._kept_bytes += _size(bits)
            while self._kept_bytes > self._most_bytes:
                _, bits = self._kept.popitem(last=False)
                self._kept_bytes -= _size(bits)

    def release(self) -> None:
        """Give the memory of kept masks back."""
        with self._lock:
            self._kept.clear()
            self._kept_bytes = self._most_bytes = 0


def _size(bits: Bytes | None) -> int:
    return _RUN_BYTES + (0 if bits is None else bits.nbytes)
