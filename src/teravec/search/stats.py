"""What a search cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["SearchStats"]


@dataclass
class SearchStats:
    """Counts and times of one search call, or of several added up.

    Attributes
    ----------
    queries : int
    lists_wanted : int
        (query, list) pairs scanned.
    lists_read : int
        Lists whose codes were read from the files, each at most once a batch.
    lists_cached : int
        Lists whose codes were in the cache.
    codes_scanned, codes_refined : int
        Codes compared; of them, by their finer codes too.
    reads, bytes_read : int
        Reads, and bytes asked of the files, by sectors of 512 bytes, ids included.
    coarse_s, wait_s, scan_s, refine_s : float
        Seconds finding lists, waiting for reads, scanning, and reading and comparing finer
        codes.
    """

    queries: int = 0
    lists_wanted: int = 0
    lists_read: int = 0
    lists_cached: int = 0
    codes_scanned: int = 0
    codes_refined: int = 0
    reads: int = 0
    bytes_read: int = 0
    coarse_s: float = 0.0
    wait_s: float = 0.0
    scan_s: float = 0.0
    refine_s: float = 0.0

    def add(self, other: SearchStats) -> None:
        """Add another call's counts to these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
