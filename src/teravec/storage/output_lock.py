"""The lock of an output: one command at a time writes it, from its first look to its last byte.

A build locks ``OUT/.lock``; a command that writes a file locks ``.FILE.lock`` beside it. The lock
covers all bytes of the lock file or, while rows are encoded, the bytes numbered like the rows. The
last holder removes the lock file. After a kill the file remains, nobody holds it, and the next
command uses it. Only the process that the user started holds the lock, not workers of a cluster.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from teravec.errors import MissingFile, OutputExists, storage_errors
from teravec.storage.files import make_directory
from teravec.storage.layout import IndexPaths, absolute
from teravec.storage.locks import NoLocks, lock_bytes, unlock, warn_of_no_locks

__all__ = ["LOCK_NAME", "hold_directory", "hold_file", "hold_index"]

LOCK_NAME = ".lock"
"""Name of the lock file in a directory that a command writes."""

_ALL = (0, 0)
_ATTEMPTS = 100  # to lock the lock file before another process removes it
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOWHERE = (errno.ENOENT, errno.ENOTDIR)


@contextmanager
def hold_file(output: Path) -> Iterator[None]:
    """Keep other commands from writing a file while the body runs.

    Raises
    ------
    OutputExists
        Another process is writing it now.
    """
    output = absolute(output)
    with _holding(output, output.with_name(f".{output.name}{LOCK_NAME}"), _ALL):
        yield


@contextmanager
def hold_directory(
    output: Path, rows: tuple[int, int] | None = None, *, create: bool = False
) -> Iterator[None]:
    """Keep other commands from writing into a directory while the body runs.

    Parameters
    ----------
    output : Path
    rows : tuple of int, optional
        Lock rows [start, stop) only: other processes may lock other rows meanwhile.
    create : bool
        Make the directory; it is removed again if the body leaves it empty.

    Raises
    ------
    OutputExists
        Another process is writing to it now.
    """
    output = absolute(output)
    span = _ALL if rows is None else (rows[0], rows[1] - rows[0])
    with storage_errors(output, "write"):
        missing = [p for p in (output, *output.parents) if not p.exists()] if create else []
    try:
        with _holding(output, output / LOCK_NAME, span, create=create):
            yield
    finally:
        with suppress(OSError):  # it holds the output
            for path in missing:
                path.rmdir()


@contextmanager
def hold_index(
    paths: IndexPaths, rows: tuple[int, int] | None = None, *, create: bool = False
) -> Iterator[None]:
    """Keep other commands from writing an index's files while the body runs, where it is local.

    Object stores have no locks. There, writers that meet lose work at most: a build's files have
    the same bytes whoever writes them, a change's names are its own, and versions are created once.
    """
    if paths.is_local:
        with hold_directory(paths.root, rows, create=create):
            yield
    else:
        yield


@contextmanager
def _holding(
    output: Path, lock: Path, span: tuple[int, int], *, create: bool = False
) -> Iterator[None]:
    with storage_errors(output, "write"):
        fd = _locked(output, lock, span, create=create)
    try:
        yield
    finally:
        if fd is not None:
            _release(fd, lock, span)


def _locked(output: Path, lock: Path, span: tuple[int, int], *, create: bool) -> int | None:
    """Open and lock the lock file; return None if there are no locks, or nothing can be written.

    Its last holder may remove it between opening and locking, and may have removed its directory
    before. Then try again.
    """
    for last in (*[False] * _ATTEMPTS, True):
        try:
            if create:
                make_directory(lock.parent)
            fd, shared = _opened(lock)
        except MissingFile:
            if last:
                raise
            continue
        except OSError as error:
            if error.errno == errno.ENOENT and create and not last:
                continue
            if error.errno in (*_READ_ONLY, *_NOWHERE):
                return None
            raise
        try:
            if not lock_bytes(fd, *span, shared=shared):
                raise OutputExists(
                    f"{output}: another process is writing there now; wait until it has ended, "
                    "or choose another output"
                )
            if os.path.samestat(os.fstat(fd), lock.stat()):
                return fd
        except FileNotFoundError:
            pass
        except NoLocks:
            lock.unlink(missing_ok=True)
            os.close(fd)
            warn_of_no_locks(str(lock.parent))
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise OutputExists(f"{output}: other processes come and go there; try again")


def _opened(lock: Path) -> tuple[int, bool]:
    """Open the lock file; return its descriptor, and whether it is read-only (another user's)."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(lock, flags | os.O_RDWR | os.O_CREAT, 0o644), False
    except OSError as error:
        if error.errno not in _READ_ONLY or not lock.exists():
            raise
    return os.open(lock, flags | os.O_RDONLY), True


def _release(fd: int, lock: Path, span: tuple[int, int]) -> None:
    try:
        # While others hold rows the file stays; they would not hold a new one.
        with suppress(OSError, NoLocks):
            if span == _ALL or lock_bytes(fd):
                lock.unlink(missing_ok=True)
        unlock(fd)
    finally:
        os.close(fd)
