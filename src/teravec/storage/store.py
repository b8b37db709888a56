"""Where the files of an index lie: one protocol for directories, object stores and tests.

A store holds sealed files by name. A name is a relative POSIX path, such as
``slices/00000.lists``; directories are only parts of names. The protocol asks for nothing that an
object store lacks: no rename, no lock, no append, no directory. A file exists when the store lists
its name, and it is then whole.

A store itself is a value: it compares by what it stands for, and it can be sent to another process.
What holds descriptors, connections or threads is opened from it and closed by whoever opened it: an
``OpenFile``, a ``Reader``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile, InvalidArgument

__all__ = [
    "UNFINISHED_AGE",
    "OpenFile",
    "Range",
    "Ranges",
    "ReadFiles",
    "Reader",
    "Sealed",
    "Store",
    "StorePath",
    "Verify",
    "Writer",
    "check_name",
    "check_size",
]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


class Sealed(NamedTuple):
    """What a manifest says of a file.

    Attributes
    ----------
    size : int
        Bytes of the file.
    seal : str
        A checksum of its content. Files of the same size and seal have the same content.
    """

    size: int
    seal: str


class OpenFile(Protocol):
    """A file open for reading at any position; threads may share it.

    Attributes
    ----------
    path : str
        Names the file in messages.
    size : int
        Bytes of the file.
    """

    path: str
    size: int

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes at ``offset``.

        Raises
        ------
        CorruptFile
            The file ends earlier.
        StorageError
        """
        ...

    def read_scattered(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill several buffers, one after another, with consecutive bytes at ``offset``."""
        for buffer in buffers:
            self.read_into(buffer, offset)
            offset += len(buffer)

    def read(self, length: int, offset: int) -> bytearray:
        """Read exactly ``length`` bytes at ``offset``, or raise as ``read_into`` does."""
        data = bytearray(length)
        self.read_into(memoryview(data), offset)
        return data

    def distrust(self) -> None:
        """Say that bytes which were read are not what they should be: no cache may keep them."""
        return

    def close(self) -> None:
        """Close the file; closing it again does nothing."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Writer(Protocol):
    """A file while it is written: each byte once, at any position."""

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        ...

    def reserve(self, size: int) -> None:
        """Reserve the file's space, so that a full disk shows before the work, not after it.

        Does nothing where the store cannot reserve.
        """
        ...

    def sync(self) -> None:
        """Make durable what was written so far, while the rest is still being computed."""
        ...


UNFINISHED_AGE = timedelta(days=1)
"""Age at which a write that has not ended counts as killed, in stores without locks."""

Verify = Callable[[OpenFile], None]
"""Reads back what was written, and raises if it is wrong."""


class ReadFiles:
    """Open files of one store, numbered from 0: made by ``Store.group``."""

    def __init__(self, files: Sequence[OpenFile]) -> None:
        self._files = list(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> OpenFile:
        return self._files[number]

    @cached_property
    def sizes(self) -> Int64:
        """Bytes of each file, (n,)."""
        return np.array([file.size for file in self._files], np.int64)


class Range(NamedTuple):
    """Bytes [offset, offset + length) of a file, and their first byte in a buffer."""

    file: OpenFile
    offset: int
    length: int
    at: int

    @property
    def needed(self) -> int:
        """Bytes that a read must return: the file may end before the range does."""
        return min(self.length, self.file.size - self.offset)


@dataclass(frozen=True)
class Ranges:
    """Ranges of files, and where in a buffer each goes; all multiples of the store's alignment.

    Parameters
    ----------
    files : ReadFiles
    file_nos, offsets, lengths, at : ndarray of shape (n,), int64
        Number of the file, its bytes [offset, offset + length), and first byte in the buffer.
    """

    files: ReadFiles
    file_nos: Int64
    offsets: Int64
    lengths: Int64
    at: Int64

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def needed(self) -> Int64:
        """Bytes that each read must return: a file may end before the range does."""
        needed: Int64 = np.minimum(self.lengths, self.files.sizes[self.file_nos] - self.offsets)
        return needed

    def one(self, i: int) -> Range:
        """Return one of the ranges."""
        file = self.files[int(self.file_nos[i])]
        return Range(file, int(self.offsets[i]), int(self.lengths[i]), int(self.at[i]))


class Reader(Protocol):
    """Reads many ranges at once; threads may share it."""

    def filled(
        self, ranges: Ranges, buffer: Bytes, stops: Sequence[int]
    ) -> Generator[int, None, None]:
        """Fill the ranges' places in a buffer, and report progress.

        No read writes to the buffer after the generator has ended or was closed.

        Parameters
        ----------
        ranges : Ranges
        buffer : ndarray of uint8
            Begins at a page (``aligned_buffer``).
        stops : sequence of int
            Ascending numbers of ranges; the last is the number of all ranges.

        Yields
        ------
        int
            One of ``stops``: all ranges before it are there. If several were reached together,
            only the highest is yielded.

        Raises
        ------
        CorruptFile
            A file ends before the bytes that it had when it was opened.
        StorageError
            A read failed; the message names the file.
        """
        ...

    def read(self, ranges: Ranges, buffer: Bytes) -> None:
        """Fill the ranges' places in a buffer, as ``filled`` does, and wait for all of them."""
        for _ in self.filled(ranges, buffer, [len(ranges)]):
            pass

    def close(self, *, wait: bool = True) -> None:
        """End threads and connections; ``wait`` until threads have ended."""
        ...


@runtime_checkable
class Store(Protocol):
    """Holds sealed files by name.

    ``tests/storage/store_suite.py`` states what every implementation must do.

    Attributes
    ----------
    gap_bytes : int
        Largest gap between two ranges for which one read of both is cheaper than two; -1 if
        readers of this store join ranges themselves, and want each as it is.
    depth : int
        Reads in flight that this store makes use of.
    alignment : int
        Offsets, lengths and places in the buffer of ``Ranges`` are multiples of it.
    """

    @property
    def gap_bytes(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def alignment(self) -> int: ...

    def locate(self, name: str) -> str:
        """Return how messages name a file: a path or an address; of "", the store's own."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def size(self, name: str) -> int:
        """Return the bytes of a file, or raise MissingFile."""
        ...

    def open(
        self,
        name: str,
        *,
        in_order: bool = False,
        sealed: Sealed | None = None,
        ahead: Sequence[tuple[int, int]] | None = None,
    ) -> OpenFile:
        """Open a file for reading, or raise MissingFile.

        Parameters
        ----------
        name : str
        in_order : bool
            The file will be read from front to back: reading ahead is worth it.
        sealed : Sealed, optional
            What the file is expected to be: spares a store the question. A missing file, or one of
            another size, may then show only when it is read.
        ahead : sequence of (start, stop), optional
            Ranges that will be read first, once each. Where waiting is long, the store begins to
            read them and does not wait for the answers: a missing file shows when it is read.
        """
        ...

    def group(self, files: Sequence[OpenFile]) -> ReadFiles:
        """Number open files of this store, so that a reader can read ranges of them.

        The files stay their owner's, and must stay open as long as they are read.
        """
        ...

    def reader(self) -> Reader:
        """Start a reader of ranges."""
        ...

    def publish(self, name: str, verify: Verify | None = None) -> AbstractContextManager[Writer]:
        """Write a file that appears under its name whole, verified and durable, or not at all.

        The body writes. Then the bytes are made durable, ``verify`` reads them back, and the file
        gets its name, in place of an earlier file of that name. If the body or ``verify`` raises,
        or the process is killed, the name is as it was before.

        Raises
        ------
        OutputExists
            Another process is writing this file now, if the store can tell.
        StorageError
        """
        ...

    def create(self, name: str, data: bytes) -> None:
        """Write a file only if its name is free: the commit of a version.

        Of several processes that create the same name at once, exactly one succeeds. The file
        appears whole and durable, or not at all.

        Raises
        ------
        AlreadyThere
            A file of this name exists; it is unchanged.
        StorageError
        """
        ...

    def names(self, prefix: str = "") -> list[str]:
        """List the names that begin with a prefix, ascending; unfinished files are not listed."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def remove_all(self, prefix: str) -> None:
        """Remove every file below ``prefix/``, unfinished ones too."""
        ...

    def remove_unfinished(self, prefix: str, older_than: timedelta = UNFINISHED_AGE) -> None:
        """Remove what killed writers left below ``prefix/``, but nothing that is being written.

        Parameters
        ----------
        prefix : str
            "" is the whole store.
        older_than : timedelta
            Where a store has no locks: what began within this time counts as being written.
        """
        ...


@dataclass(frozen=True)
class StorePath:
    """A name in a store, whether or not there is a file of that name.

    ``str`` of it is what messages show: a path or an address.

    Parameters
    ----------
    store : Store
    name : str
        Relative POSIX name; "" is the store itself.

    References
    ----------
    ``StorePath`` of zarr-python (``src/zarr/storage/_common.py``).
    """

    store: Store
    name: str

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(self.store, f"{self.name}/{name}" if self.name else name)

    def __str__(self) -> str:
        return self.store.locate(self.name)

    @property
    def last_name(self) -> str:
        """The name after its last slash."""
        return self.name.rpartition("/")[2]

    def exists(self) -> bool:
        """Whether there is a file of this name."""
        return self.store.exists(self.name)

    def open(self, *, in_order: bool = False, sealed: Sealed | None = None) -> OpenFile:
        """Open the file for reading; see ``Store.open``."""
        return self.store.open(self.name, in_order=in_order, sealed=sealed)

    def create(self, data: bytes) -> None:
        """Write the file only if its name is free; see ``Store.create``."""
        self.store.create(self.name, data)

    def publish(self, verify: Verify | None = None) -> AbstractContextManager[Writer]:
        """Write the file; see ``Store.publish``."""
        return self.store.publish(self.name, verify)

    def children(self) -> list[StorePath]:
        """List the files below this name, ascending."""
        prefix = f"{self.name}/" if self.name else ""
        return [StorePath(self.store, name) for name in self.store.names(prefix)]

    def remove(self) -> None:
        """Remove the file, if it is there."""
        self.store.remove(self.name)

    def remove_all(self) -> None:
        """Remove every file below this name."""
        self.store.remove_all(self.name)

    def remove_unfinished(self) -> None:
        """Remove what killed writers left below this name; see ``Store.remove_unfinished``."""
        self.store.remove_unfinished(self.name)


def check_name(name: str) -> None:
    """Raise InvalidArgument unless this is a relative POSIX name that stays below its store."""
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument(
            f"{name!r} found; a relative name such as slices/00000.lists expected"
        )


def check_size(file: OpenFile, expected: int) -> None:
    """Raise CorruptFile unless the file has exactly ``expected`` bytes."""
    if file.size != expected:
        raise CorruptFile(f"{file.path}: {file.size:,} bytes found, {expected:,} expected")
