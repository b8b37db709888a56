"""The files of a cache on a local disk, and the moment in which processes lock them.

::

    cache.lock   shared by who uses the cache, exclusive while it is made
    cache.table  header of 4,096 bytes; then buckets of 16 entries of 32 bytes: key (16 bytes),
                 place, checksum
    cache.data   the ring

The header has magic, version, the ring's bytes and the number of buckets, with a checksum; at byte
512, how many bytes of the ring were ever taken, plus its length: so no block has place 0, which
empty entries have.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import weakref
from contextlib import suppress
from pathlib import Path

import xxhash

from teravec.errors import InvalidArgument, storage_errors
from teravec.storage.files import read_into
from teravec.storage.local_file import ALIGNMENT, LocalFile, LocalFiles
from teravec.storage.store import ReadFiles

__all__ = ["BUCKET_BYTES", "DEFAULT_BYTES", "ENTRIES", "LEAST_BYTES", "TABLE_START", "CacheFiles"]

log = logging.getLogger(__name__)

DEFAULT_BYTES = 16 << 30
LEAST_BYTES = 1 << 20

ENTRIES = 16
BUCKET_BYTES = 512
TABLE_START = 4096
_RING_PER_BUCKET = 32 << 10  # so that the table suffices for blocks of 2 KiB, and is 1.6 % of all
_MAGIC = b"TVCACHE\x00"
_VERSION = 1
_HEADER = struct.Struct("<8sQQQQ")
_TAKEN_AT = 512
_TAKEN = struct.Struct("<Q")


class CacheFiles:
    """The open files of a cache.

    Parameters
    ----------
    directory : Path
        Made if it is missing.
    cache_bytes : int, optional
        Bytes of all files together. Not given: what the cache has, or DEFAULT_BYTES.

    Attributes
    ----------
    ring_bytes, nbuckets : int

    Raises
    ------
    InvalidArgument
        Too few bytes.
    StorageError
    """

    def __init__(self, directory: Path, cache_bytes: int | None) -> None:
        if cache_bytes is not None and cache_bytes < LEAST_BYTES:
            raise InvalidArgument(
                f"a cache of {cache_bytes:,} bytes; at least {LEAST_BYTES:,} expected"
            )
        self.directory = directory
        self._lock = threading.Lock()
        with storage_errors(directory, "write"):
            directory.mkdir(parents=True, exist_ok=True)
            users = os.open(directory / "cache.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fds = [users]
            weakref.finalize(self, _close_all, fds)
            alone = _lock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not alone:
                _lock(users, fcntl.LOCK_SH)  # waits for who is making it
            self.ring_bytes, self.nbuckets = self._prepare(cache_bytes, alone=alone)
            _lock(users, fcntl.LOCK_SH)
            for name in ("cache.table", "cache.data"):
                fds.append(os.open(directory / name, os.O_RDWR | os.O_CLOEXEC))
        _, self.table_fd, self.data_fd = fds
        self._readable = [LocalFile(directory / n) for n in ("cache.table", "cache.data")]
        self.group: ReadFiles = LocalFiles(self._readable)
        weakref.finalize(self, _close_files, self._readable)

    def _prepare(self, cache_bytes: int | None, *, alone: bool) -> tuple[int, int]:
        """Return the sizes of ring and table, of the files that are there or are made now."""
        found = self._read_header()
        wanted = _divide(DEFAULT_BYTES if cache_bytes is None else cache_bytes)
        if found is not None and (cache_bytes is None or found == wanted):
            return found
        if found is not None and not alone:
            log.warning(
                "%s: other processes use this cache with %s bytes, and %s were asked for; it stays "
                "as it is until they end",
                self.directory,
                f"{_total(*found):,}",
                f"{cache_bytes:,}",
            )
            return found
        self._make(*wanted)
        return wanted

    def _read_header(self) -> tuple[int, int] | None:
        """Return the sizes that the files have; None if there are none, or no whole ones."""
        try:
            with (self.directory / "cache.table").open("rb") as file:
                data = file.read(_HEADER.size)
            magic, version, ring_bytes, nbuckets, checksum = _HEADER.unpack(data)
            sizes = [(self.directory / n).stat().st_size for n in ("cache.table", "cache.data")]
        except (FileNotFoundError, struct.error):
            return None
        whole = xxhash.xxh3_64_intdigest(data[:-8]) == checksum
        if (magic, version) != (_MAGIC, _VERSION) or not whole:
            return None
        fits = sizes == [TABLE_START + nbuckets * BUCKET_BYTES, ring_bytes]
        return (ring_bytes, nbuckets) if fits else None

    def _make(self, ring_bytes: int, nbuckets: int) -> None:
        """Make empty files; the table comes last, and is then whole."""
        head = _HEADER.pack(_MAGIC, _VERSION, ring_bytes, nbuckets, 0)[:-8]
        head += xxhash.xxh3_64_intdigest(head).to_bytes(8, "little")
        table, data = self.directory / "cache.table", self.directory / "cache.data"
        for path in (table, data):
            with suppress(FileNotFoundError):
                os.truncate(path, 0)  # frees the space, also if somebody has the file open
                path.unlink()
        _make_sparse(data, ring_bytes, b"")
        made = table.with_suffix(".table.tmp")
        head = head.ljust(_TAKEN_AT, b"\0") + _TAKEN.pack(ring_bytes)
        _make_sparse(made, TABLE_START + nbuckets * BUCKET_BYTES, head)
        made.rename(table)

    def taken(self) -> int:
        """Return how many bytes of the ring were ever taken, and its length."""
        data = memoryview(bytearray(_TAKEN.size))
        read_into(self.table_fd, data, _TAKEN_AT, str(self.directory / "cache.table"))
        return int(_TAKEN.unpack(data)[0])

    def take(self, size: int) -> int:
        """Take consecutive bytes of the ring; return their place, which counts all ever taken."""
        assert 0 < size <= self.ring_bytes
        assert size % ALIGNMENT == 0
        with self._lock, storage_errors(self.directory, "write"):
            _lock(self.table_fd, fcntl.LOCK_EX)
            try:
                place = self.taken()
                left = -place % self.ring_bytes
                if 0 < left < size:  # the rest of the ring is too short
                    place += left
                os.pwrite(self.table_fd, _TAKEN.pack(place + size), _TAKEN_AT)
            finally:
                _lock(self.table_fd, fcntl.LOCK_UN)
        return place


def _divide(cache_bytes: int) -> tuple[int, int]:
    """Return the bytes of the ring, and the number of buckets of its table."""
    nbuckets = cache_bytes // _RING_PER_BUCKET
    ring_bytes = cache_bytes - TABLE_START - nbuckets * BUCKET_BYTES - ALIGNMENT
    return ring_bytes // ALIGNMENT * ALIGNMENT, nbuckets


def _total(ring_bytes: int, nbuckets: int) -> int:
    return ring_bytes + TABLE_START + nbuckets * BUCKET_BYTES


def _make_sparse(path: Path, size: int, head: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(fd, size)
        os.pwrite(fd, head, 0)
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    """Lock or unlock a file; True where there are no locks: checksums find what goes wrong then."""
    try:
        fcntl.flock(fd, kind)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def _close_files(files: list[LocalFile]) -> None:
    for file in files:
        file.close()
