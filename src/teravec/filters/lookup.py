"""Bound filters over inverted columns: which rows pass, without reading the columns."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Any, NamedTuple

from pyroaring import BitMap

from teravec.filters.bind import Among, Bound, Every, Holds, Missing, Opposite, Range
from teravec.filters.evaluate import passing_rows
from teravec.filters.kinds import kind_of
from teravec.storage.invertedfile import InvertedColumn, make_bitmap, rows_of_bitmap

__all__ = ["find_rows"]


class _Rows(NamedTuple):
    """The rows for which a filter is true, and those for which it is unknown."""

    true: BitMap
    unknown: BitMap


def find_rows(bound: Bound, columns: Mapping[str, InvertedColumn], ntotal: int) -> BitMap:
    """Return the rows that pass.

    Parameters
    ----------
    bound : Bound
    columns : mapping
        An inverted column for each column of the filter.
    ntotal : int
        Rows of the segment.

    Raises
    ------
    CorruptFile
    """
    return _find(bound, columns, ntotal).true


def _find(bound: Bound, columns: Mapping[str, InvertedColumn], ntotal: int) -> _Rows:
    if isinstance(bound, Opposite):
        part = _find(bound.part, columns, ntotal)
        return _Rows(BitMap(range(ntotal)) - part.true - part.unknown, part.unknown)
    if isinstance(bound, Missing):
        return _Rows(columns[bound.column].nulls(), BitMap())
    if isinstance(bound, Range | Among | Holds):
        column = columns[bound.column]
        return _Rows(_test(bound, column), column.nulls())
    parts = [_find(part, columns, ntotal) for part in bound.parts]
    true, unknown = parts[0]
    for part in parts[1:]:
        maybe = unknown | part.unknown
        if isinstance(bound, Every):
            either = (true | unknown) & (part.true | part.unknown)
            true = true & part.true
            unknown = either & maybe
        else:
            true = true | part.true
            unknown = maybe - true
    return _Rows(true, unknown)


def _test(test: Range | Among | Holds, column: InvertedColumn) -> BitMap:
    lows, highs = _ticks(column)
    if isinstance(test, Range):
        whole, partly = _in_range(test, lows, highs)
        found = column.rows(*whole)
    else:
        whole, partly, found = (0, 0), [], BitMap()
        for value in test.values if isinstance(test, Among) else (test.value,):
            number = bisect_left(highs, value)
            if number < len(lows) and lows[number] <= value:
                if column.is_single(number):
                    found |= column.rows(number, number + 1)
                elif not partly or partly[-1] != number:
                    partly.append(number)
    for number in partly:
        rows, values = column.values(number)
        passing = passing_rows(test, {test.column: values})
        found |= make_bitmap(rows_of_bitmap(rows)[passing])
    return found


def _in_range(test: Range, lows: list[Any], highs: list[Any]) -> tuple[tuple[int, int], list[int]]:
    """Return bins [start, stop) that lie in a range, and those that partly do."""
    start = 0 if test.low is None else bisect_left(highs, test.low)
    stop = len(lows) if test.high is None else bisect_right(lows, test.high)
    partly = []
    while start < stop and not _inside(test, lows[start], highs[start]):
        partly.append(start)
        start += 1
    while start < stop and not _inside(test, lows[stop - 1], highs[stop - 1]):
        stop -= 1
        partly.append(stop)
    return (start, stop), [n for n in partly if not _outside(test, lows[n], highs[n])]


def _inside(test: Range, low: Any, high: Any) -> bool:
    above = test.low is None or (test.low < low if test.low_open else test.low <= low)
    below = test.high is None or (high < test.high if test.high_open else high <= test.high)
    return above and below


def _outside(test: Range, low: Any, high: Any) -> bool:
    """Whether a bin of one value is only the bound that a range leaves out."""
    return low == high and not _inside(test, low, high)


def _ticks(column: InvertedColumn) -> tuple[list[Any], list[Any]]:
    """Return the least and the greatest value of each bin; made once."""
    known: tuple[list[Any], list[Any]] | None = column.ticks
    if known is None:
        ticks = kind_of(column.bounds.type).ticks(column.bounds).tolist()
        known = column.ticks = ticks[0::2], ticks[1::2]
    return known
