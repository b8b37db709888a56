"""Versions of an index that are open at the same time, while a server goes over to a new one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from teravec.errors import OtherIndex
from teravec.serving.server.served import ServedIndex

__all__ = ["Versions"]


class Versions:
    """The current version, and the previous one for requests that were made for it.

    A version is closed when a later one has taken its place and its last request is answered.

    Parameters
    ----------
    first : ServedIndex
    """

    def __init__(self, first: ServedIndex) -> None:
        self._lock = threading.Lock()
        self._open = [first]  # at most two: previous, current
        self._users: dict[int, int] = {}
        self._retired: list[ServedIndex] = []

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
            self._close_unused()

    def replace(self, index: ServedIndex) -> None:
        """Make ``index`` the current version; what was current stays as the previous one."""
        with self._lock:
            self._retired += self._open[:-1]
            self._open = [self._open[-1], index]
        self._close_unused()

    def close(self) -> None:
        """Close every version that nobody uses; others with their last request."""
        with self._lock:
            self._retired += self._open
            self._open = self._open[-1:]
        self._close_unused()

    def _close_unused(self) -> None:
        with self._lock:
            unused = [s for s in self._retired if not self._users.get(id(s))]
            self._retired = [s for s in self._retired if s not in unused]
            for index in unused:
                self._users.pop(id(index), None)
        for index in unused:
            index.close()
