"""The requests of one round of a search, and the checks of their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from teravec.errors import ProtocolError
from teravec.serving.coordinator.shares import Pairs, PlacePairs
from teravec.serving.server.two_stages import check_candidates
from teravec.serving.wire.context import CURRENT
from teravec.serving.wire.filter_form import FilterForm
from teravec.serving.wire.protocol import (
    Answer,
    CountRequest,
    FindRequest,
    ListRequest,
    RefineRequest,
    TakeRequest,
    Wanted,
)

__all__ = ["ListRound", "RefineRound", "Round", "SketchRound"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class Round(Protocol):
    """One round of a search.

    Attributes
    ----------
    method : str
        The servers' method that is called.
    version : str
        The version of the index.
    """

    @property
    def method(self) -> str: ...

    @property
    def version(self) -> str: ...

    def frame(self, pairs: Pairs, rows: Int64, counts: Int64, timeout_s: float) -> bytes:
        """Encode the request for some pairs: queries ``rows``, with ``counts`` pairs each."""

    def check(self, answer: Answer, pairs: Pairs, nq: int) -> None:
        """Raise ProtocolError if this cannot be the answer to that request."""


@dataclass(frozen=True)
class _NearestRound:
    version: str
    prepared: Float32
    wanted: Wanted
    larger_is_closer: bool

    def check(self, answer: Answer, pairs: Pairs, nq: int) -> None:
        """See ``Answer.check``."""
        answer.check(nq, self.wanted, self.larger_is_closer)

    def _queries(self, rows: Int64) -> Float32:
        return self.prepared if len(rows) == len(self.prepared) else self.prepared[rows]


@dataclass(frozen=True)
class ListRound(_NearestRound):
    """Search lists.

    Parameters
    ----------
    version : str
    prepared : ndarray of shape (nq, d_index), float32
    wanted : Wanted
    larger_is_closer : bool
    filter : str or list, optional
        Only rows that pass.
    """

    filter: FilterForm | None

    @property
    def method(self) -> str:
        """Servers of earlier releases would ignore a filter."""
        return "search-lists" if self.filter is None else "query-lists"

    def frame(self, pairs: Pairs, rows: Int64, counts: Int64, timeout_s: float) -> bytes:
        """Encode a ``ListRequest``."""
        return self._request(pairs, rows, counts, timeout_s, None)

    def _request(
        self, pairs: Pairs, rows: Int64, counts: Int64, timeout_s: float, candidates: int | None
    ) -> bytes:
        return ListRequest(
            self.version,
            self._queries(rows),
            counts.astype(np.uint32),
            pairs.list_nos.astype(np.uint32),
            pairs.distances,
            self.wanted,
            timeout_s,
            candidates,
            CURRENT.get(),
            self.filter,
        ).encode()


@dataclass(frozen=True)
class SketchRound(ListRound):
    """Scan the sketches of lists, the first of two stages, for candidates.

    Parameters
    ----------
    lists_of : callable
        Returns the lists of places, (n,).
    capacity : int
        Candidates per query.
    """

    lists_of: Callable[[Int64], Int64]
    capacity: int

    def frame(self, pairs: Pairs, rows: Int64, counts: Int64, timeout_s: float) -> bytes:
        """Encode a ``ListRequest`` for candidates."""
        return self._request(pairs, rows, counts, timeout_s, self.capacity)

    def check(self, answer: Answer, pairs: Pairs, nq: int) -> None:
        """See ``check_candidates``."""
        check_candidates(answer, nq, self.capacity, pairs.list_nos, self.lists_of)


@dataclass(frozen=True)
class RefineRound(_NearestRound):
    """Compare queries with the finer codes of chosen vectors; the pairs are ``PlacePairs``.

    Parameters
    ----------
    version, prepared, wanted, larger_is_closer
        As for ``ListRound``.
    """

    method: ClassVar[str] = "refine"

    def frame(self, pairs: Pairs, rows: Int64, counts: Int64, timeout_s: float) -> bytes:
        """Encode a ``RefineRequest``."""
        assert isinstance(pairs, PlacePairs)
        return RefineRequest(
            self.version,
            self._queries(rows),
            counts.astype(np.uint32),
            pairs.places,
            self.wanted,
            timeout_s,
            CURRENT.get(),
        ).encode()


@dataclass(frozen=True)
class CountRound:
    """Count the rows of lists that pass a filter.

    Answers have ``list_no << 32 | rows`` for each list.

    Parameters
    ----------
    version : str
    filter : str or list
    """

    method: ClassVar[str] = "count"

    version: str
    filter: FilterForm

    def frame(self, pairs: Pairs, rows: Int64, counts: Int64, timeout_s: float) -> bytes:
        """Encode a ``CountRequest``."""
        list_nos = pairs.list_nos.astype(np.uint32)
        return CountRequest(self.version, list_nos, self.filter, timeout_s, CURRENT.get()).encode()

    def check(self, answer: Answer, pairs: Pairs, nq: int) -> None:
        """Raise ProtocolError unless there is a count for each list."""
        if not np.array_equal(answer.ids >> 32, pairs.list_nos):
            raise ProtocolError(f"counts of {len(answer.ids):,} lists found, others asked for")


@dataclass(frozen=True)
class FindRound:
    """Find rows by id.

    Parameters
    ----------
    version : str
    row_ids : ndarray of shape (n,), int64
        Ascending and distinct.
    lists_of : callable
        Returns the lists of places, (n,).
    """

    method: ClassVar[str] = "find"

    version: str
    row_ids: Int64
    lists_of: Callable[[Int64], Int64]

    def frame(self, pairs: Pairs, rows: Int64, counts: Int64, timeout_s: float) -> bytes:
        """Encode a ``FindRequest``."""
        list_nos = pairs.list_nos.astype(np.uint32)
        return FindRequest(self.version, self.row_ids, list_nos, timeout_s, CURRENT.get()).encode()

    def check(self, answer: Answer, pairs: Pairs, nq: int) -> None:
        """Raise ProtocolError unless there is a place, in one of the lists, or -1 for each id."""
        if len(answer.ids) != len(self.row_ids):
            raise ProtocolError(f"{len(answer.ids):,} places found, {len(self.row_ids):,} expected")
        places = answer.ids[answer.ids >= 0]
        if not np.isin(self.lists_of(places), pairs.list_nos).all():
            raise ProtocolError("a row lies in a list that was not asked for")


@dataclass(frozen=True)
class TakeRound:
    """Read rows at places; the pairs are ``PlacePairs``.

    Parameters
    ----------
    version : str
    columns : sequence of str
    vectors : bool
    schema : pyarrow.Schema
        Of the tables to expect.
    """

    method: ClassVar[str] = "take"

    version: str
    columns: Sequence[str]
    vectors: bool
    schema: Any

    def frame(self, pairs: Pairs, rows: Int64, counts: Int64, timeout_s: float) -> bytes:
        """Encode a ``TakeRequest``."""
        assert isinstance(pairs, PlacePairs)
        wanted = pairs.places, list(self.columns), self.vectors
        return TakeRequest(self.version, *wanted, timeout_s, CURRENT.get()).encode()

    def check(self, answer: Answer, pairs: Pairs, nq: int) -> None:
        """Raise ProtocolError unless there is a row for each place, of these columns."""
        assert isinstance(pairs, PlacePairs)
        if not np.array_equal(answer.ids, pairs.places):
            raise ProtocolError("rows at other places than those asked for")
        if answer.table is None or not answer.table.schema.equals(self.schema):
            raise ProtocolError("rows with other columns than those asked for")
