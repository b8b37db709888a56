"""A filter as its user gave it: text, an expression, or what came over a network."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from teravec.errors import shown
from teravec.filters.sql import parse_sql
from teravec.filters.tree import Tree, check_bounds, wrong

FilterArgument = Any
"""SQL text, a ``pyarrow.compute.Expression``, or a Tree."""

__all__ = ["FilterArgument", "parse_filter"]


@lru_cache(256)
def _parsed(text: str) -> Tree:
    return parse_sql(text)


def parse_filter(given: FilterArgument) -> Tree:
    """Return a filter as a tree.

    Parameters
    ----------
    given : str, pyarrow.compute.Expression or Tree
        SQL text, as docs/filters.md describes it; parsed texts are remembered.

    Raises
    ------
    InvalidFilter
        It is none of these, or no filter; names the place.
    """
    if isinstance(given, str):
        return _parsed(given)
    import pyarrow.compute as pc

    if isinstance(given, pc.Expression):
        from teravec.filters.arrow_expression import parse_expression

        return parse_expression(given)
    if isinstance(given, Tree):
        return check_bounds(given)
    raise wrong(None, f"{shown(given)} found; SQL text or a pyarrow.compute.Expression expected")
