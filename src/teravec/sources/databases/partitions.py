"""Ranges of a key, each read by one connection; a pure function of the key's bounds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from teravec.errors import InvalidArgument
from teravec.sources.databases.database import literal, quoted

__all__ = ["Partition", "plan_partitions"]

_FOR_EACH_READER = 8  # ranges: so that one that is larger than others makes nobody wait for long


@dataclass(frozen=True)
class Partition:
    """Rows whose key is in a range; or the rows without a key.

    Parameters
    ----------
    condition : str
        In SQL; empty for all rows.
    order : str
        The column to sort by, quoted; empty for the order of the query.
    """

    condition: str = ""
    order: str = ""

    def select(self, sql: str, columns: str = "*", also: str = "") -> str:
        """Return the SELECT of this range of a query; ``also`` is one more condition."""
        conditions = " and ".join(part for part in (self.condition, also) if part)
        found = f"select {columns} from ({sql}) as teravec_rows"
        found += f" where {conditions}" if conditions else ""
        return found + (f" order by {self.order}" if self.order else "")


def plan_partitions(
    key: str, least: Any, most: Any, *, rows: int, readers: int, fewest_rows: int
) -> tuple[Partition, ...]:
    """Divide the values of a key into ranges of equal width; the last holds rows without a key.

    Parameters
    ----------
    key : str
        Name of the column.
    least, most : int, date or datetime
        Bounds of the key; None if no row has one.
    rows : int
        Rows of the query, about.
    readers : int
    fewest_rows : int
        Rows of a range on average, at least.

    Raises
    ------
    InvalidArgument
        The key has another type.
    """
    name = quoted(key)
    without = Partition(f"{name} is null")
    if least is None:
        return (without,)
    if isinstance(least, bool) or not isinstance(least, int | date):
        raise InvalidArgument(
            f"column {key!r} holds {type(least).__name__}, whose ranges cannot be read; whole "
            "numbers, dates or times expected, such as a hash of the key as a further column of "
            "the query"
        )
    count = max(1, min(_FOR_EACH_READER * readers, rows // fewest_rows))
    starts = _divide(least, most, count)
    stops = [*starts[1:], None]
    ranges = []
    for start, stop in zip(starts, stops, strict=True):
        end = f"{name} <= {literal(most)}" if stop is None else f"{name} < {literal(stop)}"
        ranges.append(Partition(f"{name} >= {literal(start)} and {end}", name))
    return (*ranges, without)


def _divide(least: Any, most: Any, count: int) -> list[Any]:
    """Return the distinct starts of ``count`` ranges of equal width, ascending."""
    if isinstance(least, date) and not isinstance(least, datetime):
        least, most = (datetime(day.year, day.month, day.day) for day in (least, most))
    starts = [least + (most - least) * number // count for number in range(count)]
    return list(dict.fromkeys(starts))
