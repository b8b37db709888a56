"""What is asked of an index for every query of a source: one batch at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from teravec.bulk.formats.found import FoundArrays
from teravec.errors import InvalidArgument, InvalidSource, MemoryLimitTooSmall
from teravec.kernels.metric import Metric
from teravec.search.effort import Effort
from teravec.search.options import SearchOptions
from teravec.search.request import checked_k
from teravec.search.searchable import Searchable
from teravec.sources import Source

__all__ = [
    "Question",
    "TopK",
    "Within",
    "all_but_own",
    "check_own_ids",
    "question_of",
    "with_index_ids",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_MOST_COPIES = 100  # of a query's own id, that a search makes room for
_RESULT_BYTES = 64  # of a range search: distance, id, owner and sorting order, twice


class Question(Protocol):
    """A question that every query of a source asks.

    Attributes
    ----------
    k : int or None
        Results a query; None where that depends on the query.
    """

    @property
    def k(self) -> int | None: ...

    def check(self, index: Searchable, source: Source) -> None:
        """Raise InvalidArgument where index and queries do not fit the question."""

    def batch_rows(self, index: Searchable) -> int:
        """Most queries that one batch may have in the index's memory limit."""

    def answer(self, index: Searchable, source: Source, start: int, stop: int) -> FoundArrays:
        """Results of queries from ``start`` on: to ``stop``, or fewer if memory wants it so."""

    def describe(self) -> dict[str, Any]:
        """Names and values, fit for JSON."""


@dataclass(frozen=True)
class TopK:
    """The k nearest of each query.

    Parameters
    ----------
    k : int
    effort : Effort
    exclude_self : bool
        Leave out the vector that has the query's own id: for the nearest neighbours within
        one data set.
    """

    k: int
    effort: Effort
    exclude_self: bool = False

    def check(self, index: Searchable, source: Source) -> None:
        """Raise InvalidArgument where index and queries do not fit the question."""
        _check_dimensions(index, source)
        checked_k(self.k)
        if self.exclude_self:
            check_own_ids(index, source)

    def batch_rows(self, index: Searchable) -> int:
        """Most queries that one batch may have."""
        k = self.k + self._spare(index)
        return index.batch_rows(self.effort.nprobe, k, self.effort.candidates)

    def answer(self, index: Searchable, source: Source, start: int, stop: int) -> FoundArrays:
        """Results of queries [start, stop)."""
        k = self.k + self._spare(index)
        distances, ids = self.search(index, source.read(start, stop), k)
        own = source.read_ids(start, stop) if self.exclude_self or source.has_ids else None
        if self.exclude_self and own is not None:
            order = np.argsort(ids == own[:, None], axis=1, kind="stable")[:, : self.k]
            distances = np.take_along_axis(distances, order, axis=1)
            ids = np.take_along_axis(ids, order, axis=1)
            itself = ids == own[:, None]  # an id that more vectors have than were asked for
            ids[itself], distances[itself] = -1, Metric(index.metric).worst
        return FoundArrays.of_rows(distances, ids, own if source.has_ids else None)

    def search(self, index: Searchable, queries: Float32, k: int) -> tuple[Float32, Int64]:
        """Search a batch."""
        return index.search_at(queries, k, self.effort)

    def _spare(self, index: Searchable) -> int:
        """Results to ask for beside k: as many as may have the query's own id."""
        most = index.copies_of_an_id if self.exclude_self else 0
        return max(0, min(most, _MOST_COPIES, index.ntotal - self.k))

    def describe(self) -> dict[str, Any]:
        """Names and values."""
        return {"kind": "k", **asdict(self)}


