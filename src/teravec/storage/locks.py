"""Locks between processes on bytes of a file: the system frees them when their process ends.

Locks of an open file description come first: they can cover a part of a file, and NFS and Lustre
know them on all machines. Where there are none, ``flock`` does; some file systems have neither.

References
----------
fcntl(2), "Open file description locks"; flock(2).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from functools import cache

from teravec.errors import storage_errors

__all__ = ["NoLocks", "try_lock", "unlock", "warn_of_no_locks"]

log = logging.getLogger(__name__)

_FLOCK = struct.Struct("@hhqqi4x")  # type, whence, start, length, pid
_HELD = (errno.EAGAIN, errno.EACCES)
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM,
                errno.EBADF)  # fmt: skip


class NoLocks(Exception):
    """The file system has no locks."""


def try_lock(fd: int, start: int = 0, length: int = 0, *, shared: bool = False) -> bool:
    """Lock bytes of a file, without waiting.

    Parameters
    ----------
    fd : int
        Open for writing; or for reading, if ``shared``.
    start, length : int
        Bytes to lock, which the file need not have; a length of 0 is all that follow.
    shared : bool
        Others may hold the bytes as well, if they share them.

    Returns
    -------
    bool
        False where another process, or another descriptor of this one, holds some of them.

    Raises
    ------
    NoLocks
    OSError
    """
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno not in _UNSUPPORTED:
            raise
        # Of a whole file only: ranges share it, and keep out whoever wants all of it.
        part = shared or (start, length) != (0, 0)
        return _try_flock(fd, fcntl.LOCK_SH if part else fcntl.LOCK_EX)
    return True


def _try_flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise NoLocks from error
        raise
    return True


def unlock(fd: int) -> None:
    """Free what was locked; a child of a fork may have the descriptor too."""
    with storage_errors(f"/proc/self/fd/{fd}", "unlock"):
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            fcntl.flock(fd, fcntl.LOCK_UN)


@cache
def warn_of_no_locks(directory: str) -> None:
    """Say, once, that nothing keeps two commands apart there."""
    log.warning(
        "%s: this file system has no locks: nothing keeps a second command from writing the same "
        "output at the same time; see that only one runs",
        directory,
    )  # fmt: skip
