"""Files of a store with a cache in front of it, and readers of many ranges of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from itertools import groupby

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import once
from teravec.errors import CorruptFile, StorageError
from teravec.storage.disk_cache import DiskCache
from teravec.storage.files import byte_view
from teravec.storage.held_ranges import HeldRanges
from teravec.storage.progress_of_ranges import Progress
from teravec.storage.store import OpenFile, Ranges, Reader, ReadFiles, Sealed, Store

__all__ = ["CachedFile", "CachedFiles", "CachedReader"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


class CachedFile(OpenFile):
    """A file of the store; what is read of it is kept in the cache, if it has a seal.

    Parameters
    ----------
    inner : OpenFile
        Of the store.
    cache : DiskCache, optional
        Not given: nothing is kept.
    sealed : Sealed, optional
    held : mapping of (start, stop) to bytes
        Ranges that will be read first, with their bytes; None where the cache has them not.
    """

    def __init__(
        self,
        inner: OpenFile,
        cache: DiskCache | None = None,
        sealed: Sealed | None = None,
        held: Mapping[tuple[int, int], memoryview | None] | None = None,
    ) -> None:
        self.path, self.inner = inner.path, inner
        self.cache, self.sealed = cache, sealed
        self.trusted = True
        self._first, self._held = dict(held or {}), HeldRanges()
        for part, data in self._first.items():
            self._hold(*part, data)

    @property
    def size(self) -> int:  # type: ignore[override]
        """Bytes of the file."""
        return self.inner.size

    def _hold(self, start: int, stop: int, data: memoryview | None) -> None:
        if data is not None:
            self._held.add(start, stop, lambda: data)
        else:
            self._held.add(start, stop, once(lambda: self._bring(start, stop)))

    def _bring(self, start: int, stop: int) -> memoryview:
        """Read a range from the store, and keep it."""
        data = memoryview(bytearray(stop - start))
        self.inner.read_into(data, start)
        if self.cache is not None and self.sealed is not None:
            self.cache.keep_range(self.sealed, start, stop, data)
        return data

    def read_into(self, buffer: memoryview, offset: int) -> None:
        if not len(buffer) or self._held.read_into(buffer, offset):
            return
        if self.cache is None or self.sealed is None:
            self.inner.read_into(buffer, offset)
            return
        stop = offset + len(buffer)
        data = self.cache.read_range(self.sealed, offset, stop) if self.trusted else None
        buffer[:] = self._bring(offset, stop) if data is None else data

    def distrust(self) -> None:
        """Read what follows from the store, and write it over what the cache has."""
        self.trusted = False
        self._held.clear()
        if self.cache is not None and self.sealed is not None:
            for part in self._first:
                self.cache.forget_range(self.sealed, *part)

    def close(self) -> None:
        self._held.clear()
        self.inner.close()


class CachedFiles(ReadFiles):
    """Files by number, and those behind them."""

    def __init__(self, store: Store, files: Sequence[OpenFile]) -> None:
        super().__init__(files)
        self._cached = [file for file in files if isinstance(file, CachedFile)]
        assert len(self._cached) == len(files), "a file of another store"
        self.inner: ReadFiles = store.group([file.inner for file in self._cached])

    def __getitem__(self, number: int) -> CachedFile:
        return self._cached[number]


class CachedReader(Reader):
    """Reads ranges from the cache, and what it has not from the store.

    Parameters
    ----------
    inner : Reader
        Of the store.
    """

    def __init__(self, inner: Reader) -> None:
        self._inner = inner

    def filled(
        self, ranges: Ranges, buffer: Bytes, stops: Sequence[int]
    ) -> Generator[int, None, None]:
        if not len(ranges):
            yield from stops[-1:]
            return
        there, progress = np.zeros(len(ranges), np.bool_), Progress(len(ranges), stops)
        for blocks in _blocks_of(ranges):
            if blocks.trusted:
                for numbers in blocks.read(buffer, stops):
                    there[numbers] = True
                    progress.mark(numbers)
                    yield from progress.reached()
        missing = np.flatnonzero(~there)
        if not len(missing):
            return
        counts = np.unique(np.searchsorted(missing, stops))
        start, left = 0, _part(ranges, missing, _files(ranges).inner)
        arriving = self._inner.filled(left, buffer, counts[counts > 0].tolist())
        with closing(arriving):
            for stop in arriving:
                arrived = missing[start:stop]
                for blocks in _blocks_of(ranges, arrived):
                    blocks.keep(buffer)
                progress.mark(arrived)
                yield from progress.reached()
                start = stop

    def close(self, *, wait: bool = True) -> None:
        self._inner.close(wait=wait)


class _Blocks:
    """Ranges of files that share a cache, as its blocks.

    Parameters
    ----------
    cache : DiskCache
    trusted : bool
        Whether what the cache has of them may be read.
    ranges : Ranges
    numbers : ndarray of shape (n,), int64
        Those of the ranges that these are.
    """

    def __init__(self, cache: DiskCache, trusted: bool, ranges: Ranges, numbers: Int64) -> None:
        self._cache, self.trusted, self._numbers = cache, trusted, numbers
        self._offsets, self._lengths = ranges.offsets[numbers], ranges.needed[numbers]
        self._at, files = ranges.at[numbers], _files(ranges)
        sealed = [files[number].sealed for number in ranges.file_nos[numbers].tolist()]
        self._keys = cache.keys([s for s in sealed if s is not None], self._offsets, self._lengths)

    def read(self, buffer: Bytes, stops: Sequence[int]) -> Generator[Int64, None, None]:
        """Read those that the cache has, and yield the numbers of the ranges that are there."""
        found = self._cache.find(self._keys)
        hits = np.flatnonzero(found.places >= 0)
        self._count_misses(np.flatnonzero(found.places < 0))
        if not len(hits):
            return
        columns = self._keys[hits], found.part(hits), self._lengths[hits], self._at[hits]
        counts = np.unique(np.searchsorted(self._numbers[hits], stops))
        arriving = self._cache.filled(*columns, buffer, counts[counts > 0].tolist())
        try:
            with closing(arriving):
                for start, stop, right in arriving:
                    some = hits[start:stop]
                    self._count_misses(some[~right])
                    self._write(some[right & found.old[some]], buffer)
                    yield self._numbers[some[right]]
        except (StorageError, CorruptFile) as error:  # what is left comes from the store
            self._cache.pause(error)

    def keep(self, buffer: Bytes) -> None:
        """Write the blocks to the cache; the buffer has them."""
        self._write(np.arange(len(self._numbers)), buffer)

    def _write(self, some: Int64, buffer: Bytes) -> None:
        if len(some):
            begins, view = self._at[some], byte_view(buffer)
            bounds = zip(begins.tolist(), (begins + self._lengths[some]).tolist(), strict=True)
            self._cache.keep(self._keys[some], [view[a:b] for a, b in bounds])

    def _count_misses(self, some: Int64) -> None:
        self._cache.counts.add(misses=len(some), miss_bytes=int(self._lengths[some].sum()))


def _blocks_of(ranges: Ranges, numbers: Int64 | None = None) -> list[_Blocks]:
    """Divide ranges by the caches of their files; ranges of files without one are left out."""
    files, found = _files(ranges), []
    numbers = np.arange(len(ranges)) if numbers is None else numbers
    wanted = ranges.file_nos[numbers]
    present = [(int(no), files[int(no)]) for no in np.unique(wanted)]
    kept = [(no, file.cache, file.trusted) for no, file in present if file.cache is not None]
    kept.sort(key=lambda each: (id(each[1]), each[2]))
    for (_, trusted), group in groupby(kept, key=lambda each: (id(each[1]), each[2])):
        mine = list(group)
        some = numbers[np.isin(wanted, [no for no, _, _ in mine])]
        found.append(_Blocks(mine[0][1], trusted, ranges, some))
    return found


def _files(ranges: Ranges) -> CachedFiles:
    assert isinstance(ranges.files, CachedFiles)
    return ranges.files


def _part(ranges: Ranges, numbers: Int64, files: ReadFiles) -> Ranges:
    columns = ranges.file_nos, ranges.offsets, ranges.lengths, ranges.at
    return Ranges(files, *(column[numbers] for column in columns))
