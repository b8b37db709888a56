"""Fairness between callers: whose request is next, and how much of a bound one caller may hold.

A caller is named by its token. Callers without a name are one caller, and have no share.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["FairQueue", "FairShares", "Waiting"]

_ALPHA = 3  # a lone caller may hold three quarters, and n callers 3n / (3n + 1) together
_MOST_ENDS = 1024  # remembered of callers that may wait for nothing now


class FairShares:
    """What each caller holds of something bounded, such as the places in a queue.

    A named caller may take more only while it holds less than three times what is free. So the last
    places are for callers that hold none. Without others, one caller may hold three quarters.

    Not locked: its owner has a lock.

    Parameters
    ----------
    most : int
        Bound of all callers together.

    References
    ----------
    Choudhury, Hahne, Dynamic queue length thresholds for shared-memory packet switches, 1998.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[str, int] = {}

    def may_take(self, caller: str, size: int, held_by_all: int, growing: int = 0) -> bool:
        """Whether a caller may take ``size`` more.

        A caller's only request may always, for which ``growing`` is what that request holds.
        """
        held = self._held.get(caller, 0)
        return held <= growing or held + size <= _ALPHA * (self._most - held_by_all - size)

    def add(self, caller: str, size: int) -> None:
        """Count what a caller takes, or (negative) gives back."""
        if not caller:
            return
        held = self._held.get(caller, 0) + size
        if held:
            self._held[caller] = held
        else:
            self._held.pop(caller, None)


class Waiting(Protocol):
    """What waits in a queue: its caller's name, and how much work it is."""

    caller: str
    work: int


T = TypeVar("T", bound=Waiting)


class FairQueue(Generic[T]):
    """Waiting items; their callers take turns by the work that each has had.

    An item's start tag is when its caller's previous item would end if each caller had a processor
    of its own. The lowest tag is next. Items of one caller stay in order. A caller that comes back
    after a pause has no credit.

    References
    ----------
    Goyal, Vin, Cheng, Start-time fair queueing, 1996.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, T]] = []  # start tag, number, item
        self._ends: dict[str, int] = {}  # of each caller's last item
        self._now = self._number = 0  # now: the highest start tag that was taken

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        """Items, the next one first."""
        return (item for _, _, item in self._entries)

    def append(self, item: T) -> None:
        """Add an item behind its caller's others."""
        start = self._ends.get(item.caller, 0)
        if start < self._now:
            start = self._now
        self._number += 1
        self._ends[item.caller] = start + item.work + 1
        entry = start, self._number, item
        if not self._entries or self._entries[-1] < entry:
            self._entries.append(entry)
        else:
            insort(self._entries, entry)

    def take(self, item: T) -> None:
        """Take an item out because its work begins."""
        start = self._pop(item)
        if start > self._now:
            self._now = start
        if len(self._ends) > _MOST_ENDS:
            self._ends = {caller: end for caller, end in self._ends.items() if end > self._now}

    def give_up(self, item: T) -> bool:
        """Take an item out without its work; False if it is not here."""
        return self._pop(item) >= 0

    def _pop(self, item: T) -> int:
        """Remove an item; return its start tag, or -1 if it is not here."""
        for place, (start, _, each) in enumerate(self._entries):
            if each is item:
                del self._entries[place]
                return start
        return -1
