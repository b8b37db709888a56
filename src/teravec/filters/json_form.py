"""A tree as JSON: what goes over the wire, and is checked as it is read.

A node is a list that begins with its name: ``["and", a, b]``, ``["=", "lang", "en"]``. Numbers are
JSON's where they are whole, else ``{"number": "2.5"}``; ``{"date": "2024-01-31"}`` and
``{"timestamp": ns, "zoned": false}`` are the others.
"""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

from teravec.errors import InvalidArgument, shown
from teravec.filters.literals import Literal, Moment, parse_date, parse_number
from teravec.filters.tree import (
    MOST_CHARACTERS,
    MOST_DEPTH,
    MOST_NODES,
    MOST_VALUES,
    And,
    Compare,
    Contains,
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

__all__ = ["tree_from_json", "tree_to_json"]

_COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")


def tree_to_json(tree: Tree) -> list[Any]:
    """Return a tree as lists, strings and numbers."""
    match tree:
        case Compare(column, op, value):
            return [op, column, _literal_to_json(value)]
        case In(column, values):
            return ["in", column, [_literal_to_json(value) for value in values]]
        case StartsWith(column, prefix):
            return ["starts_with", column, prefix]
        case Contains(column, value):
            return ["contains", column, _literal_to_json(value)]
        case IsNull(column):
            return ["is_null", column]
        case IsTrue(column):
            return ["is_true", column]
        case Not(part):
            return ["not", tree_to_json(part)]
        case And(parts):
            return ["and", *map(tree_to_json, parts)]
        case Or(parts):
            return ["or", *map(tree_to_json, parts)]


def tree_from_json(content: Any) -> Tree:
    """Make a tree of what ``tree_to_json`` returns, or of what a stranger sent.

    Raises
    ------
    InvalidFilter
        The content is no tree, or beyond a bound.
    """
    return check_bounds(_Reader().node(content, 1))


class _Reader:
    def __init__(self) -> None:
        self._nodes = self._values = self._characters = 0

    def node(self, content: Any, depth: int) -> Tree:
        self._nodes += 1
        if depth > MOST_DEPTH or self._nodes > MOST_NODES:
            raise wrong(None, f"at most {MOST_NODES:,} conditions, {MOST_DEPTH} deep, expected")
        match content:
            case ["and" | "or" as name, *parts] if len(parts) >= 2:
                found = tuple(self.node(part, depth + 1) for part in parts)
                return And(found) if name == "and" else Or(found)
            case ["not", part]:
                return Not(self.node(part, depth + 1))
            case ["in", column, list(values)] if values:
                return In(self._text(column), tuple(map(self._literal, values)))
            case ["starts_with", column, prefix]:
                return StartsWith(self._text(column), self._text(prefix))
            case ["contains", column, value]:
                return Contains(self._text(column), self._literal(value))
            case ["is_null", column]:
                return IsNull(self._text(column))
            case ["is_true", column]:
                return IsTrue(self._text(column))
            case [str(op), column, value] if op in _COMPARISONS:
                return Compare(self._text(column), op, self._literal(value))
        raise wrong(None, f"{shown(content)} is no condition")

    def _text(self, content: Any) -> str:
        if not isinstance(content, str):
            raise wrong(None, f"{shown(content)} found, a string expected")
        self._characters += len(content)
        if self._characters > MOST_CHARACTERS:
            raise wrong(None, f"at most {MOST_CHARACTERS:,} characters expected")
        return content

    def _literal(self, content: Any) -> Literal:
        self._values += 1
        if self._values > MOST_VALUES + MOST_NODES:
            raise wrong(None, f"at most {MOST_VALUES:,} values expected")
        if isinstance(content, bool):
            return content
        if isinstance(content, str):
            return self._text(content)
        try:
            match content:
                case int():
                    return parse_number(str(content)) if abs(content) < 10**100 else _beyond()
                case {"number": str(text), **rest} if not rest:
                    return parse_number(text)
                case {"date": str(text), **rest} if not rest:
                    return parse_date(text)
                case {"timestamp": int(ns), "zoned": bool(zoned), **rest} if not rest:
                    return Moment(ns if abs(ns) < 1 << 80 else _beyond(), zoned)
        except InvalidArgument as error:
            raise wrong(None, str(error)) from None
        raise wrong(None, f"{shown(content)} is no constant")


def _beyond() -> int:
    raise InvalidArgument("a number of more than 100 digits")


def _literal_to_json(value: Literal) -> Any:
    if isinstance(value, Decimal):
        return {"number": str(value)}
    if isinstance(value, datetime.date):
        return {"date": value.isoformat()}
    if isinstance(value, Moment):
        return {"timestamp": value.ns, "zoned": value.zoned}
    return value
