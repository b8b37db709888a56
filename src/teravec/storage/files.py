"""Durable publishing and exact reading of files."""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile, OutputExists, StorageError, storage_errors
from teravec.storage.locks import NoLocks, lock_file

__all__ = [
    "allow_most_open_files",
    "allow_open_files",
    "byte_view",
    "make_directory",
    "open_to_read",
    "publishing",
    "read_into",
    "read_scattered",
    "remove",
    "remove_unlocked",
    "reserve",
    "sync_directory",
    "sync_file",
    "write_all",
]

log = logging.getLogger(__name__)

_OTHER_FILES = 256  # descriptors for everything else in the process
_FEWEST_OTHERS = 32  # with fewer than these there is no point in trying
_MOST_BUFFERS = min(1024, os.sysconf("SC_IOV_MAX"))  # largest number of buffers of one preadv

# Errors of calls that a file system does not have, as those of networks and of user space. A disk
# that fails returns EIO, ENOSPC or EDQUOT.
_NOT_SUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)
_NO_DIRECTORY_SYNC = (*_NOT_SUPPORTED, errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM)


def allow_open_files(count: int) -> None:
    """Raise this process's limit on descriptors, so that ``count`` more files can be open.

    Raises
    ------
    StorageError
        The system allows fewer.
    """
    wanted = count + _OTHER_FILES
    with suppress(OSError):  # without /proc, _OTHER_FILES must suffice
        wanted += len(list(Path("/proc/self/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            if hard < count + _FEWEST_OTHERS:
                raise StorageError(
                    f"{count:,} files must be open at once, and {_FEWEST_OTHERS} others; this "
                    f"system allows {hard:,} descriptors a process (ulimit -Hn)"
                )
            wanted = hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def allow_most_open_files() -> None:
    """Raise this process's limit on descriptors as far as the system lets it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):  # a system may allow less than its own limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def sync_directory(path: Path) -> None:
    """Make renames and removals inside a directory durable, if its file system can."""
    with storage_errors(path, "sync"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:  # a directory may be writable but not readable
            return
        try:
            os.fsync(fd)
        except OSError as error:
            # On CIFS, 9p and some FUSE systems the server makes directories durable by itself.
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise
            log.debug("%s: this file system does not sync directories", path)
        finally:
            os.close(fd)


def sync_file(fd: int) -> None:
    """Make a file's bytes durable; warn if its file system cannot.

    Raises
    ------
    OSError
        The disk failed.
    """
    for sync in (os.fsync, os.fdatasync):
        try:
            sync(fd)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
        else:
            return
    _warn_of_no_sync()


@cache
def _warn_of_no_sync() -> None:
    log.warning(
        "this file system cannot sync files: what is written may be lost if the machine fails"
    )


def reserve(fd: int, size: int) -> None:
    """Reserve a file's space, so that a full disk shows before the work, not after it.

    If the file system cannot reserve, a full disk shows when a write fails.
    """
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (*_NOT_SUPPORTED, errno.ENODEV, errno.EPERM):
            raise


def make_directory(path: Path) -> None:
    """Create a directory and its parents, durably, where they are missing."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    with storage_errors(path, "create"):
        try:
            path.mkdir()
        except FileExistsError:
            # Another process made it meanwhile, and a third may have removed it since: then whoever
            # writes into it finds it missing, and begins again.
            if not path.is_dir() and os.path.lexists(path):
                raise
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file, if it exists."""
    with storage_errors(path, "remove"):
        path.unlink(missing_ok=True)


@contextmanager
def publishing(
    path: Path, verify: Callable[[Path], None] | None = None, *, executable: bool = False
) -> Iterator[BinaryIO]:
    """Write a file that appears under its name only when it is complete and on the disk.

    The body writes to ``NAME.tmp``, which is locked against other writers. Then the file is synced,
    verified by ``verify``, renamed, and its directory is synced. If the body or the verification
    raises, the temporary file is removed and ``path`` is unchanged.

    Parameters
    ----------
    path : Path
        Final name; its directory exists.
    verify : callable, optional
        Called with the temporary path after the sync; raises if the bytes read back are wrong.
    executable : bool
        Let users run the file.

    Raises
    ------
    OutputExists
        Another process is writing the same file now.
    StorageError
        No space, no permission, or a failed write.
    """
    temporary = path.with_name(path.name + ".tmp")
    with storage_errors(path, "write"):
        try:
            with os.fdopen(_locked(temporary, path), "r+b", buffering=0) as file:
                if executable:
                    os.fchmod(file.fileno(), 0o755)
                yield from _filling(file, temporary, path, verify)
        except OutputExists:
            raise
        except BaseException:
            remove_unlocked(temporary)  # Ctrl-C may come before the file object exists
            raise
    sync_directory(path.parent)


def byte_view(array: npt.NDArray[Any]) -> memoryview:
    """Return the bytes of a C-contiguous array, without a copy; writable if the array is."""
    return array.reshape(-1).view(np.uint8).data


def _filling(
    file: BinaryIO, temporary: Path, path: Path, verify: Callable[[Path], None] | None
) -> Iterator[BinaryIO]:
    try:
        os.ftruncate(file.fileno(), 0)
        yield file
        sync_file(file.fileno())
        if verify is not None:
            verify(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # while this process holds the lock
        raise


def remove_unlocked(temporary: Path) -> None:
    """Remove a temporary file, unless a writer holds its lock."""
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _is_ours(fd):
            temporary.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _locked(temporary: Path, path: Path) -> int:
    """Open and lock the temporary file.

    Between opening and locking, its last writer may have renamed or removed it. The open file is
    then a sealed file, or has no name, and another one is opened.
    """
    while True:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not _is_ours(fd):
                raise OutputExists(f"{path}: another process is writing this file now")
            if os.path.samestat(os.fstat(fd), temporary.stat()):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_ours(fd: int) -> bool:
    """Lock a file, if its file system has locks; return False if another process holds it."""
    try:
        return lock_file(fd)
    except NoLocks:  # the lock of the whole output has warned of it
        return True


def write_all(file: BinaryIO, data: bytes | memoryview, offset: int) -> None:
    """Write every byte of ``data`` at ``offset``, in as many calls as it takes."""
    view = memoryview(data)
    fd = file.fileno()
    while len(view):
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def open_to_read(path: Path, *, in_order: bool = False) -> int:
    """Open a file that must exist, and return its descriptor.

    Parameters
    ----------
    path : Path
    in_order : bool
        The file will be read from front to back. Otherwise the kernel is told not to read ahead:
        lists are read at random, and read-ahead would fetch megabytes to answer for kilobytes.
    """
    with storage_errors(path, "read"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except NotADirectoryError as error:  # a file where the path has a directory
            raise FileNotFoundError from error
    if not in_order:
        with suppress(OSError):  # it is advice
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    return fd


def read_scattered(fd: int, views: Sequence[memoryview], offset: int, path: str | Path) -> None:
    """Fill several buffers, one after another, from consecutive bytes at ``offset``.

    Raises
    ------
    CorruptFile
        The file ends too early.
    StorageError
    """
    for start in range(0, len(views), _MOST_BUFFERS):
        part = views[start : start + _MOST_BUFFERS]
        wanted = sum(map(len, part))
        with storage_errors(path, "read"):
            count = os.preadv(fd, part, offset)
        if count < wanted:  # the end of the file, or a read that was cut short
            for view in part:
                read_into(fd, view, offset, path)
                offset += len(view)
        else:
            offset += wanted


def read_into(fd: int, buffer: memoryview, offset: int, path: str | Path) -> None:
    """Fill ``buffer`` from ``offset``; raise CorruptFile if the file ends too early."""
    position, end = offset, offset + len(buffer)
    while position < end:
        try:  # some sources read every few rows: no context manager on this way
            count = os.preadv(fd, [buffer[position - offset :]], position)
        except OSError:
            with storage_errors(path, "read"):
                raise
        if count == 0:
            raise CorruptFile(f"{path}: ends at byte {position:,}; {end:,} bytes expected")
        position += count
