"""Requests for rows: how many pass a filter, where ids are, and rows with their columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, ProtocolError
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.filter_form import FilterForm, read_form
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.requests import (
    Arrays,
    Request,
    check_columns,
    check_min_version,
    check_timeout,
    check_version,
)

__all__ = ["CountRequest", "FindRequest", "GetRequest", "TakeRequest"]

Int64 = npt.NDArray[np.int64]
Lists = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class CountRequest(Request):
    """Count the rows of some lists that pass a filter.

    Its answer's ``ids`` are ``list_no << 32 | rows``, in the order of the lists.

    Parameters
    ----------
    version : str
    list_nos : ndarray of shape (n,), uint32
    filter : str or list
    timeout_s : float
    context : RequestContext, optional
    """

    ARRAYS: ClassVar[Arrays] = {"list_nos": ("u", 1)}

    version: str
    list_nos: Lists
    filter: FilterForm
    timeout_s: float
    context: RequestContext | None = None

    def __post_init__(self) -> None:
        check_version(self.version)
        check_timeout(self.timeout_s)
        read_form(self.filter)

    @property
    def rows(self) -> int:
        """Lists."""
        return len(self.list_nos)


@dataclass(frozen=True)
class FindRequest(Request):
    """Find the newest visible row of each id among some lists.

    Its answer's ``ids`` are the places, ``run << 32 | row``, in the order of the ids asked for; -1
    where these lists have no such row.

    Parameters
    ----------
    version : str
    row_ids : ndarray of shape (n,), int64
        Ascending and distinct.
    list_nos : ndarray of shape (m,), uint32
        Ascending and distinct.
    timeout_s : float
    context : RequestContext, optional
    """

    ARRAYS: ClassVar[Arrays] = {"row_ids": ("i", 1), "list_nos": ("u", 1)}

    version: str
    row_ids: Int64
    list_nos: Lists
    timeout_s: float
    context: RequestContext | None = None

    def __post_init__(self) -> None:
        check_version(self.version)
        check_timeout(self.timeout_s)
        for name in ("row_ids", "list_nos"):
            values = getattr(self, name)
            if (values[1:] <= values[:-1]).any():
                raise InvalidArgument(f"{name} do not ascend")

    @property
    def rows(self) -> int:
        """Ids."""
        return len(self.row_ids)


@dataclass(frozen=True)
class TakeRequest(Request):
    """Read the columns, and if asked for the vectors, of rows at some places.

    Its answer's ``ids`` are the places, and its ``table`` has a row for each.

    Parameters
    ----------
    version : str
    places : ndarray of shape (n,), int64
    columns : list of str
    vectors : bool
        With a column ``vector``.
    timeout_s : float
    context : RequestContext, optional
    """

    ARRAYS: ClassVar[Arrays] = {"places": ("i", 1)}

    version: str
    places: Int64
    columns: list[str]
    vectors: bool
    timeout_s: float
    context: RequestContext | None = None

    def __post_init__(self) -> None:
        check_version(self.version)
        check_timeout(self.timeout_s)
        if self.columns is None or type(self.vectors) is not bool:
            raise ProtocolError("columns, and whether vectors are wanted, expected")
        check_columns(self.columns)
        if len(self.places) and self.places.min() < 0:
            raise InvalidArgument(f"place {self.places.min()} found; 0 or more expected")

    @property
    def rows(self) -> int:
        """Places."""
        return len(self.places)


@dataclass(frozen=True)
class GetRequest(Request):
    """Return rows by id.

    Its answer's ``ids`` are the positions of those that were found in the ids asked for, ascending,
    and its ``table`` has a row for each.

    Parameters
    ----------
    row_ids : ndarray of shape (n,), int64
        In any order; empty where texts are given. If the index's ids are texts, these are the
        numbers that stand for them, and the first column of the answer's table is ``id``.
    texts : list of str, optional
        Instead, if the index's ids are texts.
    columns : list of str, optional
        Not given: all.
    vectors : bool
    timeout_s : float
    allow_partial : bool
    context : RequestContext, optional
    min_version, version
        As for ``SearchRequest``.
    """

    ARRAYS: ClassVar[Arrays] = {"row_ids": ("i", 1)}

    row_ids: Int64
    texts: list[str] | None = None
    columns: list[str] | None = None
    vectors: bool = False
    timeout_s: float = 10.0
    allow_partial: bool = False
    context: RequestContext | None = None
    min_version: int | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        check_timeout(self.timeout_s)
        check_columns(self.columns)
        check_min_version(self.min_version)
        if self.version is not None:
            check_version(self.version)
        if type(self.vectors) is not bool or type(self.allow_partial) is not bool:
            raise InvalidArgument("vectors and allow_partial: a bool expected")
        if self.texts is not None:
            if not isinstance(self.texts, list) or not all(isinstance(t, str) for t in self.texts):
                raise InvalidArgument("ids: a list of texts expected")
            if len(self.row_ids):
                raise InvalidArgument("ids as numbers and as texts found; one of them expected")

    @property
    def rows(self) -> int:
        """Ids."""
        return len(self.row_ids) if self.texts is None else len(self.texts)

    def check(self, limits: Limits) -> None:
        """Raise LimitExceeded if the request is above a bound."""
        limits.check_queries(self.rows, None)
        limits.check_timeout(self.timeout_s)
