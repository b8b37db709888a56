"""A cache of finer codes, bounded in bytes, for queries that want the same candidates.

It keeps units of one size: pages, or single rows. A unit has a few places, a set, chosen by its
number. There a new unit goes over the least wanted one, but one that was wanted meanwhile is
spared once for each time, up to three: so a batch passing through does not flush the cache. Rows
are compared where they lie; as long as some search does so, nothing is written over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from teravec.native.pages import find_units, keep_units

__all__ = ["FineCache"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_WAYS = 16  # places of a set: two lines of numbers; one unit in a thousand too many at half full
_NOTE_BYTES = 9  # of a place's number and count


class _Readers:
    """A context for any number of readers, and ``kept_out``, a context without any.

    A class and plain locks, because a lone query enters it: contextlib costs it two microseconds.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()  # a writer holds it, so that no reader begins
        self._lock = threading.Lock()  # of the two fields below
        self._readers, self._writer_waits = 0, False
        self._none_reads = threading.Condition(self._lock)

    def __enter__(self) -> None:
        with self._turn, self._lock:
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._writer_waits and not self._readers:
                self._none_reads.notify_all()

    @contextmanager
    def kept_out(self) -> Iterator[None]:
        with self._turn:
            with self._lock:
                self._writer_waits = True
                self._none_reads.wait_for(lambda: not self._readers)
                self._writer_waits = False
            yield


class FineCache:
    """Verified units, by number.

    Parameters
    ----------
    nunits, unit_bytes : int
        Units that there are, and the size of one.
    capacity_bytes : int
        Reserved whole, but memory is taken only where a unit was kept.

    Attributes
    ----------
    buffer : ndarray of uint8
        What ``find`` gives places in.
    steady : context manager
        Units that were found stay where they are until the end of this context, which any number
        of threads may enter at once.
    """

    def __init__(self, nunits: int, unit_bytes: int, capacity_bytes: int) -> None:
        most = capacity_bytes // (unit_bytes + _NOTE_BYTES)
        self._ways = max(1, min(most, nunits, _WAYS))
        self._sets = min(-(-nunits // self._ways), most // self._ways)
        places = self._sets * self._ways
        self._unit_bytes = unit_bytes
        self.buffer = np.empty(places * unit_bytes, np.uint8)
        self._tags = np.full(places, -1, np.int64)
        self._wanted = np.zeros(places, np.uint8)
        self._held_back_bytes = 0
        self.steady = _Readers()

    def find(self, units: Int64) -> Int64:
        """Bytes of the buffer at which units (n,) begin, int64; -1 where one is not kept.

        Counts them as wanted. For use within ``steady``.
        """
        if not self._sets:
            return np.full(len(units), -1, np.int64)
        return find_units(self._ways, self._unit_bytes, self._tags, self._wanted, units)

    def keep(self, units: Int64, read: Bytes, begins: Int64) -> None:
        """Copy units, those that there is a place for.

        Parameters
        ----------
        units : ndarray of shape (n,), int64
        read : ndarray of uint8
        begins : ndarray of shape (n,), int64
            Byte of ``read`` at which each unit begins.
        """
        if not self._sets:
            return
        with self.steady.kept_out():
            if not self._sets or (self._held_back_bytes and self._is_full()):
                return  # released meanwhile, or the rest is for others
            keep_units(
                self._ways,
                self._unit_bytes,
                self._tags,
                self._wanted,
                units,
                self.buffer,
                read,
                begins,
            )

    @property
    def memory_bytes(self) -> int:
        """Memory of all places: units, their numbers, and how often each was wanted."""
        return self.buffer.nbytes + self._tags.nbytes + self._wanted.nbytes

    @property
    def kept_bytes(self) -> int:
        """Bytes of the units that are kept."""
        return int((self._tags >= 0).sum()) * self._unit_bytes

    def hold_back(self, size: int) -> None:
        """Leave ``size`` bytes of the capacity to others, until it is 0 again.

        As long as what is kept fills the rest, nothing more is kept.
        """
        self._held_back_bytes = size

    def release(self) -> None:
        """Give the memory back, and keep nothing any more."""
        with self.steady.kept_out():
            self._sets = 0
            self._tags[:] = -1
            self.buffer = np.empty(0, np.uint8)

    def _is_full(self) -> bool:
        return self.kept_bytes >= len(self.buffer) - self._held_back_bytes
