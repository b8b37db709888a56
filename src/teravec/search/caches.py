"""The caches of one open index, and who may have their memory."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.search.lists import IndexLists
from teravec.search.refine import Refiner

__all__ = ["IndexCaches"]


@dataclass(frozen=True)
class IndexCaches:
    """Kept lists and, where codes have two stages, kept finer codes.

    Searches may go on meanwhile, and find the same.

    Parameters
    ----------
    model_bytes : int
        Memory that the index holds besides: model and tables.
    lists : IndexLists
    refiner : Refiner, optional
    """

    model_bytes: int
    lists: IndexLists
    refiner: Refiner | None

    @property
    def kept_bytes(self) -> int:
        """Memory of the lists and finer codes that are kept."""
        return self.lists.kept_bytes + (self.refiner.kept_bytes if self.refiner else 0)

    def hold_back(self, size: int) -> None:
        """Keep ``size`` bytes less than memory allows, until called with 0.

        Another index has them: the one whose place this index takes.
        """
        left = self.lists.hold_back(size)
        if self.refiner is not None:
            self.refiner.hold_back(left)

    def release(self) -> None:
        """Give up all kept lists and their memory, for good: searches read from the files."""
        self.lists.release()
        if self.refiner is not None:
            self.refiner.release()

    def shared_with(self, other: IndexCaches) -> bool:
        """Whether these are the caches of another version too."""
        return self.lists.cache_keys is other.lists.cache_keys

    def close(self) -> None:
        """Give up what is kept of segments that no other version has."""
        self.lists.close()
