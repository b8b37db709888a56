"""Exchanging the names of two directories, in one step where the file system can."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from teravec.errors import storage_errors
from teravec.storage.files import sync_directory

__all__ = ["exchange"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def exchange(first: Path, second: Path) -> None:
    """Exchange the names of two directories in the same parent, durably.

    If the file system cannot do it in one step, there is a moment without ``first``: its directory
    is then called by its name with ``.replaced`` appended.
    """
    with storage_errors(first, "replace"):
        if not _exchanged(first, second):
            aside = first.with_name(first.name + ".replaced")
            first.rename(aside)
            second.rename(first)
            aside.rename(second)
    sync_directory(first.parent)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange the names in one step; return False if the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number))
