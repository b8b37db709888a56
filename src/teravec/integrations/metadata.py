"""Metadata of documents as columns of an index, and conditions on it as filters.

The metadata of a document is a dictionary of any keys. It is kept three times: as JSON, so that it
comes back as it was; as *terms*, a list of ``key=value`` that equality is asked of, whatever the
keys are; and, of keys that are columns of their own, as their values, for ranges.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

from teravec.errors import InvalidArgument, shown
from teravec.filters.literals import Literal, parse_moment, parse_number
from teravec.filters.tree import And, Compare, Contains, In, IsNull, Not, Or, Tree

__all__ = ["parse_conditions", "terms_of", "to_json"]

_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_COMPARISONS)
_MOST_TERM_CHARACTERS = 200  # of longer ones, a digest


def to_json(metadata: Mapping[str, Any], number: int) -> str:
    """Return a document's metadata as JSON, or raise InvalidArgument naming the document."""
    if not all(isinstance(key, str) for key in metadata):
        raise InvalidArgument(f"metadata of document {number}: keys that are strings expected")
    try:
        return json.dumps(metadata, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"metadata of document {number} is no JSON: {error}") from None


def terms_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return the terms of a document: one for each scalar, and for each scalar of a list."""
    found = []
    for key, value in metadata.items():
        values = value if isinstance(value, list | tuple) else [value]
        found += [_term(key, each) for each in values if _is_scalar(each)]
    return list(dict.fromkeys(found))


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _term(key: str, value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1.0 equals 1, as in Python
    term = f"{key}={json.dumps(value, ensure_ascii=False)}"
    if len(term) > _MOST_TERM_CHARACTERS:
        digest = hashlib.sha256(term.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{key[:_MOST_TERM_CHARACTERS]}#{digest}"
    return term


def parse_conditions(given: Any, columns: Any, terms: str | None) -> Tree:
    """Return conditions on metadata as a filter.

    Parameters
    ----------
    given : dict
        ``{"lang": "en", "year": {"$gte": 2020}, "$or": [{...}, {...}]}``: all must hold. Operators
        of a key are ``$eq $ne $in $nin``, and ``$gt $gte $lt $lte`` of keys that are columns;
        conditions are joined by ``$and``, ``$or`` and ``$not``.
    columns : pyarrow.Schema
        Keys that are columns of their own.
    terms : str, optional
        The column of terms. Without one, only ``columns`` may be asked for.

    Raises
    ------
    InvalidArgument
    """
    return _Reader(columns, terms).conditions(given)


class _Reader:
    def __init__(self, columns: Any, terms: str | None) -> None:
        self._columns, self._terms = columns.names, terms
        self._lists = {field.name for field in columns if pa.types.is_nested(field.type)}

    def conditions(self, given: Any) -> Tree:
        if not isinstance(given, Mapping) or not given:
            raise _wrong(f"{shown(given)} found; a dictionary of conditions expected")
        return _joined(And, [self._condition(key, value) for key, value in given.items()])

    def _condition(self, key: Any, value: Any) -> Tree:
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple) or not value:
                raise _wrong(f"{key} of {shown(value)} found; a list of conditions expected")
            return _joined(And if key == "$and" else Or, list(map(self.conditions, value)))
        if key == "$not":
            return Not(self.conditions(value))
        if not isinstance(key, str) or key.startswith("$"):
            raise _wrong(f"{shown(key)} found; a key, $and, $or or $not expected")
        if not isinstance(value, Mapping):
            return self._equal(key, value)
        if not value:
            raise _wrong(f"no operator of {shown(key)} found; {_listed()} expected")
        return _joined(And, [self._operator(key, name, each) for name, each in value.items()])

    def _operator(self, key: str, name: Any, value: Any) -> Tree:
        if name in _COMPARISONS:
            if key not in self._columns:
                named = ", ".join(self._columns) or "no key"
                raise _wrong(
                    f"{name} of {shown(key)} found; a range may be asked of columns, which "
                    f"{named} has: name it in metadata_columns of a new store"
                )
            return Compare(key, _COMPARISONS[name], _literal(value))
        if name in ("$in", "$nin"):
            if not isinstance(value, list | tuple) or not value:
                raise _wrong(f"{name} of {shown(value)} found; a list of values expected")
            one_of = self._one_of(key, list(value))
            return one_of if name == "$in" else self._none_of(key, one_of)
        if name in ("$eq", "$ne"):
            equal = self._equal(key, value)
            return equal if name == "$eq" else self._none_of(key, equal)
        raise _wrong(f"{shown(name)} of {shown(key)} found; {_listed()} expected")

    def _none_of(self, key: str, tree: Tree) -> Tree:
        """The opposite; documents without the key pass, as in other stores."""
        if key in self._columns and not isinstance(tree, IsNull):
            return Or((Not(tree), IsNull(key)))
        return Not(tree)

    def _one_of(self, key: str, values: list[Any]) -> Tree:
        if key in self._columns and key not in self._lists and None not in values:
            return In(key, tuple(map(_literal, values)))
        return _joined(Or, [self._equal(key, value) for value in values])

    def _equal(self, key: str, value: Any) -> Tree:
        if key in self._columns:
            if value is None:
                return IsNull(key)
            literal = _literal(value)
            return Contains(key, literal) if key in self._lists else Compare(key, "=", literal)
        if self._terms is None:
            raise _wrong(f"{shown(key)} is no column; the index has {', '.join(self._columns)}")
        if not _is_scalar(value):
            raise _wrong(f"{shown(value)} of {shown(key)} found; text or a number expected")
        return Contains(self._terms, _term(key, value))


def _joined(join: Callable[[tuple[Tree, ...]], Tree], parts: list[Tree]) -> Tree:
    return parts[0] if len(parts) == 1 else join(tuple(parts))


def _literal(value: Any) -> Literal:
    if isinstance(value, float):
        return parse_number(repr(value))
    if isinstance(value, datetime.datetime):
        return parse_moment(value.isoformat(sep=" "))
    if isinstance(value, bool | int | Decimal | str | datetime.date):
        return value
    raise _wrong(f"{shown(value)} found; text, a number, a date or a time expected")


def _listed() -> str:
    return " ".join(_OPERATORS)


def _wrong(message: str) -> InvalidArgument:
    return InvalidArgument(f"filter: {message}")
