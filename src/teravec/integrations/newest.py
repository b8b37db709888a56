"""An index at its newest version, for many threads that search while others change it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from teravec.index.manifest import list_versions
from teravec.search.index import Index, open_index
from teravec.storage.layout import IndexPaths
from teravec.storage.places import PlaceLike, place_of

__all__ = ["NewestIndex"]


@dataclass(eq=False)
class _Held:
    index: Index
    users: int = 0


class NewestIndex:
    """Opens an index when it is first needed, and goes to a new version when there is one.

    The files are closed by ``close``, or with the object.

    Parameters
    ----------
    place : path-like or Store
        The index need not exist yet.
    memory, threads
        As for ``teravec.open``.
    """

    def __init__(
        self, place: PlaceLike, *, memory: str | int | None = None, threads: int | None = None
    ) -> None:
        self.place = place_of(place, "the index")
        self._paths = IndexPaths(self.place)
        self._memory, self._threads = memory, threads
        self._lock = threading.Lock()
        self._newest: list[_Held] = []  # one, or none
        # Vector stores are dropped, not closed. The list outlives this object, so that the index
        # does not warn of having been dropped itself.
        weakref.finalize(self, _close_all, self._newest)

    @contextmanager
    def open(self) -> Iterator[Index | None]:
        """Hold the newest version open for the body; None if there is no index yet.

        Threads may hold it at the same time. A version that was replaced is closed after its last
        body.
        """
        with self._lock:
            held = self._go_to_newest()
            if held is not None:
                held.users += 1
        try:
            yield None if held is None else held.index
        finally:
            if held is not None:
                with self._lock:
                    held.users -= 1
                    if held not in self._newest and not held.users:
                        held.index.close()

    def _go_to_newest(self) -> _Held | None:
        numbers = list_versions(self._paths)
        if not self._newest:
            if not numbers and not self._paths.manifest.exists():
                return None
            index = open_index(self.place, memory=self._memory, threads=self._threads)
            self._newest.append(_Held(index))
        elif self._newest[0].index.version != (numbers or [0])[-1]:
            before = self._newest[0]
            self._newest[0] = _Held(before.index.at_version())
            if not before.users:
                before.index.close()
        return self._newest[0]

    def close(self) -> None:
        """Close the index, after the last body that holds it; ``open`` opens it again."""
        with self._lock:
            unused = [held for held in self._newest if not held.users]
            self._newest.clear()
        _close_all(unused)


def _close_all(held: list[_Held]) -> None:
    for each in held:
        each.index.close()
