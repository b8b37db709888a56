"""Ids that occur more than once, counted in bounded memory.

Ids are cut into parts by a hash, so many that memory holds one. Each pass over the slices' ids
keeps those of one part and sorts them. All copies of an id are in one part. So where more passes
would be needed than are worth it, some parts are looked at, and the counts are scaled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.progress import Progress
from teravec.storage.listfile import ID_BYTES, ListFile

__all__ = ["RepeatedIds", "find_repeated"]

Int64 = npt.NDArray[np.int64]

_BLOCK = 1 << 18  # ids read, or looked at, at a time
_MOST_PASSES = 16
_SPREAD = 1.1  # parts are not equally large
# 2^64 over the golden ratio: Knuth, The Art of Computer Programming 3, section 6.4.
_HASH = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class RepeatedIds:
    """Ids that occur twice or more.

    Parameters
    ----------
    ids : int
    rows : int
        That have such an id.
    most : int
        Rows of one id.
    example : int
        One of them.
    exact : bool
        Else ids and rows are estimated from a part of all.
    """

    ids: int
    rows: int
    most: int
    example: int
    exact: bool


def find_repeated(
    slices: Sequence[Path], ntotal: int, memory_bytes: int, progress: Progress
) -> RepeatedIds | None:
    """Count the ids that occur more than once in some slices; None where none does.

    Parameters
    ----------
    slices : sequence of Path
    ntotal : int
        Vectors in all of them.
    memory_bytes : int
        Half of it holds a part of the ids.
    """
    room = max(_BLOCK, min(memory_bytes // 2 // ID_BYTES, int(_SPREAD * ntotal) + 1))
    parts = 1 if ntotal <= room else int(np.ceil(_SPREAD * ntotal / room))
    passes = min(parts, _MOST_PASSES)
    counted = _Counted()
    with progress.stage("ids", ntotal * passes, "ids") as bar:
        buffer = np.empty(room, np.int64)
        for part in range(passes):
            filled = 0
            for ids in _read_blocks(slices):
                mine = ids[_hash_parts(ids, parts) == part] if parts > 1 else ids
                if filled + len(mine) > room:  # an id that very many rows have
                    filled = _thin(buffer[:filled])
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


def _read_blocks(slices: Sequence[Path]) -> Iterator[Int64]:
    for path in slices:
        with ListFile(path) as file:
            for start in range(0, file.header.ntotal, _BLOCK):
                yield file.read_ids(start, min(start + _BLOCK, file.header.ntotal))


def _hash_parts(ids: Int64, parts: int) -> Int64:
    high = (ids.view(np.uint64) * _HASH) >> np.uint64(33)
    return (high % np.uint64(parts)).astype(np.int64)


def _thin(ids: Int64) -> int:
    """Sort, and keep two of each id, in place; return how many are left."""
    ids.sort()
    left = 0
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        before = ids[max(0, left - 2) : left]
        joined = np.concatenate([before, block])
        third = np.zeros(len(joined), bool)
        third[2:] = joined[2:] == joined[:-2]
        kept = joined[len(before) :][~third[len(before) :]]
        ids[left : left + len(kept)] = kept
        left += len(kept)
    return left


@dataclass
class _Counted:
    """What was seen so far: ``extra`` rows have an id that an earlier one has."""

    ids: int = 0
    extra: int = 0
    most: int = 1
    example: int | None = None
    exact: bool = True

    def add(self, ids: Int64) -> None:
        """Count all copies of some ids; sorts them in place."""
        ids.sort()
        last, run = None, 0  # an id's copies may go on in the next block
        for start in range(1, len(ids), _BLOCK):
            here = ids[start : start + _BLOCK]
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
