"""What the page cache holds of a file.

A read with ``RWF_NOWAIT`` would tell as well, but the kernel then begins to read what is not
there, and who goes on to read it past the page cache makes the disk read it twice.
"""

from __future__ import annotations

import ctypes
import mmap
import os

__all__ = ["cached_bytes", "knows_cached_bytes"]

_CACHESTAT = 451  # cachestat(2), since Linux 6.5; the same number on every architecture
_libc = ctypes.CDLL(None, use_errno=True)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Stat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def cached_bytes(fd: int, offset: int, length: int) -> int:
    """Bytes of the pages in [offset, offset + length) that the page cache holds.

    Raises
    ------
    OSError
        The kernel cannot tell.
    """
    stat = _Stat()
    wanted = _Range(offset, length)
    result = _libc.syscall(
        ctypes.c_long(_CACHESTAT), ctypes.c_int(fd), ctypes.byref(wanted), ctypes.byref(stat), 0
    )
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(stat.cached) * mmap.PAGESIZE


def knows_cached_bytes(fd: int) -> bool:
    """Whether this kernel, and the file's file system, can tell."""
    try:
        cached_bytes(fd, 0, 1)
    except OSError:
        return False
    return True
