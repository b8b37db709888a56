"""Counting ids that occur more than once, in bounded memory.

A hash divides the ids into parts small enough for memory. Each pass over the slices' ids keeps
the ids of one part and sorts them. All copies of an id fall into the same part. If there are too
many parts, only some are examined, and the counts are scaled up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.engines.block_sizes import USUAL_SIZES
from teravec.progress import Progress
from teravec.storage.listfile import ID_BYTES, ListFile
from teravec.storage.local_store import AnyPath

__all__ = ["RepeatedIds", "find_repeated"]

Int64 = npt.NDArray[np.int64]

_MOST_PASSES = 16
_SPREAD = 1.1  # size of a large part relative to the mean
# 2^64 over the golden ratio: Knuth, The Art of Computer Programming 3, section 6.4.
_HASH = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class RepeatedIds:
    """The ids that occur twice or more.

    Parameters
    ----------
    ids : int
        Number of such ids.
    rows : int
        Number of rows that have such an id.
    most : int
        Largest number of rows with the same id.
    example : int
        One such id.
    exact : bool
        Whether ``ids`` and ``rows`` are exact; otherwise they are estimated from some of the ids.
    """

    ids: int
    rows: int
    most: int
    example: int
    exact: bool


def find_repeated(
    slices: Sequence[AnyPath],
    ntotal: int,
    memory_bytes: int,
    progress: Progress,
    block: int = USUAL_SIZES.id_block,
) -> RepeatedIds | None:
    """Count the ids that occur more than once in some slices; return None if there are none.

    Parameters
    ----------
    slices : sequence of StorePath or Path
    ntotal : int
        Number of vectors in all slices.
    memory_bytes : int
        Half of it is for the ids of one part.
    block : int
        Ids read or examined at a time.
    """
    room = max(block, min(memory_bytes // 2 // ID_BYTES, int(_SPREAD * ntotal) + 1))
    parts = 1 if ntotal <= room else int(np.ceil(_SPREAD * ntotal / room))
    passes = min(parts, _MOST_PASSES)
    counted = _Counted(block)
    with progress.stage("ids", ntotal * passes, "ids") as bar:
        buffer = np.empty(room, np.int64)
        for part in range(passes):
            filled = 0
            for ids in _read_blocks(slices, block):
                mine = ids[_hash_parts(ids, parts) == part] if parts > 1 else ids
                if filled + len(mine) > room:  # very many rows share an id
                    filled = _thin(buffer[:filled], block)
                    counted.exact = False
                mine = mine[: room - filled]
                buffer[filled : filled + len(mine)] = mine
                filled += len(mine)
                bar.advance(len(ids))
            counted.add(buffer[:filled])
    if counted.example is None:
        return None
    scale = parts / passes
    return RepeatedIds(
        round(counted.ids * scale),
        round((counted.ids + counted.extra) * scale),
        counted.most,
        counted.example,
        counted.exact and passes == parts,
    )


def _read_blocks(slices: Sequence[AnyPath], block: int) -> Iterator[Int64]:
    for path in slices:
        with ListFile(path) as file:
            for start in range(0, file.header.ntotal, block):
                yield file.read_ids(start, min(start + block, file.header.ntotal))


def _hash_parts(ids: Int64, parts: int) -> Int64:
    high = (ids.view(np.uint64) * _HASH) >> np.uint64(33)
    return (high % np.uint64(parts)).astype(np.int64)


def _thin(ids: Int64, block: int) -> int:
    """Sort the ids and keep two copies of each, in place; return how many remain."""
    ids.sort()
    left = 0
    for start in range(0, len(ids), block):
        here = ids[start : start + block]
        before = ids[max(0, left - 2) : left]
        joined = np.concatenate([before, here])
        third = np.zeros(len(joined), bool)
        third[2:] = joined[2:] == joined[:-2]
        kept = joined[len(before) :][~third[len(before) :]]
        ids[left : left + len(kept)] = kept
        left += len(kept)
    return left


@dataclass
class _Counted:
    """The counts so far; ``extra`` is the number of rows whose id an earlier row has."""

    block: int
    ids: int = 0
    extra: int = 0
    most: int = 1
    example: int | None = None
    exact: bool = True

    def add(self, ids: Int64) -> None:
        """Count all copies of some ids; this sorts them in place."""
        ids.sort()
        last, run = None, 0  # copies of an id may continue in the next block
        for start in range(1, len(ids), self.block):
            here = ids[start : start + self.block]
            again = here[here == ids[start - 1 : start - 1 + len(here)]]
            names, counts = np.unique(again, return_counts=True)
            if not len(names):
                continue
            self.extra += int(counts.sum())
            if names[0] == last:
                counts[0] += run
                self.ids -= 1
            self.ids += len(names)
            self.most = max(self.most, 1 + int(counts.max()))
            self.example = int(names[0]) if self.example is None else self.example
            last, run = names[-1], int(counts[-1])
