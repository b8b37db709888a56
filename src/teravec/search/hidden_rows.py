"""Rows that delete sets hide, as masks for the scanners."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from teravec.index.opened import OpenedIndex
from teravec.kernels.mask import Mask
from teravec.search.finding import RunIds

__all__ = ["HiddenRows"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
ReadIds = Callable[[Int64], Iterable[RunIds]]
"""Reads the ids of runs (n,), which ascend; those of a large run in parts."""

_TABLES_SHARE = 4  # of the bytes for masks, for a table of deleted ids

_UNKNOWN, _ALL = -2, -1  # for where a run's bits begin


class HiddenRows:
    """Makes the mask of a run from its ids when the run is first wanted, and keeps it.

    A hidden row is therefore never a candidate: a search finds k visible rows, and its recall is
    that of an index without the hidden ones. The bits of all runs lie in one array, so the masks of
    a query's runs are found at once, and nothing is copied.

    Parameters
    ----------
    index : OpenedIndex
    most_bytes : int
        For bits that are kept; all begin anew when they take more. A quarter as much for a table
        of deleted ids.
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
        self.none = not any(hidden.any for hidden in index.deleted)
        self._lock = threading.Lock()
        index.deleted_ids.make_table(most_bytes // _TABLES_SHARE)
        # Where each run's bits begin. Bits are only appended; searches hold the array they found.
        self._starts = np.full(0 if self.none else len(index.runs.sizes), _ALL, np.int64)
        self._bits, self._used = np.empty(0, np.uint8), 0
        if not self.none:
            self._forget()
            if before is not None:
                self._take_over(before)

    def _forget(self) -> None:
        """Keep no mask; runs of segments in which nothing is hidden need none."""
        self._bits, self._used = np.empty(0, np.uint8), 0
        for number, hidden in enumerate(self._index.deleted):
            if hidden.any:
                self._runs_of(self._index, self._starts, number)[:] = _UNKNOWN

    def _take_over(self, before: HiddenRows) -> None:
        """Keep masks of a version before, of segments that hide the same rows in both."""
        if before.none:
            return
        old, new = before._index, self._index
        known = {segment: number for number, segment in enumerate(old.open_segments)}
        with before._lock:
            self._bits, self._used = before._bits[: before._used].copy(), before._used
            for number, segment in enumerate(new.open_segments):
                earlier = known.get(segment)
                if earlier is not None and old.deleted[earlier].sets == new.deleted[number].sets:
                    mine = self._runs_of(new, self._starts, number)
                    mine[:] = self._runs_of(old, before._starts, earlier)

    @staticmethod
    def _runs_of(index: OpenedIndex, starts: Int64, number: int) -> Int64:
        """Return the part of ``starts`` that belongs to the runs of a segment."""
        first = int(index.runs.firsts[number])
        return starts[first : first + len(index.segments[number].sizes)]

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
        with self._lock:
            bits, starts = self._bits, self._starts[runs]
        if len(starts) and starts.min() == _UNKNOWN:
            return self._make(runs, starts, bits, read_ids)
        return Mask(bits, starts) if len(starts) and starts.max() >= 0 else None

    def are_missing(self, runs: Int64) -> bool:
        """Whether the mask of some of these runs (n,) must be made."""
        if self.none:
            return False
        with self._lock:
            return bool((self._starts[runs] == _UNKNOWN).any())

    def prepare(self, runs: Int64, read_ids: ReadIds) -> None:
        """Make the masks of runs (n,) that are not kept, as far as they may be kept."""
        with self._lock:
            missing = runs[self._starts[runs] == _UNKNOWN]
        self._keep(self._read(np.sort(missing), read_ids))

    def _make(self, runs: Int64, starts: Int64, bits: Bytes, read_ids: ReadIds) -> Mask | None:
        """Make the masks that are not kept, and return those of all runs."""
        missing = np.sort(runs[starts == _UNKNOWN])
        made = self._read(missing, read_ids)
        self._keep(made)
        kept = [
            None if start == _ALL else bits[start : start + -(-int(size) // 8)]
            for start, size in zip(starts.tolist(), self._index.runs.sizes[runs], strict=True)
        ]
        found = [made.get(run, old) for run, old in zip(runs.tolist(), kept, strict=True)]
        return None if all(each is None for each in found) else Mask.of(found)

    def _read(self, runs: Int64, read_ids: ReadIds) -> dict[int, Bytes | None]:
        """Find the bits of each run; None for a run without hidden rows."""
        visible: dict[int, list[npt.NDArray[np.bool_]]] = {}
        made: dict[int, Bytes | None] = {}
        for part in read_ids(runs):
            rows = ~self._find_hidden(part)
            if len(part.runs) == 1:  # perhaps a part of a large run
                visible.setdefault(int(part.runs[0]), []).append(rows)
                continue
            ends = np.cumsum(part.counts)
            some = np.flatnonzero(part.counts)
            whole = np.ones(len(part.runs), np.bool_)
            whole[some] = np.logical_and.reduceat(rows, (ends - part.counts)[some])
            made |= dict.fromkeys(part.runs[whole].tolist())
            for i in np.flatnonzero(~whole).tolist():
                visible[int(part.runs[i])] = [rows[ends[i] - part.counts[i] : ends[i]]]
        for run, parts in visible.items():
            rows = np.concatenate(parts)
            made[run] = None if rows.all() else np.packbits(rows, bitorder="little")
        return made

    def _find_hidden(self, part: RunIds) -> npt.NDArray[np.bool_]:
        """Find which of the rows, of ascending runs, are hidden."""
        index, ends = self._index, np.concatenate([[0], np.cumsum(part.counts)])
        hidden = np.zeros(len(part.ids), np.bool_)
        segments = index.runs.segments_of(part.runs)
        numbers, firsts = np.unique(segments, return_index=True)
        bounds = ends[np.append(firsts, len(segments))].tolist()
        for number, start, stop in zip(numbers.tolist(), bounds, bounds[1:], strict=False):
            ids = part.ids[start:stop] + index.id_bases[number]
            hidden[start:stop] = index.deleted[number].find(ids)
        return hidden

    def _keep(self, made: dict[int, Bytes | None]) -> None:
        with self._lock:
            for run, bits in made.items():
                if self._starts[run] != _UNKNOWN:
                    continue
                if bits is None:
                    self._starts[run] = _ALL
                elif self._has_room(len(bits)):
                    self._bits[self._used : self._used + len(bits)] = bits
                    self._starts[run] = self._used
                    self._used += len(bits)

    def _has_room(self, size: int) -> bool:
        """Make room for so many bytes more, if they may be kept."""
        if self._used + size > self._most_bytes:
            self._forget()
        if size > self._most_bytes:
            return False
        if self._used + size > len(self._bits):
            longer = np.empty(min(self._most_bytes, 2 * self._used + size), np.uint8)
            longer[: self._used] = self._bits[: self._used]
            self._bits = longer
        return True

    def release(self) -> None:
        """Give the memory of kept masks back."""
        with self._lock:
            self._most_bytes = 0
            if not self.none:
                self._forget()
