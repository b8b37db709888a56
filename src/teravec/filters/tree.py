"""A filter as a tree: all that a filter can say, whatever form it came in.

Every form of a filter (SQL text, a pyarrow expression, JSON from the network) becomes such a tree,
of these nodes and no others, within these bounds. ``bind`` then compares it with a schema.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from teravec.errors import InvalidFilter
from teravec.filters.literals import Literal

__all__ = [
    "FLIPPED",
    "MOST_CHARACTERS",
    "MOST_DEPTH",
    "MOST_NODES",
    "MOST_VALUES",
    "And",
    "Compare",
    "Contains",
    "In",
    "IsNull",
    "IsTrue",
    "Not",
    "Or",
    "StartsWith",
    "Tree",
    "check_bounds",
    "columns_of",
    "strict_key",
    "wrong",
]

FLIPPED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
"""A comparison with its sides exchanged."""

MOST_CHARACTERS = 1 << 18
"""Of a filter's text."""
MOST_DEPTH = 64
"""Of nodes below each other, and of open parentheses."""
MOST_NODES = 2_000
"""Of a filter."""
MOST_VALUES = 20_000
"""In all lists of a filter together."""


@dataclass(frozen=True)
class Compare:
    """A column beside a constant; ``op`` is one of = <> < <= > >=."""

    column: str
    op: str
    value: Literal
    at: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class In:
    """A column's value is one of these."""

    column: str
    values: tuple[Literal, ...]
    at: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class StartsWith:
    """A column of strings begins with this."""

    column: str
    prefix: str
    at: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Contains:
    """A column of lists has this element."""

    column: str
    value: Literal
    at: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class IsNull:
    """A column has no value."""

    column: str
    at: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class IsTrue:
    """A boolean column by itself."""

    column: str
    at: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Not:
    """The opposite; of unknown, unknown."""

    part: Tree


@dataclass(frozen=True)
class And:
    """All of at least two parts."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Or:
    """One of at least two parts."""

    parts: tuple[Tree, ...]


Leaf = Compare | In | StartsWith | Contains | IsNull | IsTrue
Tree = Leaf | Not | And | Or


def wrong(at: int | None, message: str) -> InvalidFilter:
    """Return the error for the place (from 0) of a filter; None where it has no text."""
    where = "filter" if at is None else f"filter, character {at + 1}"
    return InvalidFilter(f"{where}: {message}")


def _walk(tree: Tree) -> Iterator[tuple[Tree, int]]:
    """Yield all nodes and their depth, without recursion: nothing was checked yet."""
    waiting = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        yield node, depth
        if isinstance(node, Not):
            waiting.append((node.part, depth + 1))
        elif isinstance(node, And | Or):
            waiting.extend((part, depth + 1) for part in node.parts)


def check_bounds(tree: Tree) -> Tree:
    """Return the tree, or raise InvalidFilter if it is beyond a bound."""
    values = 0
    for nodes, (node, depth) in enumerate(_walk(tree), 1):
        values += len(node.values) if isinstance(node, In) else 0
        if depth > MOST_DEPTH:
            raise wrong(None, f"more than {MOST_DEPTH} conditions inside each other")
        if nodes > MOST_NODES:
            raise wrong(None, f"more than {MOST_NODES:,} conditions; IN takes lists of values")
        if values > MOST_VALUES:
            raise wrong(None, f"more than {MOST_VALUES:,} values in lists")
    return tree


def columns_of(tree: Tree) -> tuple[str, ...]:
    """Return the names of columns that a tree asks for, ascending and distinct."""
    leaves = (node for node, _ in _walk(tree) if not isinstance(node, Not | And | Or))
    return tuple(sorted({leaf.column for leaf in leaves}))


def strict_key(tree: Tree) -> Hashable:
    """Return a key that only equal trees share: to Python, the constants 1 and true are equal."""
    booleans = []
    for node, _ in _walk(tree):
        if isinstance(node, Compare | Contains):
            booleans.append(isinstance(node.value, bool))
        elif isinstance(node, In):
            booleans += [isinstance(value, bool) for value in node.values]
    return tree, tuple(booleans)
