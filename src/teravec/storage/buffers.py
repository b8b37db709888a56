"""Memory for direct reads, used again and again.

Fresh memory costs a fault for each page when it is first written, and in a virtual machine often
one more of its host: reading 1.5 MB into it took a third longer.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

__all__ = ["Buffers", "aligned_buffer"]

Bytes = npt.NDArray[np.uint8]

_PAGE = 4096
_STEPS = 8  # sizes between a power of two and the next, so that a buffer fits its like


def aligned_buffer(size: int) -> Bytes:
    """Uninitialised bytes that begin at a page."""
    memory = np.empty(size + _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE
    return memory[start : start + size]


class Buffers:
    """Buffers that are lent; may be shared by threads.

    Parameters
    ----------
    most_bytes : int
        Of buffers that are kept while nobody has them.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: list[Bytes] = []  # by size
        self._lock = threading.Lock()

    def take(self, size: int) -> Bytes:
        """A buffer of at least so many bytes, of any content, that begins at a page."""
        with self._lock:
            for i, buffer in enumerate(self._kept):
                if buffer.size >= size:
                    return self._kept.pop(i)
        step = max(_PAGE, 1 << max(0, size.bit_length() - 1)) // _STEPS
        return aligned_buffer(-(-size // step) * step)

    def give_back(self, buffer: Bytes) -> None:
        """Take back what ``take`` gave, when nobody reads or writes it any more."""
        with self._lock:
            self._kept.append(buffer)
            self._kept.sort(key=len)
            kept_bytes = sum(map(len, self._kept))
            while kept_bytes > self._most_bytes:  # the smallest goes: a larger one serves as well
                kept_bytes -= len(self._kept.pop(0))

    def release(self) -> None:
        """Keep none from now on."""
        with self._lock:
            self._most_bytes = 0
            self._kept.clear()
