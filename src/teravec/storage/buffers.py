"""Memory for direct reads, used again and again.

The first write to each page of fresh memory costs a page fault, and in a virtual machine often one
more in the host: reading 1.5 MB into fresh memory took a third longer.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

__all__ = ["Buffers", "aligned_buffer"]

Bytes = npt.NDArray[np.uint8]

_PAGE = 4096
_STEPS = 8  # sizes between a power of two and the next: buffers of similar sizes are shared


def aligned_buffer(size: int) -> Bytes:
    """Return uninitialised bytes that begin at a page."""
    memory = np.empty(size + _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE
    return memory[start : start + size]


class Buffers:
    """A pool of buffers; threads may share it.

    Parameters
    ----------
    most_bytes : int
        Largest number of bytes in buffers that nobody uses now.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: list[Bytes] = []  # by size
        self._lock = threading.Lock()

    def take(self, size: int) -> Bytes:
        """Take a buffer of at least ``size`` bytes, with any content; it begins at a page."""
        with self._lock:
            for i, buffer in enumerate(self._kept):
                if buffer.size >= size:
                    return self._kept.pop(i)
        step = max(_PAGE, 1 << max(0, size.bit_length() - 1)) // _STEPS
        return aligned_buffer(-(-size // step) * step)

    def give_back(self, buffer: Bytes) -> None:
        """Return a buffer of ``take`` to the pool, when nobody reads or writes it any more."""
        with self._lock:
            self._kept.append(buffer)
            self._kept.sort(key=len)
            kept_bytes = sum(map(len, self._kept))
            while kept_bytes > self._most_bytes:  # drop the smallest: larger ones can replace it
                kept_bytes -= len(self._kept.pop(0))

    def release(self) -> None:
        """Free the buffers, and keep none from now on."""
        with self._lock:
            self._most_bytes = 0
            self._kept.clear()
