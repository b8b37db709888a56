"""Which rows of a segment pass a filter: by its inverted file, by its columns, or by both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pyroaring import BitMap

from teravec.errors import InvalidArgument
from teravec.filters.bind import Bound, Every
from teravec.filters.evaluate import bound_columns, passing_rows
from teravec.filters.lookup import find_rows
from teravec.index.opened import OpenedIndex
from teravec.storage.columnfile import ColumnFile
from teravec.storage.invertedfile import MOST_ROWS, make_bitmap, rows_of_bitmap

__all__ = ["find_segment_rows"]

_PIECE_BYTES = 8 << 20  # of columns, read together
_PIECE_ROWS = 1 << 20
_FEW = 16  # a sixteenth of the rows: then the columns of these alone are read
_TAKEN_ROWS = 1 << 14


def find_segment_rows(
    index: OpenedIndex, number: int, bound: Bound, check: Callable[[], None] | None = None
) -> BitMap:
    """Return the rows of an open segment that pass.

    Conditions of filterable columns are looked up. If all of them must hold, only the columns of
    rows that are left are read for the others.

    Raises
    ------
    InvalidArgument
        The segment has too many rows.
    CorruptFile
    """
    inverted, columns = index.inverted_files[number], index.column_files[number]
    ntotal = columns.header.ntotal
    if ntotal >= MOST_ROWS:
        raise InvalidArgument(
            f"{columns.path}: {ntotal:,} rows found; filters take segments of fewer than "
            f"{MOST_ROWS:,}: build with more --slices"
        )
    parts = bound.parts if isinstance(bound, Every) else (bound,)
    known = {} if inverted is None else inverted.columns
    found: list[Bound] = [part for part in parts if bound_columns(part) <= known.keys()]
    others = [part for part in parts if part not in found]
    passing: BitMap | None = None
    if found:
        passing = find_rows(Every(tuple(found)), known, ntotal)
    if not others:
        assert passing is not None
        return passing
    left = Every(tuple(others))
    if passing is not None and len(passing) * _FEW < ntotal:
        return _read_some(columns, left, passing, check or _go_on)
    read = _read_all(columns, left, check or _go_on)
    return read if passing is None else read & passing


def _go_on() -> None:
    """Check nothing."""


def _read_all(file: ColumnFile, bound: Bound, check: Callable[[], None]) -> BitMap:
    names, passing = sorted(bound_columns(bound)), BitMap()
    for start, stop in file.plan_pieces(0, file.header.ntotal, _PIECE_BYTES, _PIECE_ROWS):
        check()
        table = file.read(start, stop, names)
        columns = {name: table[name].combine_chunks() for name in names}
        found = start + np.flatnonzero(passing_rows(bound, columns))
        passing |= make_bitmap(found.astype(np.uint32))
    return passing


def _read_some(file: ColumnFile, bound: Bound, rows: BitMap, check: Callable[[], None]) -> BitMap:
    names, passing = sorted(bound_columns(bound)), BitMap()
    for start in range(0, len(rows), _TAKEN_ROWS):
        check()
        some = rows_of_bitmap(rows[start : start + _TAKEN_ROWS])
        table = file.take(some.astype(np.int64), names)
        columns = {name: table[name].combine_chunks() for name in names}
        passing |= make_bitmap(some[passing_rows(bound, columns)])
    return passing
