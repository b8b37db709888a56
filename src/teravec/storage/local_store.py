"""The store of a local file system: a directory."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, TypeVar

from teravec.errors import AlreadyThere, CorruptFile, MissingFile, OutputExists, storage_errors
from teravec.storage.files import (
    make_directory,
    publishing,
    remove_unlocked,
    reserve,
    sync_directory,
    sync_file,
    write_all,
)
from teravec.storage.local_file import ALIGNMENT, LocalFile, LocalFiles
from teravec.storage.locks import NoLocks, lock_file
from teravec.storage.range_reader import DEPTH, RangeReader
from teravec.storage.store import (
    UNFINISHED_AGE,
    OpenFile,
    Reader,
    Sealed,
    Store,
    StorePath,
    Verify,
    Writer,
    check_name,
)

__all__ = ["AnyPath", "LocalStore", "local_path", "open_file", "stored"]

# Errors of file systems without hard links, as some of networks and of user space.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
_UNFINISHED = ".tmp"
_ATTEMPTS = 10  # to make a directory that others may remove, because it is empty

T = TypeVar("T")

AnyPath = StorePath | Path
"""A name in a store, or a path of the local file system, as users give it."""


class _LocalWriter(Writer):
    """A file of ``publishing`` while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes | memoryview, offset: int) -> None:
        write_all(self._file, data, offset)

    def reserve(self, size: int) -> None:
        if size:
            reserve(self._file.fileno(), size)

    def sync(self) -> None:
        sync_file(self._file.fileno())


@dataclass(frozen=True)
class LocalStore(Store):
    """Files below a directory.

    Directories below ``root`` are made when a file needs them, and removed with their last file.
    Hidden files, and those that end in ``.tmp``, are none of the store's names.

    Parameters
    ----------
    root : Path
        The directory. It need not exist, but nothing can be written before it does.
    direct : bool
        Read past the page cache what it does not hold, where the file system can.
    ring : bool
        Read by io_uring, where the kernel has it.
    gap_bytes : int
        The default is that of a disk that nobody measured: 16 us per read, 0.44 ns per byte.
    """

    root: Path
    direct: bool = True
    ring: bool = True
    gap_bytes: int = 32 << 10

    def __str__(self) -> str:
        return str(self.root)

    @property
    def depth(self) -> int:
        return DEPTH

    @property
    def alignment(self) -> int:
        return ALIGNMENT

    def path(self, name: str) -> Path:
        """Return the path of a name."""
        check_name(name)
        return self.root / name

    def _directory(self, name: str) -> Path:
        """Return the path of a name; "" is the store's own directory."""
        return self.path(name) if name else self.root

    def locate(self, name: str) -> str:
        return str(self._directory(name))

    def exists(self, name: str) -> bool:
        path = self.path(name)
        with storage_errors(path, "read"):
            return _takes_a_name(path) if path.is_dir() else path.exists()

    def size(self, name: str) -> int:
        path = self.path(name)
        with storage_errors(path, "read"):
            try:
                return path.stat().st_size
            except NotADirectoryError as error:  # a file where the name has a directory
                raise FileNotFoundError from error

    def open(
        self,
        name: str,
        *,
        in_order: bool = False,
        sealed: Sealed | None = None,
        ahead: Sequence[tuple[int, int]] | None = None,
    ) -> OpenFile:
        return LocalFile(self.path(name), in_order=in_order)

    def group(self, files: Sequence[OpenFile]) -> LocalFiles:
        return LocalFiles(files)

    def reader(self) -> Reader:
        return RangeReader(direct=self.direct, ring=self.ring)

    @contextmanager
    def publish(self, name: str, verify: Verify | None = None) -> Iterator[Writer]:
        check = None if verify is None else _reopening(verify)
        with ExitStack() as stack:
            file = self._in_directory(
                name, lambda path: stack.enter_context(publishing(path, check))
            )
            yield _LocalWriter(file)

    def create(self, name: str, data: bytes) -> None:
        path = self.path(name)
        # A name of its own: writers of one version must not write to the same file.
        unfinished = f"{name}.{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}"
        with storage_errors(path, "write"):
            if path.exists():  # the usual way to lose a race
                raise _already_there(path)
            try:
                with self._in_directory(unfinished, _open_new) as file:
                    write_all(file, data, 0)
                    sync_file(file.fileno())
                    _check_bytes(self.path(unfinished), data)
                    linked = _link(self.path(unfinished), path)
            finally:
                self.path(unfinished).unlink(missing_ok=True)
        if linked:
            sync_directory(path.parent)
        else:
            self._create_under_lock(name, data)

    def _create_under_lock(self, name: str, data: bytes) -> None:
        """Write the bytes, and rename them while no other writer of this name is at work."""
        path = self.path(name)

        def check(file: OpenFile) -> None:
            _check_bytes(Path(file.path), data)
            if path.exists():
                raise _already_there(path)

        try:
            with self.publish(name, verify=check) as writer:
                writer.write(data, 0)
        except OutputExists as error:
            raise _already_there(path) from error

    def names(self, prefix: str = "") -> list[str]:
        directory = prefix.rpartition("/")[0]
        path = self._directory(directory)
        with storage_errors(path, "read"):
            found = _names_below(path, f"{directory}/" if directory else "")
            return sorted(name for name in found if name.startswith(prefix))

    def remove(self, name: str) -> None:
        path = self.path(name)
        with storage_errors(path, "remove"), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
        self._remove_empty(path.parent)

    def remove_all(self, prefix: str) -> None:
        path = self.path(prefix)
        with storage_errors(path, "remove"):
            if not path.is_dir():
                return
            shutil.rmtree(path)
        sync_directory(path.parent)

    def remove_unfinished(self, prefix: str, older_than: timedelta = UNFINISHED_AGE) -> None:
        directory = self._directory(prefix)
        with storage_errors(directory, "remove"):
            for path in directory.glob(f"**/*{_UNFINISHED}"):
                remove_unlocked(path)
        self._remove_empty(directory)

    def _in_directory(self, name: str, make: Callable[[Path], T]) -> T:
        """Make a file in its directory, which is made if it is missing."""
        path = self.path(name)
        for _ in range(_ATTEMPTS if "/" in name else 0):
            try:
                if self.root.is_dir():
                    make_directory(path.parent)
                with storage_errors(path, "write"):
                    return make(path)
            except MissingFile:  # another process removed its last file, and the directory
                if not self.root.is_dir():
                    raise
        with storage_errors(path, "write"):
            return make(path)

    def _remove_empty(self, directory: Path) -> None:
        """Remove a directory below the root, and those above it, as long as they are empty."""
        while directory != self.root:
            try:
                directory.rmdir()
            except OSError:  # it holds something else, or another process was quicker
                return
            directory = directory.parent
            with suppress(MissingFile):  # another process removed that one too
                sync_directory(directory)


