"""Locks between processes; the system frees them when their process ends.

``flock`` locks a whole file. A lock of an open file description locks some of its bytes. NFS and
Lustre have both or, depending on how they are mounted, neither; some file systems have only one.
If one kind is missing, the other is used.

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
from collections.abc import Callable
from pathlib import Path

from teravec.errors import storage_errors

__all__ = ["NoLocks", "lock_bytes", "lock_file", "unlock", "warn_of_no_locks", "warned"]

log = logging.getLogger(__name__)

_FLOCK = struct.Struct("@hhqqi4x")  # type, whence, start, length, pid
_HELD = (errno.EAGAIN, errno.EACCES)
_UNSUPPORTED = (
    errno.ENOLCK,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EPERM,
    errno.EBADF,
)


class NoLocks(Exception):
    """The file system has no locks."""


def lock_bytes(fd: int, start: int = 0, length: int = 0, *, shared: bool = False) -> bool:
    """Lock bytes of a file, without waiting.

    Parameters
    ----------
    fd : int
        Open for writing; or for reading, if ``shared``.
    start, length : int
        Bytes to lock; they need not exist in the file. Length 0: all bytes from ``start`` on.
    shared : bool
        Other processes may hold shared locks of the same bytes.

    Returns
    -------
    bool
        False if another process, or another descriptor of this one, holds some of the bytes.

    Raises
    ------
    NoLocks
    OSError
    """
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    try:
        return _lock_bytes(fd, kind, start, length)
    except NoLocks:
        # flock locks whole files only: locks of ranges share the file, and exclude a lock of all.
        part = shared or (start, length) != (0, 0)
        return _flock(fd, fcntl.LOCK_SH if part else fcntl.LOCK_EX)


def lock_file(fd: int) -> bool:
    """Lock a file that is open for writing, without waiting; return False if another holds it.

    Raises
    ------
    NoLocks
    OSError
    """
    try:
        return _flock(fd, fcntl.LOCK_EX)
    except NoLocks:
        return _lock_bytes(fd, fcntl.F_WRLCK, 0, 0)


def _lock_bytes(fd: int, kind: int, start: int, length: int) -> bool:
    wanted = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    return _taken(lambda: fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted))


def _flock(fd: int, kind: int) -> bool:
    return _taken(lambda: fcntl.flock(fd, kind | fcntl.LOCK_NB))


def _taken(lock: Callable[[], object]) -> bool:
    try:
        lock()
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno in _UNSUPPORTED:
            raise NoLocks from error
        raise
    return True


def unlock(fd: int) -> None:
    """Free a lock explicitly: a child of a fork may hold the descriptor too."""
    with storage_errors(f"/proc/self/fd/{fd}", "unlock"):
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            fcntl.flock(fd, fcntl.LOCK_UN)


warned = set[int]()
"""Devices of file systems that were told of."""


def warn_of_no_locks(directory: str) -> None:
    """Warn, once for its file system, that nothing keeps two commands apart in a directory."""
    try:
        device = Path(directory).stat().st_dev
    except OSError:
        device = -1
    if device in warned:
        return
    warned.add(device)
    log.warning(
        "%s: this file system has no locks: nothing keeps a second command from writing the same "
        "output at the same time; see that only one runs",
        directory,
    )
