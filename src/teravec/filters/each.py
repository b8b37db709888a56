"""Filters of single queries: queries with the same filter are searched together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, InvalidFilter
from teravec.filters.filter import FilterArgument, parse_filter
from teravec.filters.json_form import tree_to_json

__all__ = ["FilterGroup", "group_filters"]

Int64 = npt.NDArray[np.int64]


class FilterGroup(NamedTuple):
    """Some queries and their filter.

    Attributes
    ----------
    filter : str, pyarrow.compute.Expression, Tree or None
        None finds all rows.
    rows : ndarray of shape (n,), int64
        Numbers of the queries, ascending.
    """

    filter: FilterArgument | None
    rows: Int64

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Name the first query of the group in an error of its filter."""
        try:
            yield
        except InvalidFilter as error:
            raise InvalidFilter(f"query {int(self.rows[0]):,}: {error}") from None


def group_filters(given: Any, nq: int) -> list[FilterGroup] | None:
    """Group queries by their filters; None if there is one filter, or none, for all.

    Parameters
    ----------
    given : str, pyarrow.compute.Expression, Tree, None, or a sequence of these
        A sequence has one for each query: a list, a tuple, or an array of texts.
    nq : int

    Raises
    ------
    InvalidArgument
        There are more filters than queries, or fewer.
    InvalidFilter
        One is wrong; the message names its query.
    """
    filters = _listed(given)
    if filters is None:
        return None
    if len(filters) != nq:
        raise InvalidArgument(f"{len(filters):,} filters found, one for each of {nq:,} queries")
    groups: dict[str, tuple[FilterArgument | None, list[int]]] = {}
    for row, each in enumerate(filters):
        groups.setdefault(_key(each, row), (each, []))[1].append(row)
    return [FilterGroup(each, np.array(rows, np.int64)) for each, rows in groups.values()]


def _listed(given: Any) -> list[Any] | None:
    if isinstance(given, list | tuple):
        return list(given)
    if isinstance(given, np.ndarray):
        return list(given.tolist())
    to_pylist = getattr(given, "to_pylist", None)  # of Arrow arrays
    return None if to_pylist is None else list(to_pylist())


def _key(given: FilterArgument | None, row: int) -> str:
    if given is None:
        return ""
    try:
        tree = parse_filter(given)
    except InvalidArgument as error:
        raise InvalidFilter(f"query {row:,}: {error}") from None
    return f"text {given}" if isinstance(given, str) else json.dumps(tree_to_json(tree))
