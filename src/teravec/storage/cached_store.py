"""A cache on a local disk in front of any store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from teravec.errors import MissingFile, StorageError
from teravec.storage.cached_files import CachedFile, CachedFiles, CachedReader
from teravec.storage.disk_cache import DiskCache, disk_cache
from teravec.storage.local_file import ALIGNMENT
from teravec.storage.store import OpenFile, Reader, ReadFiles, Sealed, Store
from teravec.storage.wrapping_store import WrappingStore

__all__ = ["CachedStore", "without_cache"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedStore(WrappingStore):
    """Keeps what is read of sealed files in a directory, and reads it from there the next time.

    Blocks are the ranges that are asked for. They are named by the file's seal: what is found has
    the right content, wherever the file lies. Files that are opened without a seal are read from
    the store, and all writing goes there.

    Parameters
    ----------
    store : Store
    directory : str
        Of the cache; processes may share it.
    cache_bytes : int, optional
        Its largest size. Not given: that which it has, or 16 GiB.
    """

    directory: str
    cache_bytes: int | None = None

    @property
    def gap_bytes(self) -> int:
        return -1  # each range is a block

    @property
    def alignment(self) -> int:
        return max(ALIGNMENT, self.store.alignment)

    @property
    def work(self) -> str | None:
        """The local directory for work files, if the store has one."""
        return getattr(self.store, "work", None)

    @property
    def cache(self) -> DiskCache | None:
        """The cache; None if its directory cannot be used, which is said once."""
        try:
            return disk_cache(self.directory, self.cache_bytes)
        except (StorageError, MissingFile) as error:
            _warn_once(str(error))
            return None

    def open(
        self,
        name: str,
        *,
        in_order: bool = False,
        sealed: Sealed | None = None,
        ahead: Sequence[tuple[int, int]] | None = None,
    ) -> OpenFile:
        disk = None if sealed is None else self.cache
        if disk is None or sealed is None:
            inner = self.store.open(name, in_order=in_order, sealed=sealed, ahead=ahead)
            return CachedFile(inner)
        parts = [(start, min(stop, sealed.size)) for start, stop in ahead or ()]
        held = {(a, b): disk.read_range(sealed, a, b) for a, b in parts if a < b}
        missing = [part for part, data in held.items() if data is None]
        left = None if ahead is None else missing
        inner = self.store.open(name, in_order=in_order, sealed=sealed, ahead=left)
        return CachedFile(inner, disk, sealed, held)

    def group(self, files: Sequence[OpenFile]) -> ReadFiles:
        return CachedFiles(self.store, files)

    def reader(self) -> Reader:
        return CachedReader(self.store.reader())


@cache
def _warn_once(why: str) -> None:
    log.warning("%s; the index is read without a cache", why)


def without_cache(store: Store) -> Store:
    """Return the store behind the cache, if there is one."""
    return store.store if isinstance(store, CachedStore) else store