@dataclass(frozen=True)
class Within:
    """All within a radius of each query; results of a batch are bounded as well.

    Parameters
    ----------
    radius : float
    effort : Effort
    exclude_self : bool
        As for `TopK`.
    """

    radius: float
    effort: Effort
    exclude_self: bool = False

    @property
    def k(self) -> None:
        """Depends on the query."""

    def check(self, index: Searchable, source: Source) -> None:
        """Raise InvalidArgument where index and queries do not fit the question."""
        _check_dimensions(index, source)
        if self.exclude_self:
            check_own_ids(index, source)
        if not np.isfinite(self.radius):
            raise InvalidArgument(f"radius is {self.radius}; a finite number expected")

    def batch_rows(self, index: Searchable) -> int:
        """Most queries that one batch may have: in half of its memory, the rest for results."""
        return max(1, index.batch_rows(self.effort.nprobe, 0) // 2)

    def answer(self, index: Searchable, source: Source, start: int, stop: int) -> FoundArrays:
        """Results of queries from ``start`` on: to ``stop``, or fewer if there are too many."""
        most = max(1, index.batch_bytes // 4 // _RESULT_BYTES)
        queries = source.read(start, stop)
        lims, distances, ids = self.search(index, queries, most)
        n = len(lims) - 1
        if not n and start < stop:
            raise MemoryLimitTooSmall(
                f"query {start} has more results than the {most:,} that the memory limit has "
                "room for at a time"
            )
        found = FoundArrays(lims, distances, ids)
        if self.exclude_self:
            found = _without(found, source.read_ids(start, start + n))
        if source.has_ids:
            found = replace(found, query_ids=source.read_ids(start, start + n))
        return found

    def search(
        self, index: Searchable, queries: Float32, most: int
    ) -> tuple[Int64, Float32, Int64]:
        """Search a batch, or the first of its queries."""
        return index.range_search_at(queries, self.radius, self.effort, most)

    def describe(self) -> dict[str, Any]:
        """Names and values."""
        return {"kind": "radius", **asdict(self)}


def question_of(index: Searchable, options: SearchOptions) -> Question:
    """The question that these options ask of an index, with the effort that it takes there.

    Raises
    ------
    InvalidArgument
        Options out of range; a recall that the index is not calibrated for.
    """
    if options.radius is not None:
        effort = index.effort(options.nprobe, options.recall, radius=options.radius)
        return Within(options.radius, effort, options.exclude_own)
    assert options.k is not None
    k = checked_k(options.k)
    effort = index.effort(
        options.nprobe, options.recall, k=min(k, index.ntotal), candidates=options.candidates
    )
    return TopK(k, effort, options.exclude_own)


def _without(found: FoundArrays, own: Int64) -> FoundArrays:
    """Leave out the results of each query that have its own id."""
    owners = np.repeat(np.arange(found.n), np.diff(found.lims))
    others = found.ids != own[owners]
    counts = np.bincount(owners[others], minlength=found.n)
    lims = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return FoundArrays(lims, found.distances[others], found.ids[others])


def all_but_own(ids: Int64, own: Int64) -> npt.NDArray[np.bool_]:
    """Which results, (nq, k) bool, are not the query itself, or the last where it is not found."""
    same = ids == own[:, None]
    place = np.where(same.any(axis=1), same.argmax(axis=1), ids.shape[1] - 1)
    return np.asarray(np.arange(ids.shape[1]) != place[:, None])


def check_own_ids(index: Searchable, source: Source) -> None:
    """Raise InvalidArgument where a query's id is not the id that the index knows it by.

    Ids of a column name a vector wherever it is stored. Row numbers do so only within the files
    that the index was built from, or the first of them.
    """
    made_of = index.source
    if not made_of:
        raise InvalidArgument(
            "this server does not tell what its index was built from, which leaving out a query's "
            "own vector needs: update the server"
        )
    column = made_of.get("id_column")
    if column is not None:
        if not source.has_ids:
            raise InvalidArgument(
                f"ids of the index are those of column {column!r}, of the queries row numbers: "
                f"name the id column of the queries to leave each out of its own neighbours"
            )
        return
    same = _holds_rows_of(made_of, source)
    if same and source.has_ids:
        raise InvalidArgument(
            f"ids of the queries are those of column {source.id_column!r}, of the index row "
            "numbers: leave the id column out"
        )
    if not same and not source.has_ids:
        raise InvalidArgument(
            "ids of the index are row numbers of the files that it was built from, "
            "and the queries are not these files or the first of them: their own vectors cannot "
            "be told; give the files that the index was built from, in the same order"
        )


def with_index_ids(
    made_of: dict[str, Any], opened: Callable[[str | None], Source], exclude_self: bool
) -> Source:
    """Open queries; those that are indexed vectors get the index's ids.

    So a result's queries and its ids are of one kind, and a vector is known as its own neighbour.

    Parameters
    ----------
    made_of : dict
        The source that the index was built from, as the manifest describes it.
    opened : callable
        Opens the queries with this id column, or with row numbers.
    exclude_self : bool
        The queries must have the index's ids.

    Raises
    ------
    InvalidSource
        The queries lack the index's id column, and it is needed.
    """
    column = made_of.get("id_column")
    if column is None:
        return opened(None)
    try:
        if not exclude_self and not _holds_rows_of(made_of, source := opened(None)):
            return source
        return opened(column)
    except InvalidSource as error:
        if not exclude_self:
            raise
        raise InvalidSource(
            f"{error}; the index's ids are those of column {column!r}, which --exclude-self needs"
        ) from error


def _holds_rows_of(made_of: dict[str, Any], source: Source) -> bool:
    """Whether a source is the vectors that an index was made of, or the first of its files."""
    if "files" in made_of and source.is_described_by(made_of):
        return True
    known = [file["fingerprint"] for file in made_of.get("files", [])]
    given = [file["fingerprint"] for file in source.describe()["files"]]
    return known[: len(given)] == given


def _check_dimensions(index: Searchable, source: Source) -> None:
    if source.d != index.d and (source.ntotal or source.d):
        raise InvalidArgument(
            f"queries of shape {(source.ntotal, source.d)} found, (nq, {index.d}) expected"
        )
