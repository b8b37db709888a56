"""Which bytes of files the page cache holds.

A read with ``RWF_NOWAIT`` would tell as well. But the kernel then starts to read missing pages, and
a direct read of them afterwards makes the disk read them twice.
"""

from __future__ import annotations

import numpy as np

from teravec.native.reads import cached_bytes

__all__ = ["cached_bytes", "knows_cached_bytes"]


def knows_cached_bytes(fd: int) -> bool:
    """Whether the kernel and the file's file system can tell."""
    try:
        cached_bytes(np.array([fd]), np.array([0]), np.array([1]))
    except OSError:
        return False
    return True
