"""Concatenating the lists of several list files, in bounded memory and large reads.

List i of the result is list i of the first file, then list i of the second, and so on. The work is
cut into windows of lists. A list larger than a window is read piece by piece. Every list is checked
against its checksum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.engines.threads import ordered_map
from teravec.storage.files import byte_view
from teravec.storage.list_runs import list_runs
from teravec.storage.listfile import ID_BYTES, ListFile

__all__ = ["Piece", "Window", "concatenate", "plan_windows"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Lists [start, stop) of every file, as positions in the tables that the files keep."""

    start: int
    stop: int


@dataclass(frozen=True)
class Piece:
    """Rows [row_start, row_stop) of one list of one file; ``last`` marks the list's last piece."""

    position: int
    file: int
    row_start: int
    row_stop: int
    last: bool


def plan_windows(
    sizes: Sequence[Int64], row_bytes: int, window_bytes: int
) -> Iterator[Window | Piece]:
    """Cut the work into parts of at most ``window_bytes``, in the order of the result.

    Parameters
    ----------
    sizes : sequence of ndarray of shape (nlist,), int64
        Vectors in each list, for each file.
    row_bytes : int
        Bytes of a code and its id.
    window_bytes : int
    """
    rows_each = max(1, window_bytes // row_bytes)
    totals = np.sum(np.asarray(sizes), axis=0) if len(sizes) > 1 else sizes[0]
    for start, stop, fits in list_runs(totals, rows_each):
        if fits:
            yield Window(start, stop)
        else:
            yield from _pieces(start, [int(s[start]) for s in sizes], rows_each)


def _pieces(position: int, sizes: list[int], rows_each: int) -> Iterator[Piece]:
    for file, size in enumerate(sizes):
        for row in range(0, size, rows_each):
            stop = min(size, row + rows_each)
            yield Piece(position, file, row, stop, stop == size)


def concatenate(
    files: Sequence[ListFile], window_bytes: int, threads: int
) -> Iterator[tuple[Bytes, Int64]]:
    """Yield codes (n, code_size) and ids (n,) of all lists, in the order of the result.

    Parameters
    ----------
    files : sequence of ListFile
        Opened for the same range of lists.
    window_bytes : int
        Bytes of codes and ids in one part. Memory holds about ``2 (threads + 2)`` times as much:
        each part as it was read, and as concatenated.
    threads : int

    Raises
    ------
    CorruptFile
        A list's checksum is wrong; the message names the file and the list.
    """
    row_bytes = files[0].header.code_size + ID_BYTES
    parts = plan_windows([file.sizes for file in files], row_bytes, window_bytes)
    hashes = (xxhash.xxh3_64(), xxhash.xxh3_64())
    results = ordered_map(partial(_read_part, files), parts, threads=threads)
    for part, codes, ids in results:
        if isinstance(part, Piece):
            _check_piece(files[part.file], part, codes, ids, hashes)
        yield codes, ids


def _read_part(
    files: Sequence[ListFile], part: Window | Piece
) -> tuple[Window | Piece, Bytes, Int64]:
    if isinstance(part, Piece):
        file = files[part.file]
        start = int(file.starts[part.position])
        rows = start + part.row_start, start + part.row_stop
        return part, file.read_codes(*rows), file.read_ids(*rows)
    return part, *_read_window(files, part.start, part.stop)


def _read_window(files: Sequence[ListFile], start: int, stop: int) -> tuple[Bytes, Int64]:
    """Read the window's lists directly to their places in the result, and check each."""
    sizes = np.stack([file.sizes[start:stop] for file in files])
    totals = sizes.sum(0)
    codes = np.empty((int(totals.sum()), files[0].header.code_size), np.uint8)
    ids = np.empty(len(codes), np.int64)
    # First row, in the result, of each file's part of each list.
    places = np.cumsum(totals) - totals + np.cumsum(sizes, axis=0) - sizes
    for file, counts, begins in zip(files, sizes, places, strict=True):
        row = int(file.starts[start])
        sections = (
            ("codes", byte_view(codes), codes.shape[1], file.code_offset(row)),
            ("ids", byte_view(ids), ID_BYTES, file.id_offset(row)),
        )
        for part, whole, width, offset in sections:
            bounds = zip(
                (begins * width).tolist(), ((begins + counts) * width).tolist(), strict=True
            )
            views = [whole[low:high] for low, high in bounds]
            file.file.read_scattered(views, offset)
            _check_lists(file, part, start, views)
    return codes, ids


def _check_lists(file: ListFile, part: str, start: int, views: list[memoryview]) -> None:
    """Check consecutive whole lists against their checksums."""
    table = file.checksums(part)
    found = np.array([xxhash.xxh3_64_intdigest(view) for view in views], np.uint64)
    wrong = np.flatnonzero(found != table[start : start + len(views)])
    if len(wrong):
        raise file.damaged(file.lists[0] + start + int(wrong[0]), part, int(found[wrong[0]]))


def _check_piece(
    file: ListFile, piece: Piece, codes: Bytes, ids: Int64, hashes: tuple[xxhash.xxh3_64, ...]
) -> None:
    """Hash a piece; after the last piece of a list, check the list."""
    parts = (
        ("codes", byte_view(codes), file.code_checksums),
        ("ids", byte_view(ids), file.id_checksums),
    )
    for running, (name, data, expected) in zip(hashes, parts, strict=True):
        running.update(data)
        if piece.last:
            found = running.intdigest()
            running.reset()
            if found != int(expected[piece.position]):
                raise file.damaged(file.lists[0] + piece.position, name, found)
