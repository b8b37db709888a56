"""How an open index shares out the memory that it may take."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.index.opened import OpenedIndex
from teravec.memory import require
from teravec.search.reader import USUAL_READS, ReadSizes
from teravec.storage.listfile import ID_BYTES

__all__ = ["CHUNKS", "MemoryShares"]

CHUNKS = 4
"""Chunks in memory: one read, one verified, one scanned, and one on its way between two."""

_LEAST_BYTES = 6 << 20  # for batches, kept lists and what passes through
_GROWTH_SHARE = 32  # of what is free, for masks, and as much for the tables of later versions
_FILTERS_SHARE = 16  # of what is free, if there are columns
_MORE_LISTS = 4  # a quarter more than there are
_LARGEST_CHUNK = 16 << 20  # about a processor's last cache, so that scans find lists there


@dataclass(frozen=True)
class MemoryShares:
    """Bytes for what a search holds, besides the model.

    Attributes
    ----------
    batch_bytes : int
        Queries and results of a batch.
    lists_bytes, pages_bytes : int
        Lists, and in two stages pages of finer codes, that are kept once they were read. Of lists
        some more than there are, for those that later versions add.
    chunk_bytes : int
        Lists that are read together.
    refine_bytes : int
        In two stages, pages on their way.
    masks_bytes : int
        Masks of hidden rows.
    tables_bytes : int
        Tables of later versions, beyond those of the first.
    filters_bytes : int
        Which rows pass the filters of late, if the index keeps columns.
    opened_bytes : int
        The model and the tables of the version that was opened first.
    reads : ReadSizes
        How much is read together, and how it is cut into pieces.
    """

    batch_bytes: int
    lists_bytes: int
    pages_bytes: int
    chunk_bytes: int
    refine_bytes: int
    masks_bytes: int = 0
    tables_bytes: int = 0
    filters_bytes: int = 0
    opened_bytes: int = 0
    reads: ReadSizes = USUAL_READS

    @classmethod
    def of(cls, opened: OpenedIndex, memory_bytes: int, *, keep_lists: bool) -> MemoryShares:
        """Share out a limit, or raise MemoryLimitTooSmall."""
        model_bytes = opened.memory_bytes
        require(model_bytes + _LEAST_BYTES, memory_bytes, f"searching {opened.paths}")
        free = memory_bytes - model_bytes
        growth_bytes = free // _GROWTH_SHARE
        filters_bytes = free // _FILTERS_SHARE if opened.manifest.columns else 0
        free -= 2 * growth_bytes + filters_bytes
        batch_bytes, kept_bytes = free // 3, free // 2 if keep_lists else 0
        all_bytes = _all_bytes(opened)
        lists_bytes = min(all_bytes + all_bytes // _MORE_LISTS, kept_bytes)
        # What passes through: chunks of lists, and in two stages as much for runs of pages.
        passing_bytes = (free - batch_bytes - kept_bytes) // (2 if opened.fine else 1)
        return cls(
            opened_bytes=model_bytes,
            masks_bytes=growth_bytes,
            tables_bytes=growth_bytes,
            filters_bytes=filters_bytes,
            batch_bytes=batch_bytes,
            lists_bytes=lists_bytes,
            pages_bytes=kept_bytes - lists_bytes,
            chunk_bytes=min(_LARGEST_CHUNK, passing_bytes // CHUNKS),
            refine_bytes=min(3 * _LARGEST_CHUNK, passing_bytes),
        )

    def fit(self, opened: OpenedIndex, *, beside_bytes: int = 0) -> bool:
        """Whether a later version may share the caches of the one that was opened first.

        Parameters
        ----------
        opened : OpenedIndex
        beside_bytes : int
            Tables of other versions that are open.
        """
        more_bytes = opened.memory_bytes - self.opened_bytes + beside_bytes
        all_bytes = _all_bytes(opened)
        full = self.pages_bytes == 0  # memory holds some of the lists only, whatever is added
        return more_bytes <= self.tables_bytes and (full or all_bytes <= self.lists_bytes)


def _all_bytes(opened: OpenedIndex) -> int:
    """Return the memory that all codes and ids take."""
    return int(opened.runs.sizes.sum()) * (opened.manifest.code_size + ID_BYTES)
