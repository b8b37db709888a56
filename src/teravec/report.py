"""Results that are rows: a sequence that prints as a table, and becomes an Arrow table."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Generic, Self, TypeVar, overload

import pyarrow as pa
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

__all__ = ["Report", "table_text"]

R = TypeVar("R")


class Report(Sequence[R], Generic[R]):
    """A sequence of dataclasses.

    Parameters
    ----------
    rows : iterable
    """

    def __init__(self, rows: Iterable[R] = ()) -> None:
        self._rows = tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> R: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[R]: ...

    def __getitem__(self, at: int | slice) -> R | Sequence[R]:
        return self._rows[at]

    def __add__(self, others: Iterable[R]) -> Self:
        return type(self)((*self, *others))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self._rows == other._rows

    def __hash__(self) -> int:
        return hash(self._rows)

    def to_arrow(self) -> Any:
        """Return the rows as a pyarrow.Table, a column for each field."""
        return pa.Table.from_pylist([asdict(row) for row in self._rows])  # type: ignore[call-overload]

    def table(self) -> Table:
        """Return the rows as a table for a terminal."""
        contents: list[dict[str, Any]] = [asdict(row) for row in self._rows]  # type: ignore[call-overload]
        table = Table(*(contents[0] if contents else ("nothing",)))
        for content in contents:
            table.add_row(*map(_shown, content.values()))
        return table

    def __repr__(self) -> str:
        return table_text(self.table())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if type(value) is int else "" if value is None else str(value)


def table_text(table: Table) -> str:
    """Return a table as plain text in its full width."""
    console = Console(file=io.StringIO(), color_system=None, width=1 << 16)
    console.width = Measurement.get(console, console.options, table).maximum
    with console.capture() as captured:
        console.print(table, crop=False)
    return captured.get().rstrip("\n")
