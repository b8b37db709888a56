"""A cache on a local disk: blocks of sealed files in a ring, and a table of where they are.

A directory has one cache, which processes share. A new block goes where the ring's oldest ones lie.
The table leads from a block's key, a hash, to a bucket of entries; an entry has the block's place
and its checksum, seeded with the key. So nothing need be durable or whole, and nothing is locked
but the moment in which a process takes its part of the ring: a block that was overwritten, cut by a
kill or damaged has another checksum, and is not there.

Places count all bytes that were ever taken; the byte of the ring is their remainder. A block that
is found in the oldest quarter of the ring is written once more, so what is wanted often stays.

References
----------
Berg et al., The CacheLib Caching Engine, OSDI 2020: a ring with reinsertion on a flash disk.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
import weakref
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import CorruptFile, StorageError, storage_errors
from teravec.storage.buffers import aligned_buffer
from teravec.storage.cache_counts import CacheCounts, counts_of
from teravec.storage.cache_files import BUCKET_BYTES, ENTRIES, TABLE_START, CacheFiles
from teravec.storage.files import byte_view
from teravec.storage.local_file import ALIGNMENT
from teravec.storage.range_reader import RangeReader
from teravec.storage.store import Ranges, Sealed

__all__ = ["PAUSE_S", "DiskCache", "Found", "disk_cache"]

log = logging.getLogger(__name__)

PAUSE_S = 60.0
"""How long nothing is written after a write failed, as on a full disk."""

_TABLE, _DATA = 0, 1  # numbers of the files
_ENTRY = struct.Struct("<QQQQ")
_KEY = struct.Struct("<Qqq")
_AT_ONCE = 2048  # buckets read together
_LARGEST = 4  # a block takes at most this share of the ring,
_REINSERTED = 4  # and one in the oldest such share is written again
_MOST_BUFFERS = 1000  # of one call that writes; the system's limit is 1,024

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


class Found(NamedTuple):
    """Where blocks lie in the cache, (n,) each.

    Attributes
    ----------
    places : ndarray of int64
        -1 for a block that is not there.
    checksums : ndarray of uint64
    old : ndarray of bool
        Which are soon overwritten.
    """

    places: Int64
    checksums: UInt64
    old: npt.NDArray[np.bool_]

    def part(self, some: Int64) -> Found:
        """Return some of them."""
        return Found(self.places[some], self.checksums[some], self.old[some])


class DiskCache:
    """Finds, reads and keeps blocks; threads and processes may share it.

    Blocks lie in buffers at multiples of ALIGNMENT, and may be overwritten up to the next one.

    Parameters
    ----------
    directory : Path
    cache_bytes : int, optional
        See ``CacheFiles``.

    Attributes
    ----------
    counts : CacheCounts
        Of this process.

    Raises
    ------
    InvalidArgument, StorageError
    """

    def __init__(self, directory: Path, cache_bytes: int | None = None) -> None:
        self._files = CacheFiles(directory, cache_bytes)
        self._reader = RangeReader()
        self.counts: CacheCounts = counts_of(str(directory))
        self._paused_until, self._warned = 0.0, False
        weakref.finalize(self, self._reader.close, wait=False)

    @property
    def block_bytes(self) -> int:
        """Bytes of the largest block that is kept."""
        return self._files.ring_bytes // _LARGEST // ALIGNMENT * ALIGNMENT

    @staticmethod
    def keys(sealed: Sequence[Sealed], offsets: Int64, lengths: Int64) -> UInt64:
        """Return the keys of blocks, (n, 2): content of a file, and range of its bytes."""
        columns = zip(sealed, offsets.tolist(), lengths.tolist(), strict=True)
        digests = [
            xxhash.xxh3_128_digest(_KEY.pack(file.size, offset, length) + file.seal.encode())
            for file, offset, length in columns
        ]
        return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)

    def find(self, keys: UInt64) -> Found:
        """Look for blocks by their keys, (n, 2); whether their bytes are right, reading tells."""
        places = np.full(len(keys), -1, np.int64)
        checksums = np.zeros(len(keys), np.uint64)
        taken = self._files.taken()
        for start in range(0, len(keys), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            entries = self._read_buckets(keys[some])
            same = (entries[:, :, :2] == keys[some, None, :]).all(axis=2)
            rows = np.flatnonzero(same.any(axis=1))
            found = entries[rows, same[rows].argmax(axis=1)]
            places[start + rows], checksums[start + rows] = (
                found[:, 2].astype(np.int64),
                found[:, 3],
            )
        ages = taken - places
        places[(ages > self._files.ring_bytes) | (ages <= 0)] = -1
        old = ages > self._files.ring_bytes - self._files.ring_bytes // _REINSERTED
        return Found(places, checksums, old & (places >= 0))

    def _read_buckets(self, keys: UInt64) -> UInt64:
        """Return the entries of keys' buckets, (n, ENTRIES, 4)."""
        buckets = (keys[:, 0] % np.uint64(self._files.nbuckets)).astype(np.int64)
        buffer = aligned_buffer(len(keys) * BUCKET_BYTES)
        at = np.arange(len(keys)) * BUCKET_BYTES
        offsets = TABLE_START + buckets * BUCKET_BYTES
        lengths = np.full(len(keys), BUCKET_BYTES)
        if len(keys):
            ranges = Ranges(self._files.group, at * 0 + _TABLE, offsets, lengths, at)
            self._reader.read(ranges, buffer)
        return buffer.view("<u8").reshape(len(keys), ENTRIES, 4)

    def filled(
        self,
        keys: UInt64,
        found: Found,
        lengths: Int64,
        at: Int64,
        buffer: Bytes,
        stops: Sequence[int],
    ) -> Generator[tuple[int, int, npt.NDArray[np.bool_]], None, None]:
        """Read blocks that were found, (n,), to places in a buffer, and check them.

        Yields
        ------
        start, stop : int
            Blocks that have arrived, ascending.
        right : ndarray of shape (stop - start,), bool
            Which of them have their checksums.

        Raises
        ------
        StorageError, CorruptFile
            The cache cannot be read.
        """
        view = byte_view(buffer)
        offsets = found.places % self._files.ring_bytes
        padded = -(-lengths // ALIGNMENT) * ALIGNMENT
        ranges = Ranges(self._files.group, offsets * 0 + _DATA, offsets, padded, at)
        start = 0
        for stop in self._reader.filled(ranges, buffer, stops):
            columns = at[start:stop].tolist(), lengths[start:stop].tolist(), keys[start:stop, 0]
            sums = [
                xxhash.xxh3_64_intdigest(view[begin : begin + length], int(seed))
                for begin, length, seed in zip(*columns, strict=True)
            ]
            right = np.array(sums, np.uint64) == found.checksums[start:stop]
            hits = lengths[start:stop][right]
            self.counts.add(hits=len(hits), hit_bytes=int(hits.sum()), damaged=int((~right).sum()))
            yield start, stop, right
            start = stop

    def keep(self, keys: UInt64, blocks: Sequence[memoryview]) -> None:
        """Write blocks, or as many as there is a place for; failures are a warning.

        Parameters
        ----------
        keys : ndarray of shape (n, 2), uint64
        blocks : sequence of memoryview
        """
        if time.monotonic() < self._paused_until:
            return
        left, some = self.block_bytes, []
        for number, block in enumerate(blocks):
            if 0 < len(block) <= left - ALIGNMENT:
                some.append(number)
                left -= -(-len(block) // ALIGNMENT) * ALIGNMENT
        try:
            for start in range(0, len(some), _MOST_BUFFERS // 2):
                mine = some[start : start + _MOST_BUFFERS // 2]
                self._write(keys[mine], [blocks[i] for i in mine])
        except StorageError as error:
            self.pause(error)

    def pause(self, error: Exception) -> None:
        """Stop writing for a while; say so once."""
        self._paused_until = time.monotonic() + PAUSE_S
        say = log.debug if self._warned else log.warning
        self._warned = True
        say("%s; the search goes on without keeping more in this cache", error)

    def _write(self, keys: UInt64, blocks: Sequence[memoryview]) -> None:
        pads = [bytes(-len(block) % ALIGNMENT) for block in blocks]
        sizes = np.array([len(b) + len(p) for b, p in zip(blocks, pads, strict=True)], np.int64)
        place = self._files.take(int(sizes.sum()))
        pieces = [piece for pair in zip(blocks, pads, strict=True) for piece in pair]
        data = self._files.directory / "cache.data"
        with storage_errors(data, "write"):
            _write_pieces(self._files.data_fd, pieces, place % self._files.ring_bytes)
            places = (place + np.cumsum(sizes) - sizes).tolist()
            for (low, high), where, block in zip(keys.tolist(), places, blocks, strict=True):
                checksum = xxhash.xxh3_64_intdigest(block, low)
                self._enter(low, high, where, checksum)
        self.counts.add(kept_bytes=int(sizes.sum()))

    def _enter(self, low: int, high: int, place: int, checksum: int) -> None:
        """Write an entry over that of the same key, or over the bucket's oldest one."""
        bucket, entries = self._bucket(low)
        mine = min(range(ENTRIES), key=lambda i: (entries[i][:2] != (low, high), entries[i][2]))
        entry = _ENTRY.pack(low, high, place, checksum)
        os.pwrite(self._files.table_fd, entry, bucket + mine * _ENTRY.size)

    def _bucket(self, low: int) -> tuple[int, list[tuple[int, ...]]]:
        """Return where a key's bucket begins, and its entries."""
        bucket = TABLE_START + low % self._files.nbuckets * BUCKET_BYTES
        data = os.pread(self._files.table_fd, BUCKET_BYTES, bucket)
        return bucket, [_ENTRY.unpack_from(data, i * _ENTRY.size) for i in range(ENTRIES)]

    def read_range(self, sealed: Sealed, start: int, stop: int) -> memoryview | None:
        """Return a block; None if it is not there, or not as it was written."""
        key, length = self._key(sealed, start, stop), stop - start
        try:
            data = self._read_block(key, length)
        except (StorageError, CorruptFile) as error:
            self.pause(error)
            data = None
        if data is None:
            self.counts.add(misses=1, miss_bytes=length)
        return data

    def _read_block(self, key: UInt64, length: int) -> memoryview | None:
        found = self.find(key)
        if found.places[0] < 0:
            return None
        buffer, lengths = aligned_buffer(length + ALIGNMENT), np.array([length], np.int64)
        [(_, _, right)] = self.filled(key, found, lengths, lengths * 0, buffer, [1])
        block = byte_view(buffer)[:length]
        if right[0] and found.old[0]:
            self.keep(key, [block])
        return block if right[0] else None

    def keep_range(self, sealed: Sealed, start: int, stop: int, data: memoryview) -> None:
        """Write a block; see ``keep``."""
        self.keep(self._key(sealed, start, stop), [data])

    def forget_range(self, sealed: Sealed, start: int, stop: int) -> None:
        """Take a block's entry away, if it has one."""
        [(low, high)] = self._key(sealed, start, stop).tolist()
        try:
            bucket, entries = self._bucket(low)
            for number, entry in enumerate(entries):
                if entry[:2] == (low, high):
                    where = bucket + number * _ENTRY.size
                    os.pwrite(self._files.table_fd, bytes(_ENTRY.size), where)
        except OSError as error:
            self.pause(error)

    def _key(self, sealed: Sealed, start: int, stop: int) -> UInt64:
        return self.keys([sealed], np.array([start]), np.array([stop - start]))


def _write_pieces(fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> None:
    """Write pieces one after another at an offset."""
    written = os.pwritev(fd, pieces, offset)
    if written == sum(map(len, pieces)):
        return
    rest = memoryview(b"".join(pieces))[written:]  # rare: the disk is nearly full
    while len(rest):
        offset += written
        written = os.pwrite(fd, rest, offset)
        rest = rest[written:]


_caches: weakref.WeakValueDictionary[tuple[str, int | None, int], DiskCache] = (
    weakref.WeakValueDictionary()
)
_caches_lock = threading.Lock()


def disk_cache(directory: str, cache_bytes: int | None) -> DiskCache:
    """Return this process's cache in a directory; it is closed when nobody has it any more.

    Raises
    ------
    InvalidArgument, StorageError
    """
    key = directory, cache_bytes, os.getpid()
    with _caches_lock:
        cache = _caches.get(key)
        if cache is None:
            cache = _caches[key] = DiskCache(Path(directory), cache_bytes)
        return cache
