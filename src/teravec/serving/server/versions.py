"""Versions of an index that are open at the same time, while a server goes over to new ones."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from teravec.errors import OtherIndex
from teravec.serving.server.served import ServedIndex

__all__ = ["IDLE_S", "MOST_OPEN", "Versions"]

IDLE_S = 60.0
MOST_OPEN = 8
"""Versions of one index that are open at a time; they share model, files and caches."""

_LATELY_S = 2.0  # a coordinator polls twice a second, and names the versions that it wants
_MOST_NUMBERS = 256


@dataclass(eq=False)
class _Open:
    """An open version, and who wants it."""

    index: ServedIndex
    users: int = 0
    until_s: float = 0.0  # when it may be closed
    polled_at_s: float = -_LATELY_S  # when a coordinator wanted it last


class Versions:
    """The current version, and earlier ones for requests that were made for them.

    All share the current version's memory. An earlier version of the same index shares its caches,
    and several may be open. An index that replaced another one shares nothing: the previous one
    gives its caches up, and the current one leaves room for its model. An earlier version is
    closed when nobody has wanted it for a while, or when later ones need its place; in either case
    after its last request.

    Parameters
    ----------
    first : ServedIndex
    idle_s : float
        How long nobody must have wanted an earlier version.
    closed : callable, optional
        Called whenever a version was closed.
    """

    def __init__(
        self,
        first: ServedIndex,
        *,
        idle_s: float = IDLE_S,
        closed: Callable[[], None] | None = None,
    ) -> None:
        self._idle_s, self._tell_closed = idle_s, closed
        self._lock = threading.Lock()
        self._switched = threading.Condition(self._lock)
        self._open = [_Open(first)]  # the current one last
        self._retired: list[_Open] = []
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._note_number(first)
        self._timer: threading.Timer | None = None
        self.switched_at = time.time()

    @property
    def current(self) -> ServedIndex:
        """The version that new searches use."""
        return self._open[-1].index

    @property
    def open(self) -> tuple[ServedIndex, ...]:
        """All versions that are served, the current one last."""
        return tuple(each.index for each in self._open)

    @property
    def beside_bytes(self) -> int:
        """Memory that the open versions do not share: of the next one, this is beside it."""
        return sum(each.index.own_bytes for each in self._open)

    def number_of(self, version: str) -> int | None:
        """Return the number of a version that is or was open; None if it is long since closed."""
        return self._numbers.get(version)

    @contextmanager
    def using(self, version: str | None = None, *, keep_s: float = 0.0) -> Iterator[ServedIndex]:
        """Hold a version open, the current one if none is named.

        Parameters
        ----------
        version : str, optional
        keep_s : float
            How long an earlier version is kept open afterwards at least, if nothing needs its
            place.

        Raises
        ------
        OtherIndex
            Names the versions that are served.
        """
        with self._lock:
            found = self._find(version)
            if found is None:
                served = " and ".join(each.index.version for each in self._open)
                raise OtherIndex(f"index version {version} asked for, {served} served")
            found.users += 1
        try:
            yield found.index
        finally:
            with self._lock:
                found.users -= 1
                if found is not self._open[-1]:
                    self._want(found, keep_s)
            if self._retired:
                self._close_unused()

    def _find(self, version: str | None) -> _Open | None:
        named = (each for each in reversed(self._open) if version in (None, each.index.version))
        return next(named, None)

    def wait_for(self, number: int, timeout_s: float) -> bool:
        """Wait until the current version has at least this number; False if it has not by then."""
        with self._switched:
            return self._switched.wait_for(lambda: self.current.number >= number, timeout_s)

    def want(self, versions: Iterable[str]) -> set[str]:
        """Note that a coordinator makes requests for these; return those that are not open."""
        with self._lock:
            wanted = set(versions)
            for each in self._open[:-1]:
                if each.index.version in wanted:
                    each.polled_at_s = time.monotonic()
                    self._want(each)
            return wanted - {each.index.version for each in self._open}

    def has_room(self) -> bool:
        """Whether one more version may be opened; False while coordinators want all others."""
        with self._lock:
            return len(self._open) < MOST_OPEN or self._replaceable() is not None

    def add(self, index: ServedIndex) -> bool:
        """Serve an earlier version beside the current one; False if there is no place for it."""
        with self._lock:
            if self._find(index.version) is not None:
                return False
            shares = index.shares_with(self.current)
            if not shares and len(self._open) > 1:
                return False
            if not shares:
                self.current.hold_back(index.model_bytes)
            elif len(self._open) >= MOST_OPEN:
                oldest = self._replaceable()
                if oldest is None:
                    return False
                self._retire(oldest)
            added = _Open(index)
            self._open.insert(0, added)
            self._note_number(index)
            self._want(added)
        if not shares:
            index.release_caches()
        self._close_unused()
        return True

    def replace(self, index: ServedIndex) -> None:
        """Make ``index`` the current version; what was current stays as an earlier one."""
        with self._switched:
            previous = self._open[-1]
            shares = index.shares_with(previous.index)
            if not shares:
                self._retired += self._open[:-1]
                self._open = [previous]
                index.hold_back(previous.index.model_bytes)
            elif len(self._open) >= MOST_OPEN:
                self._retire(self._replaceable() or self._open[0])
            self._open.append(_Open(index))
            self._note_number(index)
            self._want(previous)
            self.switched_at = time.time()
            self._switched.notify_all()
        if not shares:
            previous.index.release_caches()
        self._close_unused()

    def close(self) -> None:
        """Close every version that nobody uses; others with their last request."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._retired += self._open
            self._open = self._open[-1:]
        self._close_unused()

    def _retire(self, each: _Open) -> None:
        self._open.remove(each)
        self._retired.append(each)

    def _note_number(self, index: ServedIndex) -> None:
        self._numbers[index.version] = index.number
        self._numbers.move_to_end(index.version)
        if len(self._numbers) > _MOST_NUMBERS:
            self._numbers.popitem(last=False)

    def _replaceable(self) -> _Open | None:
        """Find the earlier version that no coordinator wants, and others want least."""
        lately_s = time.monotonic() - _LATELY_S
        free = [each for each in self._open[:-1] if each.polled_at_s < lately_s]
        return min(free, key=lambda each: each.until_s, default=None)

    def _want(self, each: _Open, least_s: float = 0.0) -> None:
        """Keep a version for as long as nobody must want it, from now on."""
        each.until_s = max(each.until_s, time.monotonic() + max(self._idle_s, least_s))
        if self._timer is None or not self._timer.is_alive():
            self._look_again(self._idle_s)

    def _look_again(self, after_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(after_s, self._retire_unwanted)
        self._timer.name, self._timer.daemon = "teravec-versions", True
        self._timer.start()

    def _retire_unwanted(self) -> None:
        """Close the earlier versions that nobody has wanted for long enough."""
        with self._lock:
            if self._timer is not threading.current_thread():
                return
            now_s, *earlier = time.monotonic(), *self._open[:-1]
            unwanted = [each for each in earlier if each.until_s <= now_s and not each.users]
            self._open = [each for each in self._open if each not in unwanted]
            self._retired += unwanted
            if unwanted and len(self._open) == 1:
                self.current.hold_back(0)
            left_s = [each.until_s - now_s for each in self._open[:-1]]
            self._timer = None
            if left_s:
                self._look_again(max(min(left_s), self._idle_s / 4, 0.05))
        self._close_unused()

    def _close_unused(self) -> None:
        with self._lock:
            unused = [each for each in self._retired if not each.users]
            self._retired = [each for each in self._retired if each.users]
        for each in unused:
            each.index.close()
        if unused and self._tell_closed is not None:
            self._tell_closed()
