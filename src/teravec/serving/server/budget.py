"""The bytes that requests and answers of a server may hold, from their arrival until they are sent.

Memory that large requests took goes back to the system from here, and only from here.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from teravec.errors import Busy

__all__ = ["Budget", "Share", "release_memory"]

_LARGE_BYTES = 1 << 20  # a request that held so much leaves free memory behind that is worth it
# Trimming holds up allocations for some ten milliseconds: it waits for a pause, but not for long.
_TRIM_AFTER_S, _TRIM_AT_LEAST_S = 0.5, 5.0


class Budget:
    """Bytes held together by everything that has a share.

    Parameters
    ----------
    most_bytes : int
        One share alone may be larger: each single request has a bound of its own.
    always_bytes : int
        A share up to this size counts, but is never refused. So large requests cannot shut out
        small ones, or a coordinator's questions about a server's state.
    """

    def __init__(self, most_bytes: int, always_bytes: int = 0) -> None:
        self.most_bytes, self.always_bytes = most_bytes, always_bytes
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._trim: threading.Timer | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes that all shares hold now."""
        return self._held_bytes

    @contextmanager
    def share(self) -> Iterator[Share]:
        """A share for one request; it holds nothing any more when the body ends."""
        share = Share(self)
        try:
            yield share
        finally:
            share.hold(0)
            if share.peak_bytes >= _LARGE_BYTES:
                self._trim_soon()

    def change(self, held_bytes: int, wanted_bytes: int) -> None:
        """Let a share that holds ``held_bytes`` hold ``wanted_bytes``; Busy where they do not fit.

        Giving bytes back always succeeds.
        """
        with self._lock:
            others = self._held_bytes - held_bytes
            is_full = others and others + wanted_bytes > self.most_bytes
            if is_full and wanted_bytes > max(held_bytes, self.always_bytes):
                raise Busy(
                    f"requests and answers here hold {others:,} bytes, this one needs "
                    f"{wanted_bytes:,}, and all may hold {self.most_bytes:,} (--max-waiting); "
                    "try again soon, or send less at a time"
                )
            self._held_bytes = others + wanted_bytes

    def _trim_soon(self) -> None:
        with self._lock:
            if self._trim is None:
                self._trim_after(time.monotonic() + _TRIM_AT_LEAST_S)

    def _trim_after(self, latest_s: float) -> None:
        self._trim = threading.Timer(_TRIM_AFTER_S, self._trim_now, [latest_s])
        self._trim.daemon = True
        self._trim.start()

    def _trim_now(self, latest_s: float) -> None:
        with self._lock:
            self._trim = None
            if self._held_bytes >= _LARGE_BYTES and time.monotonic() < latest_s:
                self._trim_after(latest_s)
                return
        release_memory()


class Share:
    """What one request holds of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = self.peak_bytes = 0

    def hold(self, size: int) -> None:
        """Hold ``size`` bytes instead of what was held; Busy where they do not fit."""
        self._budget.change(self._bytes, size)
        self._bytes = size
        self.peak_bytes = max(self.peak_bytes, size)


def release_memory() -> None:
    """Give memory that was freed back to the system."""
    pa.default_memory_pool().release_unused()
    if _malloc_trim is not None:
        _malloc_trim(0)


# glibc keeps what was freed in arenas of each thread; musl has no such call and needs none.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
