"""What caches on local disks did for this process: counted by directory."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

__all__ = ["CacheCounts", "all_counts", "counts_of"]


@dataclass
class CacheCounts:
    """Counts of one cache, since the process began.

    Attributes
    ----------
    hits, misses : int
        Blocks that were read from the cache, and from the store behind it.
    hit_bytes, miss_bytes : int
        Their bytes.
    damaged : int
        Blocks whose checksum was wrong; they count as misses too.
    kept_bytes : int
        Bytes written to the cache.
    """

    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    miss_bytes: int = 0
    damaged: int = 0
    kept_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Add to some counts; any thread may call it."""
        with self._lock:
            for name, value in counts.items():
                setattr(self, name, getattr(self, name) + value)

    @property
    def hit_rate(self) -> float:
        """Share of the blocks that were read from the cache; 0 if none were read."""
        return self.hits / max(1, self.hits + self.misses)

    def content(self) -> dict[str, float]:
        """Return the counts by name, and the hit rate."""
        with self._lock:
            counted = {n: getattr(self, n) for n in self.__dataclass_fields__ if n[0] != "_"}
        return {**counted, "hit_rate": round(self.hit_rate, 4)}


_counts: dict[str, CacheCounts] = {}


def counts_of(directory: str) -> CacheCounts:
    """Return the counts of the cache in a directory."""
    return _counts.setdefault(directory, CacheCounts())


def all_counts() -> dict[str, CacheCounts]:
    """Return the counts of all caches that this process used, by directory."""
    return dict(_counts)
