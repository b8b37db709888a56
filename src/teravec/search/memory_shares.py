"""How an open index shares out the memory that it may take."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.index.opened import OpenedIndex
from teravec.memory import require
from teravec.search.lists import IndexLists
from teravec.search.reader import USUAL_READS, ReadSizes

__all__ = ["MemoryShares"]

_LEAST_BYTES = 6 << 20  # for batches, kept lists and what passes through
_LARGEST_CHUNK = 16 << 20  # about a processor's last cache, so that scans find lists there


@dataclass(frozen=True)
class MemoryShares:
    """Bytes for what a search holds, besides the model.

    Attributes
    ----------
    batch_bytes : int
        Queries and results of a batch.
    lists_bytes, pages_bytes : int
        Lists, and in two stages pages of finer codes, that are kept once they were read.
    chunk_bytes : int
        Lists that are read together.
    refine_bytes : int
        In two stages, pages on their way.
    reads : ReadSizes
        How much is read together, and how it is cut into pieces.
    """

    batch_bytes: int
    lists_bytes: int
    pages_bytes: int
    chunk_bytes: int
    refine_bytes: int
    reads: ReadSizes = USUAL_READS

    @classmethod
    def of(cls, opened: OpenedIndex, memory_bytes: int, *, keep_lists: bool) -> MemoryShares:
        """Share out a limit, or raise MemoryLimitTooSmall."""
        model_bytes = opened.memory_bytes
        require(model_bytes + _LEAST_BYTES, memory_bytes, f"searching {opened.paths}")
        free = memory_bytes - model_bytes
        batch_bytes, kept_bytes = free // 3, free // 2 if keep_lists else 0
        lists_bytes = min(IndexLists.all_bytes(opened), kept_bytes)
        # What passes through: chunks of lists, and in two stages as much for runs of pages.
        passing_bytes = (free - batch_bytes - kept_bytes) // (2 if opened.fine else 1)
        return cls(
            batch_bytes=batch_bytes,
            lists_bytes=lists_bytes,
            pages_bytes=kept_bytes - lists_bytes,
            chunk_bytes=min(_LARGEST_CHUNK, passing_bytes // IndexLists.CHUNKS),
            refine_bytes=min(3 * _LARGEST_CHUNK, passing_bytes),
        )
