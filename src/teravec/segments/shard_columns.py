"""The columns of a shard: read in the source's order, sealed in the order of its lists.

They are gathered in memory, and sorted. What does not fit is sealed in parts, each sorted alone;
the parts are then joined. So any width of rows works in any memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.segments.gathering import PIECE_BYTES, gather_columns, take_pieces
from teravec.storage.columnfile import (
    ColumnFile,
    ColumnFileHeader,
    ColumnFileWriter,
    verify_columns,
)
from teravec.storage.store import StorePath

__all__ = ["COLUMN_SHARE", "ROW_BYTES", "ColumnSource", "write_shard_columns"]

Int64 = npt.NDArray[np.int64]

COLUMN_SHARE = 4
"""A quarter of a worker's memory is for the columns of its shard."""

ROW_BYTES = 24
"""Memory for each row while parts are joined: its part, its row there, its size."""


class ColumnSource(NamedTuple):
    """Where the columns of some rows come from.

    Attributes
    ----------
    schema : pyarrow.Schema
    batches : callable
        Given rows [start, stop), yields their columns as pyarrow.RecordBatches, in their order.
    """

    schema: Any
    batches: Callable[[int, int], Iterator[Any]]


@dataclass(frozen=True)
class _Part:
    """Rows [start, stop) of a shard, sealed in the order of their lists."""

    start: int
    stop: int
    path: StorePath


def write_shard_columns(
    path: StorePath,
    source: ColumnSource,
    rows: tuple[int, int],
    order: Int64,
    header: ColumnFileHeader,
    memory_bytes: int,
    threads: int,
) -> None:
    """Seal the columns of some rows in the order of their lists.

    Parameters
    ----------
    path : StorePath
        The file; parts get names that begin with its name.
    source : ColumnSource
    rows : tuple of int
        Rows [start, stop) of the source.
    order : ndarray of shape (stop - start,), int64
        The row, less ``start``, at each place of the shard.
    header : ColumnFileHeader
    memory_bytes, threads : int
    """
    schema = source.schema
    piece_bytes = min(PIECE_BYTES, memory_bytes // 8)
    parts: list[_Part] = []
    held: list[Any] = []
    start = stop = size = 0
    most = max(1, memory_bytes // 2)

    def seal(to: StorePath, pieces: Iterator[Any]) -> None:
        with to.publish(verify_columns) as file:
            writer = ColumnFileWriter(file, header, schema, threads)
            for piece in pieces:
                writer.write(piece)
            writer.finish()

    def held_rows(low: int, high: int) -> Iterator[Any]:
        inside = order if high - low == len(order) else order[(order >= low) & (order < high)]
        table = pa.Table.from_batches(held, schema)
        return take_pieces(table, inside - low, size / max(1, high - low), piece_bytes)

    try:
        for batch in source.batches(*rows):
            if held and size + batch.nbytes > most:
                part = _Part(start, stop, _part_path(path, len(parts)))
                seal(part.path, held_rows(start, stop))
                parts.append(part)
                held, size, start = [], 0, stop
            held.append(batch)
            size, stop = size + batch.nbytes, stop + len(batch)
        if not parts:
            seal(path, held_rows(0, stop))
            return
        part = _Part(start, stop, _part_path(path, len(parts)))
        seal(part.path, held_rows(start, stop))
        held.clear()
        parts.append(part)
        with ExitStack() as stack:
            files = [stack.enter_context(ColumnFile(part.path)) for part in parts]
            seal(path, _join(files, parts, order, piece_bytes))
    finally:
        for part in parts:
            part.path.remove()


def _part_path(path: StorePath, number: int) -> StorePath:
    return StorePath(path.store, f"{path.name}-part{number:05d}")


def _join(
    files: list[ColumnFile], parts: list[_Part], order: Int64, piece_bytes: int
) -> Iterator[Any]:
    bounds = np.array([part.start for part in parts])
    file_nos = np.searchsorted(bounds, order, side="right") - 1
    places = np.empty(len(order), np.int64)
    for number in range(len(parts)):
        mine = np.flatnonzero(file_nos == number)
        places[mine] = np.arange(len(mine))  # a part has its rows in the same order
    step = 1 << 20
    for start in range(0, len(order), step):
        stop = start + step
        yield from gather_columns(files, file_nos[start:stop], places[start:stop], piece_bytes)
