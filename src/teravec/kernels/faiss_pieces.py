"""Lists in the form that Faiss's scanners take: each list once, with visible rows only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.kernels.lists_in_memory import PLACE_BITS, ListsInMemory
from teravec.kernels.pairs import Pairs

__all__ = ["FaissPiece", "faiss_pieces"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_PIECE_BYTES = 2 << 20  # all that copying takes at a time
_ROW_BYTES = 24  # of that a row's number, and its place twice; its code is there twice as well
_ROW_MASK = (1 << PLACE_BITS) - 1


@dataclass(frozen=True)
class FaissPiece:
    """Lists that Faiss can scan in one call.

    Parameters
    ----------
    lists : ListsInMemory
        Distinct lists, with no row hidden.
    pairs : Pairs
        The queries that visit each.
    firsts : ndarray of shape (n,), int64, optional
        Place of the first code of each list, or its position in ``copied`` if there is one. None
        if lists and runs have the same numbers.
    copied : ndarray of shape (ncodes,), int64, optional
        Place of each code, list by list, if the codes were copied.
    """

    lists: ListsInMemory
    pairs: Pairs
    firsts: Int64 | None = None
    copied: Int64 | None = None

    def places(self, labels: Int64) -> Int64:
        """Return the places of codes that Faiss names by list << 32 | row in memory."""
        if self.firsts is None:
            return labels + self.lists.row_start
        entries = np.searchsorted(self.lists.list_nos, labels >> PLACE_BITS)
        at: Int64 = self.firsts[entries] + (labels & _ROW_MASK)
        return at if self.copied is None else self.copied[at]


def faiss_pieces(lists: ListsInMemory, pairs: Pairs, code_size: int) -> Iterator[FaissPiece]:
    """Divide lists into pieces that Faiss can scan; ``pairs`` names the same lists.

    Lists of one run, without hidden rows, are one piece and stay where they are. Of others, the
    visible codes are copied, some at a time, in the order of the entries.
    """
    once = lists.run_nos is None or len(np.unique(lists.list_nos)) == len(lists.list_nos)
    if once and lists.allowed is None:
        firsts = (lists.runs << PLACE_BITS) + lists.row_start
        yield FaissPiece(lists, pairs, None if lists.run_nos is None else firsts)
        return
    most, count = max(1, _PIECE_BYTES // (2 * code_size + _ROW_BYTES)), 0
    parts: list[tuple[int, Int64]] = []
    for entry, rows in _visible_rows(lists, most):
        while len(rows):
            taken, rows = rows[: most - count], rows[most - count :]
            parts.append((entry, taken))
            count += len(taken)
            if count == most:
                yield _copy(lists, pairs, code_size, parts)
                parts, count = [], 0
    if parts:
        yield _copy(lists, pairs, code_size, parts)


def _visible_rows(lists: ListsInMemory, most: int) -> Iterator[tuple[int, Int64]]:
    """Yield entries and their visible rows, from at most ``most`` rows at a time."""
    for entry, size in enumerate(lists.sizes.tolist()):
        for start in range(0, size, most):
            stop = min(start + most, size)
            rows = lists.visible_rows(entry, start, stop)
            yield entry, np.arange(start, stop) if rows is None else rows


def _copy(
    lists: ListsInMemory, pairs: Pairs, code_size: int, parts: list[tuple[int, Int64]]
) -> FaissPiece:
    """Copy rows of entries, which ascend, to a buffer in which each list is in one place."""
    codes = [_take(lists.codes(entry, code_size), rows) for entry, rows in parts]
    copied = np.concatenate([lists.places(entry, rows) for entry, rows in parts])
    counts = np.array([len(rows) for _, rows in parts], np.int64)
    list_nos, at = np.unique(lists.list_nos[[entry for entry, _ in parts]], return_index=True)
    sizes = np.add.reduceat(counts, at)
    firsts = np.cumsum(sizes) - sizes
    buffer = np.concatenate(codes).ravel()
    piece = ListsInMemory(list_nos, sizes, firsts * code_size, buffer)
    return FaissPiece(piece, pairs.of_lists(list_nos), firsts, copied)


def _take(codes: Bytes, rows: Int64) -> Bytes:
    """Return some rows of codes, ascending."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return codes[rows[0] : rows[-1] + 1]
    return codes.take(rows, axis=0, mode="clip")  # some times as quick as codes[rows]
