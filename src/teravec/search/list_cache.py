"""A cache of lists, bounded in bytes, that a batch passing through does not flush.

Lists lie one after another in one buffer, used as a ring: a new list goes where the hand points,
over the oldest ones. But a list that was wanted more often than the new one stays, and the hand
goes on behind it. Counts are halved now and then, so what was once wanted often makes room in time.

References
----------
Corbato, A paging experiment with the Multics system, 1968 (the clock and its second chance).
Einziger, Friedman, Manes, TinyLFU: a highly efficient cache admission policy, 2017 (admission by
how often something was wanted, counted for what is not in the cache as well).
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
import numpy.typing as npt

from teravec.native import lists
from teravec.native.lists import NOT_KEPT

__all__ = ["NOT_KEPT", "ListCache"]

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_AGING = 8  # counts are halved when this many times the lists were counted
_TRIES = 16  # lists that the hand passes over for one new list


class ListCache:
    """Verified bytes of lists, by key.

    Parameters
    ----------
    nkeys : int
        Keys are 0 to nkeys - 1.
    capacity_bytes : int
        Reserved whole, but memory is taken only where a list was kept.
    """

    def __init__(self, nkeys: int, capacity_bytes: int) -> None:
        self.buffer = np.empty(capacity_bytes, np.uint8)
        self._at = np.full(nkeys, -1, np.int64)
        self._size = np.zeros(nkeys, np.int64)
        self._wanted = np.zeros(nkeys, np.uint8)
        self._pins = np.zeros(nkeys, np.int32)
        self._order: deque[int] = deque()  # kept keys by place, from the hand on
        self._hand = 0
        self._counted = 0
        self._held_back_bytes = 0
        self._lock = threading.Lock()

    def grow(self, nkeys: int) -> None:
        """Have keys 0 to nkeys - 1 from now on, at least as many as before."""
        with self._lock:
            more = nkeys - len(self._at)
            if more > 0:
                self._at = np.concatenate([self._at, np.full(more, -1, np.int64)])
                self._size = np.concatenate([self._size, np.zeros(more, np.int64)])
                self._wanted = np.concatenate([self._wanted, np.zeros(more, np.uint8)])
                self._pins = np.concatenate([self._pins, np.zeros(more, np.int32)])

    def drop(self, keys: range) -> None:
        """Keep the lists of keys that nobody uses no more; the keys are free for others."""
        with self._lock:
            some = slice(keys.start, keys.stop)
            if (self._at[some] >= 0).any():
                self._order = deque(key for key in self._order if key not in keys)
            self._at[some], self._wanted[some] = -1, 0

    def holds(self, keys: Int64) -> npt.NDArray[np.bool_]:
        """Return which of the keys (n,) are kept."""
        with self._lock:
            held: npt.NDArray[np.bool_] = self._at[keys] >= 0
        return held

    def copy(self, key: int) -> Bytes | None:
        """Return a copy of a list's bytes; None if it is not kept."""
        with self._lock:
            at, size = int(self._at[key]), int(self._size[key])
            return None if at < 0 else self.buffer[at : at + size].copy()

    def pin(self, keys: Int64) -> Int64:
        """Count the keys as wanted, and hold those that are kept where they are.

        Returns
        -------
        ndarray of shape (n,), int64
            Byte of the buffer at which each begins; -1 where it is not kept.
        """
        with self._lock:
            at = lists.pin(keys, self._at, self._wanted, self._pins)
            self._age(len(keys))
        return at

    def unpin(self, keys: Int64) -> None:
        """Let go of keys that ``pin`` found, or ``keep`` kept."""
        with self._lock:
            lists.unpin(keys, self._pins)

    def ids(self, first: int, places: Int64) -> tuple[Int64, int]:
        """Ids of vectors whose lists of ids are kept, and count those lists as wanted.

        Parameters
        ----------
        first : int
            Key of the ids of list 0.
        places : ndarray of shape (n,), int64
            In any order; -1 is none.

        Returns
        -------
        ids : ndarray of shape (n,), int64
            NOT_KEPT where the list is not here; -1 for none.
        missing : int
            How many are not here.
        """
        with self._lock:
            ids, missing, counted = lists.read_ids(
                first, places, self._at, self._size, self._wanted, self.buffer
            )
            self._age(counted)
        return ids, missing

    def keep(self, keys: Int64, data: Bytes, offsets: Int64, sizes: Int64) -> None:
        """Copy lists from a buffer into the cache, those that are worth a place.

        Parameters
        ----------
        keys : ndarray of shape (n,), int64
            Distinct; those that are kept already are left alone.
        data : ndarray of uint8
        offsets, sizes : ndarray of shape (n,), int64
            Bytes of each list in ``data``.
        """
        with self._lock:
            if self._held_back_bytes and self._kept_bytes() >= self._most_bytes():
                return
            columns = zip(keys.tolist(), offsets.tolist(), sizes.tolist(), strict=True)
            for key, offset, size in columns:
                if self._at[key] >= 0 or not 0 < size <= len(self.buffer):
                    continue
                start = self._make_room(size, int(self._wanted[key]))
                if start is None:
                    continue
                self.buffer[start : start + size] = data[offset : offset + size]
                self._at[key], self._size[key] = start, size
                self._order.append(key)
                self._hand = start + size

    @property
    def kept_bytes(self) -> int:
        """Bytes of the lists that are kept."""
        with self._lock:
            return self._kept_bytes()

    def hold_back(self, size: int) -> None:
        """Leave ``size`` bytes of the capacity to others, until it is 0 again.

        As long as what is kept fills the rest, nothing more is kept.
        """
        with self._lock:
            self._held_back_bytes = size

    def release(self) -> None:
        """Give the memory back, and keep nothing any more.

        Lists that are pinned stay readable in the ``buffer`` that was taken before ``pin``.
        """
        with self._lock:
            self.buffer = np.empty(0, np.uint8)
            self._at[:] = -1
            self._order.clear()
            self._hand = 0

    def _kept_bytes(self) -> int:
        return int(self._size[np.asarray(self._order, np.int64)].sum())

    def _most_bytes(self) -> int:
        return len(self.buffer) - self._held_back_bytes

    def _age(self, counted: int) -> None:
        """Halve the counts now and then, after so many more."""
        self._counted += counted
        if self._counted > _AGING * len(self._wanted):
            self._wanted >>= 1
            self._counted = 0

    def _make_room(self, size: int, wanted: int) -> int | None:
        """A place for ``size`` bytes at the hand, if what lies there is wanted less often."""
        start, tries = self._hand, 0
        if start + size > len(self.buffer):
            self._pass_to_end()
            start = 0
        while self._order:
            key = self._order[0]
            at = int(self._at[key])
            if at >= start + size or at < start:  # free until there, or until the buffer's end
                break
            if self._pins[key] or self._wanted[key] > wanted:
                tries += 1
                self._order.rotate(-1)
                start = at + int(self._size[key])
                if start + size > len(self.buffer):
                    self._pass_to_end()
                    start = 0
                if tries == _TRIES:
                    self._hand = start
                    return None
            else:
                self._order.popleft()
                self._at[key] = -1
        return start

    def _pass_to_end(self) -> None:
        """Bring the key at the lowest place to the front: the hand goes on at the beginning."""
        if self._order:
            first = min(range(len(self._order)), key=lambda i: int(self._at[self._order[i]]))
            self._order.rotate(-first)
        self._hand = 0
