"""What the page cache holds of files.

A read with ``RWF_NOWAIT`` would tell as well, but the kernel then begins to read what is not
there, and who goes on to read it past the page cache makes the disk read it twice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.native import extensions as compiled

__all__ = ["cached_bytes", "knows_cached_bytes"]

Int64 = npt.NDArray[np.int64]


def cached_bytes(fds: Int64, offsets: Int64, lengths: Int64) -> Int64:
    """Bytes of the pages in [offset, offset + length) of files that the page cache holds.

    Parameters
    ----------
    fds, offsets, lengths : ndarray of shape (n,), int64

    Returns
    -------
    ndarray of shape (n,), int64

    Raises
    ------
    OSError
        The kernel cannot tell, or the compiled part is missing: cachestat(2) came with Linux 6.5.
    """
    if compiled.reading is None:
        raise OSError("not compiled")
    cached = np.empty(len(fds), np.int64)
    compiled.reading.cached(fds, offsets, lengths, cached)
    return cached


def knows_cached_bytes(fd: int) -> bool:
    """Whether this kernel, and the file's file system, can tell."""
    try:
        cached_bytes(np.array([fd]), np.array([0]), np.array([1]))
    except OSError:
        return False
    return True
