"""The tables of a Faiss file's inverted lists: size of each list, and where its bytes lie.

Files of many lists come in hundreds, so no table is kept in memory whole. Tables that state sizes
alone are added up once, in blocks; afterwards a range of lists costs the blocks that it touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidSource
from teravec.interchange.faiss_layout import ListsLayout
from teravec.storage.listfile import ID_BYTES
from teravec.storage.store import OpenFile

__all__ = ["FaissTable", "Places"]

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

_BLOCK = 1 << 16  # entries read at a time


@dataclass(frozen=True)
class Places:
    """Where consecutive lists lie in a file.

    Parameters
    ----------
    sizes, codes, ids : ndarray of shape (n,), int64
        Vectors of each list; the bytes at which its codes and its ids begin.
    """

    sizes: Int64
    codes: Int64
    ids: Int64


class FaissTable:
    """The table of one file.

    Making it reads the whole table once, and checks that all lists lie within the file.

    Parameters
    ----------
    layout : ListsLayout
    index, data : OpenFile
        The index file; the file with the lists, which may be the same.
    block : int
        Entries read at a time.

    Attributes
    ----------
    ntotal : int
        Vectors in all lists.

    Raises
    ------
    InvalidSource
        A list ends after its file: one of them is cut off, or damaged.
    """

    def __init__(
        self, layout: ListsLayout, index: OpenFile, data: OpenFile, *, block: int = _BLOCK
    ) -> None:
        self._layout, self._index, self._data, self._block = layout, index, data, block
        self._row_bytes = layout.code_size + ID_BYTES
        self._most_rows = data.size // self._row_bytes
        self._firsts: list[int] = []  # row before each block
        self._numbers: list[int] = []  # first list of each block, of a table that leaves lists out
        self.ntotal = 0
        for start in range(0, self._entries, block):
            numbers, sizes = self._read_entries(start, min(start + block, self._entries))
            self._firsts.append(self.ntotal)
            self._numbers.append(int(numbers[0]))
            self.ntotal += int(sizes.sum())
            self._check_rows(self.ntotal)
        if layout.kind in ("full", "sprs"):
            end = layout.data_offset + self.ntotal * self._row_bytes
            if end > data.size:
                raise self._cut_off(end)

    @property
    def nlist(self) -> int:
        """Lists of the file."""
        return self._layout.nlist

    @property
    def _entries(self) -> int:
        values = {"sprs": 2, "ilod": 3}.get(self._layout.kind, 1)
        return self._layout.table.count // values

    def sizes(self) -> Iterator[tuple[Int64, Int64]]:
        """Yield numbers and sizes of the lists, block by block; lists left out are empty."""
        for start in range(0, self._entries, self._block):
            yield self._read_entries(start, min(start + self._block, self._entries))

    def read(self, first: int, stop: int) -> Places:
        """Return where lists [first, stop) lie."""
        if self._layout.kind == "ilod":
            return self._read_on_disk(first, stop)
        sizes, rows = np.zeros(stop - first, np.int64), np.zeros(stop - first, np.int64)
        numbers = np.array(self._numbers, np.int64)
        begin = max(0, int(np.searchsorted(numbers, first, side="right")) - 1)
        for block in range(begin, int(np.searchsorted(numbers, stop))):
            start = block * self._block
            found, counts = self._read_entries(start, min(start + self._block, self._entries))
            before = self._firsts[block] + np.cumsum(counts) - counts
            inside = (found >= first) & (found < stop)
            sizes[found[inside] - first] = counts[inside]
            rows[found[inside] - first] = before[inside]
        codes = self._layout.data_offset + rows * self._row_bytes
        return Places(sizes, codes, codes + sizes * self._layout.code_size)

    def _read_entries(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """Read numbers and sizes of the entries [start, stop)."""
        table, kind = self._layout.table, self._layout.kind
        if kind == "full":
            return np.arange(start, stop), self._check_sizes(table.read(self._index, start, stop))
        if kind == "sprs":
            pairs = table.read(self._index, 2 * start, 2 * stop).reshape(-1, 2)
            numbers = self._check_numbers(pairs[:, 0], start)
            return numbers, self._check_sizes(pairs[:, 1])
        return np.arange(start, stop), self._read_on_disk(start, stop).sizes

    def _read_on_disk(self, first: int, stop: int) -> Places:
        entries = self._layout.table.read(self._index, 3 * first, 3 * stop).reshape(-1, 3)
        sizes = self._check_sizes(entries[:, 0])
        capacities = np.where(sizes > 0, entries[:, 1], 0).astype(np.uint64)
        offsets = np.where(sizes > 0, entries[:, 2], 0).astype(np.uint64)
        size = np.uint64(self._data.size)
        rows = capacities <= np.uint64(self._most_rows)
        wrong = ~rows | (offsets > size) | (capacities < sizes.astype(np.uint64))
        wrong |= np.where(rows, capacities, 0) * np.uint64(self._row_bytes) > size - np.where(
            offsets > size, size, offsets
        )
        if wrong.any():
            number = first + int(np.flatnonzero(wrong)[0])
            raise InvalidSource(
                f"{self._data.path}: {self._data.size:,} bytes found, too few for list {number}: "
                "the file is cut off, or of another index"
            )
        codes = offsets.astype(np.int64)
        return Places(sizes, codes, codes + capacities.astype(np.int64) * self._layout.code_size)

    def _check_sizes(self, sizes: UInt64) -> Int64:
        if len(sizes) and int(sizes.max()) > self._most_rows:
            raise self._cut_off(int(sizes.max()) * self._row_bytes)
        return sizes.astype(np.int64)

    def _check_rows(self, rows: int) -> None:
        if rows > self._most_rows:
            raise self._cut_off(rows * self._row_bytes)

    def _check_numbers(self, numbers: UInt64, start: int) -> Int64:
        if start:
            last = self._layout.table.read(self._index, 2 * start - 2, 2 * start - 1)
            numbers_and_last = np.concatenate([last, numbers])
        else:
            numbers_and_last = numbers
        ascend = (numbers_and_last[1:] > numbers_and_last[:-1]).all()
        if not ascend or int(numbers[-1]) >= self._layout.nlist:
            raise InvalidSource(f"{self._index.path}: the table of lists is damaged")
        return numbers.astype(np.int64)

    def _cut_off(self, expected: int) -> InvalidSource:
        return InvalidSource(
            f"{self._data.path}: {self._data.size:,} bytes found, {expected:,} or more expected: "
            "the file is cut off, or damaged"
        )
