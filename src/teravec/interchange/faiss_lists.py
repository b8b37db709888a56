"""Reading codes and ids of the inverted lists of several Faiss files, list by list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import ordered_map
from teravec.errors import InvalidSource
from teravec.interchange.faiss_tables import FaissTable, Places
from teravec.storage.concatenation import Piece, Window, plan_windows
from teravec.storage.files import byte_view
from teravec.storage.listfile import ID_BYTES
from teravec.storage.store import OpenFile

__all__ = ["FaissFile", "FaissLists"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FaissFile:
    """The lists of one file: lists [first, first + table.nlist) of the whole.

    Parameters
    ----------
    first : int
    table : FaissTable
    data : OpenFile
        The file with codes and ids.
    id_map : ndarray of int64, optional
        Ids by the numbers that the lists hold instead.
    """

    first: int
    table: FaissTable
    data: OpenFile
    id_map: Int64 | None

    def places(self, first: int, stop: int) -> Places:
        """Return where lists [first, stop) of the whole lie; lists of other files are empty."""
        low = min(max(first, self.first), stop)
        high = max(min(stop, self.first + self.table.nlist), low)
        inside = self.table.read(low - self.first, high - self.first)
        around = (low - first, stop - high)
        return Places(*(np.pad(column, around) for column in vars(inside).values()))


class FaissLists:
    """The lists of all files together: list i of the first file, then of the second, and so on.

    Parameters
    ----------
    files : sequence of FaissFile
    nlist, code_size : int
    """

    def __init__(self, files: Sequence[FaissFile], nlist: int, code_size: int) -> None:
        self.files, self.nlist, self.code_size = files, nlist, code_size

    def sizes(self) -> Int64:
        """Add up the vectors of each list, int64 of shape (nlist,)."""
        total = np.zeros(self.nlist, np.int64)
        for file in self.files:
            for numbers, sizes in file.table.sizes():
                total[numbers + file.first] += sizes
        return total

    def read(
        self, first: int, stop: int, window_bytes: int, threads: int
    ) -> Iterator[tuple[Bytes, Int64]]:
        """Yield codes (n, code_size) and ids (n,) of lists [first, stop), in order.

        Parameters
        ----------
        first, stop : int
        window_bytes : int
            Bytes of codes and ids in one part; memory holds about ``threads + 2`` of them.
        threads : int

        Raises
        ------
        InvalidSource
            An id is negative, or no number of the map of ids.
        """
        places = [file.places(first, stop) for file in self.files]
        row_bytes = self.code_size + ID_BYTES
        parts = plan_windows([place.sizes for place in places], row_bytes, window_bytes)
        yield from ordered_map(partial(self._read_part, places), parts, threads=threads)

    def _read_part(self, places: Sequence[Places], part: Window | Piece) -> tuple[Bytes, Int64]:
        if isinstance(part, Piece):
            return self._read_piece(places[part.file], self.files[part.file], part)
        window = slice(part.start, part.stop)
        sizes = np.stack([place.sizes[window] for place in places])
        totals = sizes.sum(0)
        codes = np.empty((int(totals.sum()), self.code_size), np.uint8)
        ids = np.empty(len(codes), np.int64)
        # First row, in the result, of each file's part of each list.
        begins = np.cumsum(totals) - totals + np.cumsum(sizes, axis=0) - sizes
        for file, place, counts, rows in zip(self.files, places, sizes, begins, strict=True):
            used = np.flatnonzero(counts)
            targets = (
                (byte_view(codes), self.code_size, place.codes[window][used]),
                (byte_view(ids), ID_BYTES, place.ids[window][used]),
            )
            _read_scattered(file.data, targets, rows[used], counts[used])
            if len(used):
                taken = np.repeat(rows[used] - _starts(counts[used]), counts[used])
                taken += np.arange(len(taken))
                ids[taken] = self._map_ids(file, ids[taken])
        return codes, ids

    def _read_piece(self, place: Places, file: FaissFile, part: Piece) -> tuple[Bytes, Int64]:
        count = part.row_stop - part.row_start
        codes, ids = np.empty((count, self.code_size), np.uint8), np.empty(count, np.int64)
        begin = int(place.codes[part.position]) + part.row_start * self.code_size
        file.data.read_into(byte_view(codes), begin)
        file.data.read_into(byte_view(ids), int(place.ids[part.position]) + part.row_start * 8)
        return codes, self._map_ids(file, ids)

    def _map_ids(self, file: FaissFile, ids: Int64) -> Int64:
        if file.id_map is not None:
            wrong = ids[(ids < 0) | (ids >= len(file.id_map))]
            if len(wrong):
                raise InvalidSource(
                    f"{file.data.path}: number {wrong[0]} found in a list, less than "
                    f"{len(file.id_map):,} expected, the size of its map of ids"
                )
            ids = file.id_map[ids]
        if (ids < 0).any():
            raise InvalidSource(
                f"{file.data.path}: id {ids.min()} found, ids of 0 or more expected"
            )
        return ids


def _starts(counts: Int64) -> Int64:
    starts: Int64 = np.cumsum(counts) - counts
    return starts


def _read_scattered(
    data: OpenFile, targets: Sequence[tuple[memoryview, int, Int64]], rows: Int64, counts: Int64
) -> None:
    """Read lists to their rows of codes and ids, what lies side by side in the file in one read.

    Parameters
    ----------
    data : OpenFile
    targets : sequence of (memoryview, int, ndarray of int64)
        Where to, the bytes of a row there, and the byte of the file at which each list begins.
    rows, counts : ndarray of shape (n,), int64
        First row of each list in the result; its vectors.
    """
    pieces = []
    for view, width, offsets in targets:
        bounds = zip((rows * width).tolist(), ((rows + counts) * width).tolist(), strict=True)
        pieces += [
            (offset, view[low:high])
            for offset, (low, high) in zip(offsets.tolist(), bounds, strict=True)
        ]
    pieces.sort(key=lambda piece: piece[0])
    together: list[memoryview] = []
    begin = end = 0
    for offset, view in pieces:
        if together and offset != end:
            data.read_scattered(together, begin)
            together = []
        if not together:
            begin = offset
        together.append(view)
        end = offset + len(view)
    if together:
        data.read_scattered(together, begin)
