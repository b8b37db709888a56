"""Gathering rows of column files in a new order, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.storage.columnfile import ColumnFile

__all__ = ["PIECE_BYTES", "gather_columns", "take_pieces"]

Int64 = npt.NDArray[np.int64]

PIECE_BYTES = 16 << 20  # of values gathered at a time, where memory allows


def gather_columns(
    files: Sequence[ColumnFile], file_nos: Int64, rows: Int64, piece_bytes: int
) -> Iterator[Any]:
    """Yield rows of some files, in the order given, as pyarrow.Tables.

    Parameters
    ----------
    files : sequence of ColumnFile
        With the same columns.
    file_nos, rows : ndarray of shape (n,), int64
        File of each row, and its row there; in each file, rows ascend.
    piece_bytes : int
        About so many bytes of values in each table; one row at least.
    """
    ends = np.cumsum(_estimate(files, file_nos, rows))
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        fit = int(np.searchsorted(ends, before + piece_bytes, side="right"))
        stop = max(start + 1, min(fit, len(rows)))
        yield _gather(files, file_nos[start:stop], rows[start:stop])
        start = stop


def _estimate(files: Sequence[ColumnFile], file_nos: Int64, rows: Int64) -> Int64:
    sizes = np.empty(len(rows), np.int64)
    for number, mine in _of_each(file_nos):
        at = rows[mine]
        file = files[number]
        sizes[mine] = file.estimate_bytes(at + 1) - file.estimate_bytes(at)
    return sizes


def _of_each(file_nos: Int64) -> Iterator[tuple[int, Int64]]:
    """Yield each file that occurs, and the places at which it does, ascending."""
    order = np.argsort(file_nos, kind="stable")
    numbers, starts = np.unique(file_nos[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)


def _gather(files: Sequence[ColumnFile], file_nos: Int64, rows: Int64) -> Any:
    tables, places = [], []
    for number, mine in _of_each(file_nos):
        tables.append(_take(files[number], rows[mine]))
        places.append(mine)
    if len(tables) == 1:
        return tables[0]
    order = np.empty(len(rows), np.int64)
    order[np.concatenate(places)] = np.arange(len(rows))
    return pa.concat_tables(tables).take(pa.array(order))


def _take(file: ColumnFile, rows: Int64) -> Any:
    first, last = int(rows[0]), int(rows[-1]) + 1
    return file.read(first, last) if last - first == len(rows) else file.take(rows)


def take_pieces(table: Any, rows: Int64, row_bytes: float, piece_bytes: int) -> Iterator[Any]:
    """Yield rows of a table in memory, in the order given, in pieces of about so many bytes."""
    each = max(1, int(piece_bytes / max(1.0, row_bytes)))
    for start in range(0, len(rows), each):
        yield table.take(pa.array(rows[start : start + each]))
