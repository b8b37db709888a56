"""What one search asks for, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.errors import InvalidArgument
from teravec.filters.tree import Tree

__all__ = ["QueryFilters", "SearchOptions"]

QueryFilters = Tree | tuple[Tree | None, ...] | None
"""One filter for all queries, or one for each."""


@dataclass(frozen=True)
class SearchOptions:
    """What to find for each query, and how hard to look.

    Parameters
    ----------
    k : int, optional
        The k nearest vectors.
    radius : float, optional
        All vectors within this radius instead. Exactly one of k and radius is given.
    nprobe : int, optional
        Lists to visit a query.
    recall : float, optional
        Share of the true results to find, instead of nprobe. Neither given: the index's default.
    candidates : int, optional
        With codes in two stages: most vectors a query whose finer codes are read.
    exclude_own : bool
        Leave out the vector that has the query's own id.
    filter : Tree or tuple of Tree or None, optional
        Find only rows that pass: one filter for all queries, or one for each.
    filter_column : str, optional
        Instead: the column of the queries that holds the filter of each, as text.
    """

    k: int | None = None
    radius: float | None = None
    nprobe: int | None = None
    recall: float | None = None
    candidates: int | None = None
    exclude_own: bool = False
    filter: QueryFilters = None
    filter_column: str | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.radius is None):
            raise InvalidArgument(f"k {self.k} and radius {self.radius} given; one expected")
        if self.radius is not None and self.candidates is not None:
            raise InvalidArgument("candidates given beside a radius; they need a k")
        if self.filter is not None and self.filter_column is not None:
            raise InvalidArgument("a filter and a column of filters given; one expected")
