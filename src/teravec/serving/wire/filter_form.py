"""A filter as it travels: the text that its user wrote, or a tree as JSON; never code.

Text travels as it is, so that an error points at the place that the user sees. Whoever receives a
filter reads it anew, within the bounds of ``filters.tree``.
"""

from __future__ import annotations

import json
from typing import Any

from teravec.errors import InvalidFilter, LimitExceeded
from teravec.filters.filter import FilterArgument, parse_filter
from teravec.filters.json_form import tree_from_json, tree_to_json
from teravec.filters.tree import Tree

__all__ = ["FilterForm", "form_key", "form_of", "read_form"]

FilterForm = str | list[Any]
"""SQL text, or what ``tree_to_json`` returns."""

_MOST_BYTES = 900_000  # as JSON: a frame's header has a mebibyte


def form_of(given: FilterArgument) -> FilterForm:
    """Return the form in which a user's filter travels.

    Raises
    ------
    InvalidFilter
        It is none, or beyond a bound.
    LimitExceeded
        It is too long for a request.
    """
    tree = parse_filter(given)
    form: FilterForm = given if isinstance(given, str) else tree_to_json(tree)
    size = len(form_key(form))
    if size > _MOST_BYTES:
        raise LimitExceeded(f"filter: {size:,} bytes as JSON, a request takes {_MOST_BYTES:,}")
    return form


def read_form(form: Any) -> Tree:
    """Read a filter that came over a network.

    Raises
    ------
    InvalidFilter
        Names the place.
    """
    if isinstance(form, str):
        return parse_filter(form)
    if isinstance(form, list):
        return tree_from_json(form)
    raise InvalidFilter(f"filter: {type(form).__name__} found, SQL text or a tree expected")


def form_key(form: FilterForm | None) -> str:
    """Return a text that only equal filters share.

    Trees are no such key: to Python, the constants 1 and true are equal.
    """
    return "" if form is None else json.dumps(form)
