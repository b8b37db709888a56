"""The table of a list file: size and checksums of every list, in blocks with their own checksum.

A file of ten million lists has a table of 240 MB. A reader of some lists should read and check
only their part. So the table is cut into blocks of lists. A directory after it holds, for each
block, the row at which its first list begins and the checksum of its entries. The file's seal
covers the directory, the directory covers the table, and the table covers every list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.errors import CorruptFile
from teravec.storage.files import byte_view
from teravec.storage.store import OpenFile, Writer

__all__ = ["ListTable", "TableReader", "table_size", "write_table"]

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

BLOCK_LISTS = 4096
_READ_BLOCKS = 32  # read at a time: 3 MiB of entries
_COLUMNS = 3
_ENTRY = np.dtype([("row", "<u8"), ("checksum", "<u8")])


@dataclass(frozen=True)
class ListTable:
    """Entries of consecutive lists.

    Parameters
    ----------
    sizes : ndarray of shape (n,), int64
        Vectors of each list.
    code_checksums, id_checksums : ndarray of shape (n,), uint64
    row : int
        First row, in the file, of the first of these lists.
    """

    sizes: Int64
    code_checksums: UInt64
    id_checksums: UInt64
    row: int = 0


def _nblocks(nlist: int) -> int:
    return -(-nlist // BLOCK_LISTS)


def table_size(nlist: int) -> int:
    """Return the bytes of table and directory for nlist lists."""
    return _COLUMNS * 8 * nlist + _ENTRY.itemsize * _nblocks(nlist)


def write_table(file: Writer, offset: int, table: ListTable, seal: xxhash.xxh3_64) -> None:
    """Write table and directory at ``offset``; add the directory to the seal."""
    columns = [table.sizes, table.code_checksums, table.id_checksums]
    words = [np.ascontiguousarray(column).astype("<u8", copy=False) for column in columns]
    nlist = len(table.sizes)
    directory = np.empty(_nblocks(nlist), _ENTRY)
    row = 0
    for block in range(len(directory)):
        part = slice(block * BLOCK_LISTS, (block + 1) * BLOCK_LISTS)
        directory[block] = row, _checksum([column[part] for column in words])
        row += int(table.sizes[part].sum())
    for column in words:
        file.write(byte_view(column), offset)
        offset += column.nbytes
    file.write(byte_view(directory), offset)
    seal.update(byte_view(directory))


def _checksum(columns: list[npt.NDArray[np.uint64]]) -> int:
    digest = xxhash.xxh3_64()
    for column in columns:
        digest.update(byte_view(column))
    return digest.intdigest()


class TableReader:
    """Reads a list file's table by ranges of lists, and checks it against the directory.

    Parameters
    ----------
    file : OpenFile
    offset : int
        Byte at which the table begins.
    nlist, ntotal : int
        Lists and vectors of the file.
    seal : xxhash.xxh3_64
        The directory is added to it. The caller compares it with the footer before it uses any
        entry.
    """

    def __init__(
        self, file: OpenFile, offset: int, nlist: int, ntotal: int, seal: xxhash.xxh3_64
    ) -> None:
        self._file, self._offset = file, offset
        self._nlist, self._ntotal = nlist, ntotal
        length = _ENTRY.itemsize * _nblocks(nlist)
        data = file.read(length, offset + _COLUMNS * 8 * nlist)
        seal.update(bytes(data))
        self._directory = np.frombuffer(data, _ENTRY)

    def read(self, first: int, stop: int) -> ListTable:
        """Read the entries of the lists at positions [first, stop).

        Raises
        ------
        CorruptFile
            Entries are wrong; the message names the file and the lists.
        """
        assert 0 <= first <= stop <= self._nlist
        columns = [np.empty(stop - first, np.uint64) for _ in range(_COLUMNS)]
        begin = first // BLOCK_LISTS
        blocks = range(begin, min(_nblocks(self._nlist), max(_nblocks(stop), begin + 1)))
        row = int(self._directory["row"][begin]) if blocks else self._ntotal
        before = row
        for block in blocks[::_READ_BLOCKS]:
            last = min(block + _READ_BLOCKS, blocks.stop)
            start = block * BLOCK_LISTS
            words = self._words(start, min(self._nlist, last * BLOCK_LISTS))
            row = self._check(block, last, words, row)
            low, high = max(first, start), min(stop, start + len(words[0]))
            for column, values in zip(columns, words, strict=True):
                column[low - first : high - first] = values[low - start : high - start]
            if low == first:
                before += int(words[0][: low - start].sum())
        return ListTable(columns[0].astype(np.int64), columns[1], columns[2], before)

    def _words(self, start: int, stop: int) -> list[npt.NDArray[np.uint64]]:
        return [
            np.frombuffer(
                self._file.read(
                    8 * (stop - start), self._offset + 8 * (column * self._nlist + start)
                ),
                "<u8",
            )
            for column in range(_COLUMNS)
        ]

    def _check(self, block: int, last: int, words: list[UInt64], row: int) -> int:
        """Compare blocks with the directory; return the row after them."""
        for number in range(block, last):
            at = (number - block) * BLOCK_LISTS
            part = [column[at : at + BLOCK_LISTS] for column in words]
            expected_row, expected = (int(value) for value in self._directory[number])
            found = _checksum(part)
            if found != expected or row != expected_row:
                raise CorruptFile(
                    f"{self._file.path}: table of lists from position {number * BLOCK_LISTS} "
                    f"begins at row {row} with checksum {found:016x}, {expected_row} and "
                    f"{expected:016x} expected"
                )
            row += int(part[0].sum())
        if last == len(self._directory) and row != self._ntotal:
            raise CorruptFile(
                f"{self._file.path}: lists hold {row:,} vectors, {self._ntotal:,} expected"
            )
        return row
