"""A tree beside a schema: which test of which column each condition is.

A bound filter has four tests and three ways to join them. A test of a null is unknown (Missing
excepted); a row passes where the whole filter is true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import pyarrow as pa

from teravec.errors import InvalidArgument, shown
from teravec.filters.kinds import ColumnKind, Kind, Value, kind_of
from teravec.filters.literals import Literal
from teravec.filters.tree import (
    And,
    Compare,
    Contains,
    In,
    IsNull,
    IsTrue,
    Leaf,
    Not,
    Or,
    StartsWith,
    Tree,
    check_bounds,
    wrong,
)

__all__ = ["Among", "Bound", "Every", "Holds", "Missing", "Opposite", "Range", "Some", "bind"]

_MOST_NAMED = 20


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high``; None is no bound, ``open`` leaves the bound itself out."""

    column: str
    low: Value | None = None
    high: Value | None = None
    low_open: bool = False
    high_open: bool = False


@dataclass(frozen=True)
class Among:
    """Values that are one of these, ascending and distinct; without any: false, of null unknown."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Holds:
    """Lists with this element."""

    column: str
    value: Value


@dataclass(frozen=True)
class Missing:
    """Nulls."""

    column: str


@dataclass(frozen=True)
class Opposite:
    """False where the part is true, true where it is false."""

    part: Bound


@dataclass(frozen=True)
class Every:
    """AND."""

    parts: tuple[Bound, ...]


@dataclass(frozen=True)
class Some:
    """OR."""

    parts: tuple[Bound, ...]


Bound = Range | Among | Holds | Missing | Opposite | Every | Some


def bind(tree: Tree, schema: pa.Schema) -> Bound:
    """Return the tests that a tree stands for, with constants as the columns' types hold them.

    Raises
    ------
    InvalidFilter
        No such column, or a constant or condition that does not fit its type; names the place and
        the columns there are.
    """
    return _bound(check_bounds(tree), schema)


def _bound(tree: Tree, schema: pa.Schema) -> Bound:
    if isinstance(tree, Not):
        return Opposite(_bound(tree.part, schema))
    if isinstance(tree, And):
        return Every(tuple(_bound(part, schema) for part in tree.parts))
    if isinstance(tree, Or):
        return Some(tuple(_bound(part, schema) for part in tree.parts))
    at = schema.get_all_field_indices(tree.column)
    if len(at) != 1:
        many = f"{len(at)} columns" if at else "no column"
        raise wrong(tree.at, f"{many} named {shown(tree.column)}; {_names(schema)}")
    if isinstance(tree, IsNull):
        return Missing(tree.column)
    try:
        return _test(tree, kind_of(schema.field(at[0]).type))
    except InvalidArgument as error:
        raise wrong(tree.at, f"{tree.column}: {error}") from None


def _names(schema: pa.Schema) -> str:
    if not schema.names:
        return "the index has no columns"
    names = ", ".join(sorted(schema.names)[:_MOST_NAMED])
    more = len(schema.names) - _MOST_NAMED
    return f"columns: {names}" + (f" and {more} more" if more > 0 else "")


def _test(leaf: Leaf, kind: ColumnKind) -> Bound:
    if kind.kind is Kind.OTHER:
        raise InvalidArgument(f"a column of {kind.type} can only be IS NULL or IS NOT NULL")
    if isinstance(leaf, Contains):
        if not kind.is_list:
            raise InvalidArgument(f"a column of {kind.type} found, lists expected")
        values = _values(kind, (leaf.value,))
        return Holds(leaf.column, values[0]) if values else _nothing(leaf.column)
    if kind.is_list:
        raise InvalidArgument(
            f"a column of lists found; 'x' IN {leaf.column} or IS NULL asks for their elements"
        )
    if isinstance(leaf, StartsWith):
        if kind.kind is not Kind.STRING:
            raise InvalidArgument(f"a column of {kind.type} found, strings expected")
        return _prefix(leaf.column, leaf.prefix)
    if isinstance(leaf, IsTrue):
        if kind.kind is not Kind.BOOLEAN:
            raise InvalidArgument(f"a column of {kind.type} is no condition; compare it")
        return Among(leaf.column, (1,))
    if isinstance(leaf, In):
        return Among(leaf.column, _values(kind, leaf.values))
    assert isinstance(leaf, Compare)
    return _comparison(leaf, kind)


def _nothing(column: str) -> Bound:
    return Among(column, ())


def _anything(column: str) -> Bound:
    return Opposite(_nothing(column))


def _values(kind: ColumnKind, literals: tuple[Literal, ...]) -> tuple[Value, ...]:
    """Values equal to constants, ascending; a constant that no value equals is left out."""
    found: set[Value] = set()
    for exact in map(kind.exact, literals):
        if not isinstance(exact, Fraction):
            found.add(exact)
        elif exact.denominator == 1 and _in_bounds(kind, exact.numerator):
            found.add(exact.numerator)
    return tuple(sorted(found))


def _in_bounds(kind: ColumnKind, ticks: int) -> bool:
    assert kind.bounds is not None
    return kind.bounds[0] <= ticks <= kind.bounds[1]


def _comparison(leaf: Compare, kind: ColumnKind) -> Bound:
    if leaf.op in ("=", "<>"):
        equal = Among(leaf.column, _values(kind, (leaf.value,)))
        return equal if leaf.op == "=" else Opposite(equal)
    if kind.kind is Kind.BOOLEAN:
        raise InvalidArgument("a column of bool takes = and <>")
    exact = kind.exact(leaf.value)
    strict = leaf.op in ("<", ">")
    if not isinstance(exact, Fraction):
        if leaf.op in ("<", "<="):
            return Range(leaf.column, high=exact, high_open=strict)
        return Range(leaf.column, low=exact, low_open=strict)
    assert kind.bounds is not None
    if leaf.op in ("<", "<="):
        ticks = math.ceil(exact) - 1 if strict else math.floor(exact)
        if ticks < kind.bounds[0]:
            return _nothing(leaf.column)
        return Range(leaf.column, high=ticks) if ticks < kind.bounds[1] else _anything(leaf.column)
    ticks = math.floor(exact) + 1 if strict else math.ceil(exact)
    if ticks > kind.bounds[1]:
        return _nothing(leaf.column)
    return Range(leaf.column, low=ticks) if ticks > kind.bounds[0] else _anything(leaf.column)


def _prefix(column: str, prefix: str) -> Bound:
    """Strings from the prefix up to the next string that does not begin with it.

    UTF-8 orders as code points do.
    """
    if not prefix:
        return _anything(column)
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return Range(column, low=prefix)
    after = ord(stem[-1]) + 1
    after = 0xE000 if after == 0xD800 else after  # no surrogates in UTF-8
    return Range(column, low=prefix, high=stem[:-1] + chr(after), high_open=True)
