"""What searches found, as the formats take it: read by ranges, so that it need not be in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Found", "FoundArrays", "Neighbors", "count_blocks", "flat_blocks"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_BLOCK = 1 << 20  # results, or numbers of them, in memory at a time


@dataclass(frozen=True)
class Neighbors:
    """Nearest neighbours of queries.

    Parameters
    ----------
    ids : ndarray of shape (n, k), int64
        Best first; -1 for none.
    distances : ndarray of shape (n, k), float32, or None
        None where the file holds no distances.
    """

    ids: Int64
    distances: Float32 | None = None


class Found(Protocol):
    """Results of n queries, one query's after another's, best first.

    Attributes
    ----------
    n : int
        Queries.
    total : int
        Results of all.
    k : int or None
        Results of each query; None where queries have different numbers of them.
    """

    @property
    def n(self) -> int: ...

    @property
    def total(self) -> int: ...

    @property
    def k(self) -> int | None: ...

    def queries(self, start: int, stop: int) -> Int64 | None:
        """Ids of queries [start, stop), if they are those of a column; None: row numbers."""

    def counts(self, start: int, stop: int) -> Int64:
        """Results of each of queries [start, stop)."""

    def read(self, start: int, stop: int) -> tuple[Float32, Int64]:
        """Distances and ids of results [start, stop), counted over all queries."""


@dataclass(frozen=True)
class FoundArrays:
    """Results in memory.

    Parameters
    ----------
    lims : ndarray of shape (n + 1,), int64
        Results of query i are at [lims[i], lims[i + 1]).
    distances : ndarray of shape (lims[n],), float32
    ids : ndarray of shape (lims[n],), int64
    k : int or None
    query_ids : ndarray of shape (n,), int64, optional
        Where they are those of a column.
    """

    lims: Int64
    distances: Float32
    ids: Int64
    k: int | None = None
    query_ids: Int64 | None = None

    @classmethod
    def of_rows(cls, distances: Float32, ids: Int64, query_ids: Int64 | None = None) -> FoundArrays:
        """Results of a search for k neighbours, both of shape (n, k)."""
        n, k = ids.shape
        lims = np.arange(n + 1) * k
        return cls(lims, distances.reshape(-1), ids.reshape(-1), k, query_ids)

    @classmethod
    def joined(cls, parts: Sequence[FoundArrays]) -> FoundArrays:
        """Results of consecutive queries, of which there is one part or more."""
        counts = np.concatenate([np.diff(part.lims) for part in parts])
        ids = [part.query_ids for part in parts if part.query_ids is not None]
        return cls(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([part.distances for part in parts]),
            np.concatenate([part.ids for part in parts]),
            parts[0].k,
            np.concatenate(ids) if ids else None,
        )

    @classmethod
    def none(cls, k: int | None) -> FoundArrays:
        """Results of no queries."""
        return cls(np.zeros(1, np.int64), np.empty(0, np.float32), np.empty(0, np.int64), k)

    @property
    def n(self) -> int:
        """Queries."""
        return len(self.lims) - 1

    @property
    def total(self) -> int:
        """Results."""
        return len(self.ids)

    def queries(self, start: int, stop: int) -> Int64 | None:
        """Ids of queries [start, stop), if they are those of a column."""
        return None if self.query_ids is None else self.query_ids[start:stop]

    def counts(self, start: int, stop: int) -> Int64:
        """Results of each of queries [start, stop)."""
        return np.diff(self.lims[start : stop + 1])

    def read(self, start: int, stop: int) -> tuple[Float32, Int64]:
        """Distances and ids of results [start, stop)."""
        return self.distances[start:stop], self.ids[start:stop]


def flat_blocks(found: Found) -> Iterator[tuple[Float32, Int64]]:
    """All distances and ids, about a million at a time."""
    for start in range(0, found.total, _BLOCK):
        yield found.read(start, min(start + _BLOCK, found.total))


def count_blocks(found: Found) -> Iterator[Int64]:
    """Results of each query, for about a million queries at a time."""
    for start in range(0, found.n, _BLOCK):
        yield found.counts(start, min(start + _BLOCK, found.n))
