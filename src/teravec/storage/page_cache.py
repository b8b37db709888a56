"""What the page cache holds of files.

A read with ``RWF_NOWAIT`` would tell as well, but the kernel then begins to read what is not
there, and who goes on to read it past the page cache makes the disk read it twice.
"""

from __future__ import annotations

import numpy as np

from teravec.native.reads import cached_bytes

__all__ = ["cached_bytes", "knows_cached_bytes"]


def knows_cached_bytes(fd: int) -> bool:
    """Whether this kernel, and the file's file system, can tell."""
    try:
        cached_bytes(np.array([fd]), np.array([0]), np.array([1]))
    except OSError:
        return False
    return True