def stored(path: AnyPath) -> StorePath:
    """Return a path as a name in a store: a local path in the store of its directory."""
    return path if isinstance(path, StorePath) else StorePath(LocalStore(path.parent), path.name)


def local_path(path: AnyPath) -> Path | None:
    """Return the path of a name in a local store; None if it lies in another kind of store."""
    if isinstance(path, Path):
        return path
    return path.store.path(path.name) if isinstance(path.store, LocalStore) else None


def open_file(
    file: OpenFile | AnyPath,
    *,
    in_order: bool = False,
    sealed: Sealed | None = None,
    ahead: Sequence[tuple[int, int]] | None = None,
) -> OpenFile:
    """Open a path for reading, as ``Store.open``; a file that is open is returned as it is."""
    if isinstance(file, StorePath | Path):
        path = stored(file)
        return path.store.open(path.name, in_order=in_order, sealed=sealed, ahead=ahead)
    return file


def _names_below(directory: Path, prefix: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name.endswith(_UNFINISHED):
            continue
        name = prefix + entry.name
        if entry.is_dir() and not _takes_a_name(Path(entry.path)):
            yield from _names_below(Path(entry.path), f"{name}/")
        else:
            yield name


def _takes_a_name(directory: Path) -> bool:
    """Whether an empty directory stands where a file belongs: then it must not go unnoticed.

    It counts as a file, and reading it is an error that names it. Directories of the store's own
    have no extension, or that of unfinished work; a kill may leave them empty.
    """
    return directory.suffix not in ("", ".partial") and not any(directory.iterdir())


def _reopening(verify: Verify) -> Callable[[Path], None]:
    def check(temporary: Path) -> None:
        with LocalFile(temporary) as file:
            verify(file)

    return check


def _open_new(path: Path) -> BinaryIO:
    """Open a new file, locked against ``remove_unfinished``."""
    file = path.open("xb", buffering=0)
    with suppress(NoLocks):
        lock_file(file.fileno())
    return file


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name, if that is free; return False if there are no hard links.

    Of several processes that link the same name, the file system lets one succeed. The name has
    all bytes at once.
    """
    try:
        target.hardlink_to(source)
    except FileExistsError as error:
        raise _already_there(target) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _check_bytes(path: Path, expected: bytes) -> None:
    with storage_errors(path, "read"):
        if path.read_bytes() != expected:
            raise CorruptFile(f"{path}: the bytes read back are not those written")


def _already_there(path: Path) -> AlreadyThere:
    return AlreadyThere(f"{path}: this name is taken, and stays as it is; a free name expected")
