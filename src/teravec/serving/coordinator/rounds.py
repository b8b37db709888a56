"""The requests of one round of a search, and the checks of their answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from teravec.serving.coordinator.shares import Pairs, PlacePairs
from teravec.serving.server.two_stages import check_candidates
from teravec.serving.wire.context import CURRENT
from teravec.serving.wire.protocol import Answer, ListRequest, RefineRequest, Wanted

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
    """

    method: ClassVar[str] = "search-lists"

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
