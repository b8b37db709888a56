"""Versions of an index that are open at the same time, while a server goes over to a new one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from teravec.errors import OtherIndex
from teravec.serving.server.served import ServedIndex

__all__ = ["IDLE_S", "Versions"]

IDLE_S = 60.0


class Versions:
    """The current version, and the previous one for requests that were made for it.

    They share the current version's memory: the previous one gives its caches up, and the
    current one leaves room for the previous one's model. The previous version is closed when
    nobody has wanted it for a while, or when a later one has taken its place; in either case
    after its last request.

    Parameters
    ----------
    first : ServedIndex
    idle_s : float
        How long nobody must have wanted the previous version.
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
        self._open = [first]  # at most two: previous, current
        self._users: dict[int, int] = {}
        self._retired: list[ServedIndex] = []
        self._wanted_at_s = 0.0  # when the previous one was wanted last
        self._timer: threading.Timer | None = None

    @property
    def current(self) -> ServedIndex:
        """The version that new searches use."""
        return self._open[-1]

    @property
    def open(self) -> tuple[ServedIndex, ...]:
        """All versions that are served, the current one last."""
        return tuple(self._open)

    @contextmanager
    def using(self, version: str | None = None) -> Iterator[ServedIndex]:
        """Hold a version open, the current one if none is named.

        Raises
        ------
        OtherIndex
            Names the versions that are served.
        """
        with self._lock:
            named = [s for s in self._open if version is None or s.version == version]
            if not named:
                served = " and ".join(s.version for s in self._open)
                raise OtherIndex(f"index version {version} asked for, {served} served")
            index = named[-1]
            self._users[id(index)] = self._users.get(id(index), 0) + 1
        try:
            yield index
        finally:
            with self._lock:
                self._users[id(index)] -= 1
                if index is not self._open[-1]:
                    self._wanted_at_s = time.monotonic()
            if self._retired:
                self._close_unused()

    def want(self, versions: Iterable[str]) -> set[str]:
        """Note that a coordinator makes requests for these; return those that are not open."""
        with self._lock:
            wanted = set(versions)
            if self._open[0].version in wanted:
                self._wanted_at_s = time.monotonic()
            return wanted - {index.version for index in self._open}

    def add_previous(self, index: ServedIndex) -> bool:
        """Serve ``index`` as the previous version; False if there is one, or it is the current."""
        with self._lock:
            if len(self._open) > 1 or index.version == self._open[0].version:
                return False
            current = self._open[0]
            self._open = [index, current]
            current.hold_back(index.model_bytes)
            self._wanted_at_s = time.monotonic()
            self._look_again(self._idle_s)
        index.release_caches()
        return True

    def replace(self, index: ServedIndex) -> None:
        """Make ``index`` the current version; what was current stays as the previous one."""
        with self._lock:
            self._retired += self._open[:-1]
            previous = self._open[-1]
            self._open = [previous, index]
            index.hold_back(previous.model_bytes)
            self._wanted_at_s = time.monotonic()
            self._look_again(self._idle_s)
        previous.release_caches()
        self._close_unused()

    def close(self) -> None:
        """Close every version that nobody uses; others with their last request."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._retired += self._open
            self._open = self._open[-1:]
        self._close_unused()

    def _look_again(self, after_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(after_s, self._retire_previous)
        self._timer.name, self._timer.daemon = "teravec-versions", True
        self._timer.start()

    def _retire_previous(self) -> None:
        """Close the previous version if nobody has wanted it for long enough."""
        with self._lock:
            if len(self._open) == 1 or self._timer is not threading.current_thread():
                return
            previous, current = self._open
            left_s = self._wanted_at_s + self._idle_s - time.monotonic()
            if left_s > 0 or self._users.get(id(previous)):
                self._look_again(max(left_s, self._idle_s / 4, 0.05))
                return
            self._open, self._retired = [current], [*self._retired, previous]
            current.hold_back(0)
        self._close_unused()

    def _close_unused(self) -> None:
        with self._lock:
            unused = [s for s in self._retired if not self._users.get(id(s))]
            self._retired = [s for s in self._retired if s not in unused]
            for index in unused:
                self._users.pop(id(index), None)
        for index in unused:
            index.close()
        if unused and self._tell_closed is not None:
            self._tell_closed()
