"""The bytes that a server's requests and answers may take, from arrival until they are sent.

This module alone returns the memory of large requests to the system.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from teravec.errors import Busy
from teravec.serving.server.fairness import FairShares

__all__ = ["Budget", "Share", "release_memory"]

_LARGE_BYTES = 1 << 20  # a request of this size leaves enough free memory to trim
# Trimming blocks allocations for some ten milliseconds, so it waits for a pause, but not for long.
_TRIM_AFTER_S, _TRIM_AT_LEAST_S = 0.5, 5.0


class Budget:
    """The bytes of all shares together.

    Parameters
    ----------
    most_bytes : int
        Limit of all shares together. A lone share may exceed it: each request has its own bound.
    always_bytes : int
        A share up to this size counts, but is never refused. Large requests therefore cannot shut
        out small ones, or a coordinator's health checks.
    release : callable
        Returns freed memory to the system; called in a pause after large requests.
    pause_s : float
        Length of such a pause.
    """

    def __init__(
        self,
        most_bytes: int,
        always_bytes: int = 0,
        *,
        release: Callable[[], None] | None = None,
        pause_s: float = _TRIM_AFTER_S,
    ) -> None:
        self.most_bytes, self.always_bytes = most_bytes, always_bytes
        self._release, self._pause_s = release or release_memory, pause_s
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._shares = FairShares(most_bytes)
        self._trim: threading.Timer | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes of all shares now."""
        return self._held_bytes

    @contextmanager
    def share(self, caller: str = "") -> Iterator[Share]:
        """Yield a share for one request; its bytes are released when the body ends.

        A named caller may hold only some of all bytes: see ``FairShares``.
        """
        share = Share(self, caller)
        try:
            yield share
        finally:
            share.close()

    def change(self, held_bytes: int, wanted_bytes: int, caller: str = "") -> None:
        """Change a share from ``held_bytes`` to ``wanted_bytes``; raises Busy if they do not fit.

        Releasing bytes always succeeds.
        """
        with self._lock:
            others = self._held_bytes - held_bytes
            more = wanted_bytes - held_bytes
            is_full = others and (
                others + wanted_bytes > self.most_bytes
                or not self._shares.may_take(caller, more, self._held_bytes, held_bytes)
            )
            if is_full and wanted_bytes > max(held_bytes, self.always_bytes):
                raise Busy(
                    f"requests and answers here hold {others:,} bytes, this one needs "
                    f"{wanted_bytes:,}, and all may hold {self.most_bytes:,} (--max-waiting); "
                    "try again soon, or send less at a time"
                )
            self._held_bytes = others + wanted_bytes
            self._shares.add(caller, more)

    def move(self, held_bytes: int, wanted_bytes: int) -> None:
        """Change what is held without asking: its bytes were admitted as parts of a share."""
        with self._lock:
            self._held_bytes += wanted_bytes - held_bytes

    def trim_soon(self) -> None:
        """Return freed memory to the system in the next pause."""
        with self._lock:
            if self._trim is None:
                self._trim_after(time.monotonic() + _TRIM_AT_LEAST_S)

    def _trim_after(self, latest_s: float) -> None:
        self._trim = threading.Timer(self._pause_s, self._trim_now, [latest_s])
        self._trim.daemon = True
        self._trim.start()

    def _trim_now(self, latest_s: float) -> None:
        with self._lock:
            self._trim = None
            if self._held_bytes >= _LARGE_BYTES and time.monotonic() < latest_s:
                self._trim_after(latest_s)
                return
        self._release()


class Share:
    """One request's part of a budget."""

    def __init__(self, budget: Budget, caller: str = "") -> None:
        self._budget, self._caller = budget, caller
        self.bytes = self.peak_bytes = 0

    def hold(self, size: int) -> None:
        """Set the share to ``size`` bytes; raises Busy if they do not fit."""
        self._budget.change(self.bytes, size, self._caller)
        self.bytes = size
        if size > self.peak_bytes:
            self.peak_bytes = size

    def close(self) -> None:
        """Release the bytes; after a large request, their memory goes back to the system."""
        self.hold(0)
        if self.peak_bytes >= _LARGE_BYTES:
            self._budget.trim_soon()


def release_memory() -> None:
    """Return freed memory to the system."""
    pa.default_memory_pool().release_unused()
    if _malloc_trim is not None:
        _malloc_trim(0)


# glibc keeps freed memory in per-thread arenas; musl has no such call and needs none.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
