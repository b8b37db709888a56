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

_OTHER_FILES = 256  # descriptors for everything else that a process holds
_FEWEST_OTHERS = 32  # of these, without which there is no use in trying
_MOST_BUFFERS = min(1024, os.sysconf("SC_IOV_MAX"))  # of one preadv

# What file systems of networks and of user space say of calls that they do not have. A disk that
# fails says EIO, ENOSPC or EDQUOT.
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
    with suppress(OSError):  # where /proc is not to be had, _OTHER_FILES must do
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
    with suppress(OSError, ValueError):  # a system may allow less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def sync_directory(path: Path) -> None:
    """Make renames and removals inside ``path`` durable, where its file system can."""
    with storage_errors(path, "sync"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:  # one that may be written to, and not be read
            return
        try:
            os.fsync(fd)
        except OSError as error:
            # CIFS, 9p and some of FUSE: their servers keep directories by themselves.
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise
            log.debug("%s: this file system does not sync directories", path)
        finally:
            os.close(fd)


def sync_file(fd: int) -> None:
    """Make a file's bytes durable; where its file system cannot, say so.

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
    """Reserve a file's space, so that a full disk is found before the work and not after it.

    Where the file system cannot, the disk is found full when it is.
    """
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (*_NOT_SUPPORTED, errno.ENODEV, errno.EPERM):
            raise


def make_directory(path: Path) -> None:
    """Create ``path`` and its parents where they are missing."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    with storage_errors(path, "create"):
        path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    with storage_errors(path, "remove"):
        path.unlink(missing_ok=True)


@contextmanager
def publishing(
    path: Path, verify: Callable[[Path], None] | None = None, *, executable: bool = False
) -> Iterator[BinaryIO]:
    """Write a file that appears under its name only when it is whole and on the disk.

    The body writes to ``NAME.tmp``, locked against other writers. Then: flush, fsync,
    ``verify(tmp)`` on the reopened file, rename, fsync of the directory. If the body or
    the verification raises, the temporary file is removed and ``path`` is untouched.

    Parameters
    ----------
    path : Path
        Final name; its directory exists.
    verify : callable, optional
        Given the temporary path after fsync; raises if the bytes read back are wrong.
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
            remove_unlocked(temporary)  # Ctrl-C may come before there is anything to close
            raise
    sync_directory(path.parent)


def byte_view(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array, without a copy; writable if the array is."""
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
        temporary.unlink(missing_ok=True)  # while its lock is ours
        raise


def remove_unlocked(temporary: Path) -> None:
    """Remove a temporary file that no writer holds."""
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

    Its last writer may have renamed or removed it between our opening and our locking: what
    we hold then is a sealed file or none, so open again.
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
    """Lock a file, where there are locks; False if another process has."""
    try:
        return lock_file(fd)
    except NoLocks:  # the lock of the whole output has said so
        return True


def write_all(file: BinaryIO, data: bytes | memoryview, offset: int) -> None:
    """``pwrite`` every byte of ``data`` at ``offset``."""
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
    """Fill ``buffer`` from ``offset``; a file that ends too early is CorruptFile."""
    view, position = buffer, offset
    with storage_errors(path, "read"):
        while len(view):
            count = os.preadv(fd, [view], position)
            if count == 0:
                raise CorruptFile(
                    f"{path}: ends at byte {position:,}; {offset + len(buffer):,} bytes expected"
                )
            view, position = view[count:], position + count
