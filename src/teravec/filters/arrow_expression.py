"""A ``pyarrow.compute.Expression`` as a tree.

An expression shows what it is made of only as text that leaves out long lists, as Substrait, which
knows only some functions, or as what it is pickled to: a record batch of its constants, and its
calls in the batch's metadata. The last is complete. It is read as Arrow data and nothing is
unpickled.
"""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from teravec.errors import InvalidArgument, shown
from teravec.filters.kinds import NS_OF_UNIT, Kind, kind_of
from teravec.filters.literals import Literal, Moment, parse_number
from teravec.filters.tree import (
    FLIPPED,
    And,
    Compare,
    In,
    IsNull,
    IsTrue,
    Not,
    Or,
    StartsWith,
    Tree,
    check_bounds,
    wrong,
)

__all__ = ["parse_expression"]

_COMPARISONS = {
    "equal": "=",
    "not_equal": "<>",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
}
_ENTRY = re.compile(r"(\w+): '(.*)'")
_SUPPORTED = (
    "comparisons, isin, is_null, is_valid, starts_with, &, | and ~ of columns are supported"
)


def parse_expression(expression: pc.Expression) -> Tree:
    """Make a tree of an expression over columns by name.

    Raises
    ------
    InvalidFilter
        Names the function or constant that filters do not have.
    """
    try:
        buffer = expression.__reduce__()[1][0]
        table = pa.ipc.open_file(buffer).read_all()
    except (pa.ArrowException, IndexError, TypeError) as error:
        raise wrong(None, f"{shown(str(expression))}: {error}; {_SUPPORTED}") from error
    lines = table.schema.to_string(
        show_field_metadata=False, show_schema_metadata=True, truncate_metadata=False
    ).split("-- schema metadata --\n")[-1]
    entries = [_ENTRY.fullmatch(line) for line in lines.splitlines()]
    if any(entry is None for entry in entries):
        raise wrong(None, "a column's name with a line break found")
    reader = _Reader([(e[1], e[2]) for e in entries if e is not None], table)
    return check_bounds(reader.node())


class _Call:
    """A function's name, and its columns, constants and calls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: list[Any] = []
        self.options: dict[str, Any] = {}


class _Column(str):
    """A column's name."""


class _Reader:
    def __init__(self, entries: list[tuple[str, str]], table: pa.Table) -> None:
        self._entries, self._table = entries, table

    def node(self) -> Tree:
        top = _Call("")
        open_calls = [top]
        for key, value in self._entries:
            if key == "call":
                open_calls.append(_Call(value))
            elif key == "end" and len(open_calls) > 1:
                call = open_calls.pop()
                open_calls[-1].parts.append(self._made(call))
            elif key == "field_ref":
                open_calls[-1].parts.append(_Column(value))
            elif key == "literal":
                open_calls[-1].parts.append(self._table.column(int(value))[0])
            elif key == "options":
                open_calls[-1].options = self._table.column(int(value))[0]
            else:
                raise wrong(None, f"{key} {shown(value)} of an expression; {_SUPPORTED}")
        return _condition(top.parts[0])

    def _made(self, call: _Call) -> Tree:
        name, parts, options = call.name, call.parts, call.options
        if name in ("and", "and_kleene") and len(parts) == 2:
            return And(tuple(map(_condition, parts)))
        if name in ("or", "or_kleene") and len(parts) == 2:
            return Or(tuple(map(_condition, parts)))
        if name == "invert" and len(parts) == 1:
            return Not(_condition(parts[0]))
        match name, parts:
            case _, [_Column(), pa.Scalar()] if name in _COMPARISONS:
                return Compare(str(parts[0]), _COMPARISONS[name], _literal(parts[1]))
            case _, [pa.Scalar(), _Column()] if name in _COMPARISONS:
                flipped = FLIPPED[_COMPARISONS[name]]
                return Compare(str(parts[1]), flipped, _literal(parts[0]))
            case "is_null", [_Column()] if not options["nan_is_null"].as_py():
                return IsNull(str(parts[0]))
            case "is_valid", [_Column()]:
                return Not(IsNull(str(parts[0])))
            case "starts_with", [_Column()] if not options["ignore_case"].as_py():
                return StartsWith(str(parts[0]), options["pattern"].as_py())
            case "is_in", [_Column()]:
                values = options["value_set"].values
                if values is None or not len(values):
                    raise wrong(None, "isin of no values found; at least one expected")
                return In(str(parts[0]), tuple(map(_literal, values)))
        raise wrong(None, f"{name} of an expression, with these arguments; {_SUPPORTED}")


def _condition(part: Any) -> Tree:
    if isinstance(part, _Column):
        return IsTrue(str(part))
    if isinstance(part, pa.Scalar):
        raise wrong(None, f"the constant {part} is no condition of a column")
    condition: Tree = part
    return condition


def _literal(scalar: pa.Scalar) -> Literal:
    if not scalar.is_valid:
        raise wrong(None, "no comparison with null is true; is_null() or is_valid() expected")
    kind = kind_of(scalar.type)
    value = scalar.as_py() if kind.kind is not Kind.TIMESTAMP else scalar.value
    if kind.kind is Kind.TIMESTAMP and not kind.is_list:
        return Moment(int(value) * NS_OF_UNIT[scalar.type.unit], zoned=scalar.type.tz is not None)
    if kind.kind is Kind.FLOAT:
        try:
            return parse_number(repr(float(value)))
        except InvalidArgument:
            raise wrong(None, f"{value} is no number to compare with") from None
    if kind.is_list or not isinstance(value, bool | int | Decimal | str | datetime.date):
        raise wrong(None, f"a constant of {scalar.type} found; {_SUPPORTED}")
    return value
