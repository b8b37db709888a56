"""What is asked of an index for every query of a source: one batch at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from teravec.bulk.formats.found import FoundArrays
from teravec.errors import InvalidArgument, InvalidSource, MemoryLimitTooSmall
from teravec.index.manifest import count_copies_of_id
from teravec.kernels.metric import Metric
from teravec.search.effort import Effort
from teravec.search.index import Index
from teravec.search.ordering import by_query
from teravec.search.request import checked_k, padded
from teravec.sources import Source
from teravec.storage.list_runs import list_runs

__all__ = ["Question", "TopK", "Within", "all_but_own", "check_own_ids", "with_index_ids"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_MOST_COPIES = 100  # of a query's own id, that a search makes room for
_RESULT_BYTES = 64  # of a range search: distance, id, owner and sorting order, twice
_Prepared = tuple[Float32, Int64, Float32]  # queries, their lists, and distances to those


class Question(Protocol):
    """A question that every query of a source asks.

    Attributes
    ----------
    k : int or None
        Results a query; None where that depends on the query.
    """

    @property
    def k(self) -> int | None: ...

    def check(self, index: Index, source: Source) -> None:
        """Raise InvalidArgument where index and queries do not fit the question."""

    def batch_rows(self, index: Index) -> int:
        """Most queries that one batch may have in the index's memory limit."""

    def answer(self, index: Index, source: Source, start: int, stop: int) -> FoundArrays:
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

    def check(self, index: Index, source: Source) -> None:
        """Raise InvalidArgument where index and queries do not fit the question."""
        _check_dimensions(index, source)
        checked_k(self.k)
        if self.exclude_self:
            check_own_ids(index, source)

    def batch_rows(self, index: Index) -> int:
        """Most queries that one batch may have."""
        k = self.k + self._spare(index)
        return index.batch_rows(self.effort.nprobe, k, self.effort.candidates)

    def answer(self, index: Index, source: Source, start: int, stop: int) -> FoundArrays:
        """Results of queries [start, stop)."""
        wanted = index.nearest_lists(source.read(start, stop), self.effort)
        k = min(self.k + self._spare(index), index.ntotal)
        distances, ids = index.search_lists(*wanted, k, self.effort.candidates)
        own = source.read_ids(start, stop) if self.exclude_self or source.has_ids else None
        if self.exclude_self and own is not None:
            order = np.argsort(ids == own[:, None], axis=1, kind="stable")[:, : self.k]
            distances = np.take_along_axis(distances, order, axis=1)
            ids = np.take_along_axis(ids, order, axis=1)
            itself = ids == own[:, None]  # an id that more vectors have than were asked for
            ids[itself], distances[itself] = -1, Metric(index.metric).worst
        if ids.shape[1] < self.k:  # there are no more vectors
            distances, ids = padded(distances, ids, self.k, Metric.parse(index.metric).worst)
        return FoundArrays.of_rows(distances, ids, own if source.has_ids else None)

    def _spare(self, index: Index) -> int:
        """Results to ask for beside k: as many as may have the query's own id."""
        most = count_copies_of_id(index.manifest) if self.exclude_self else 0
        return max(0, min(most, _MOST_COPIES, index.ntotal - self.k))

    def describe(self) -> dict[str, Any]:
        """Names and values."""
        return {"kind": "k", **asdict(self)}


@dataclass(frozen=True)
class Within:
    """All within a radius of each query; results of a batch are bounded as well.

    Lists are visited in runs, so short that memory would hold the results even if every code
    in them were one. Where what was found so far outgrows its share of memory, the batch goes
    on with the first half of its queries.

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

    def check(self, index: Index, source: Source) -> None:
        """Raise InvalidArgument where index and queries do not fit the question."""
        _check_dimensions(index, source)
        if self.exclude_self:
            check_own_ids(index, source)
        if not np.isfinite(self.radius):
            raise InvalidArgument(f"radius is {self.radius}; a finite number expected")

    def batch_rows(self, index: Index) -> int:
        """Most queries that one batch may have: in half of its memory, the rest for results."""
        return max(1, index.batch_rows(self.effort.nprobe, 0) // 2)

    def answer(self, index: Index, source: Source, start: int, stop: int) -> FoundArrays:
        """Results of queries from ``start`` on: to ``stop``, or fewer if there are too many."""
        most = max(1, index.batch_bytes // 4 // _RESULT_BYTES)
        wanted = index.nearest_lists(source.read(start, stop), self.effort)
        counted = replace(index.stats)
        found = _Gathered(stop - start)
        names = source.read_ids(start, stop) if source.has_ids or self.exclude_self else None
        own = names if self.exclude_self else None
        for rows, list_nos in _runs(wanted[1], index.list_sizes, most):
            rows, list_nos = rows[rows < found.nq], list_nos[rows < found.nq]
            if not len(rows):
                continue
            lims, distances, ids = index.range_search_lists(
                wanted[0][rows], list_nos, np.ascontiguousarray(wanted[2][rows]), self.radius
            )
            found.add(np.repeat(rows, np.diff(lims)), distances, ids, own)
            found.halve_to(most, start)
        index.stats.queries = counted.queries + found.nq  # each run counted them
        arrays = found.arrays(Metric.parse(index.metric))
        if names is None or not source.has_ids:
            return arrays
        return replace(arrays, query_ids=names[: arrays.n])

    def describe(self) -> dict[str, Any]:
        """Names and values."""
        return {"kind": "radius", **asdict(self)}


class _Gathered:
    """What a batch's first ``nq`` queries found so far."""

    def __init__(self, nq: int) -> None:
        self.nq = nq
        self._parts: list[tuple[Int64, Float32, Int64]] = []

    def add(self, owners: Int64, distances: Float32, ids: Int64, own: Int64 | None) -> None:
        """Add results, given by query; those that are the query itself are left out."""
        if own is not None:
            others = ids != own[owners]
            owners, distances, ids = owners[others], distances[others], ids[others]
        self._parts.append((owners, distances, ids))

    def halve_to(self, most: int, start: int) -> None:
        """Give up queries from the end until at most ``most`` results are left."""
        while (total := sum(len(owners) for owners, _, _ in self._parts)) > most:
            if self.nq == 1:
                raise MemoryLimitTooSmall(
                    f"query {start} has {total:,} results or more; the memory limit has room for "
                    f"{most:,} at a time"
                )
            self.nq = -(-self.nq // 2)
            kept = [owners < self.nq for owners, _, _ in self._parts]
            self._parts = [
                (owners[keep], distances[keep], ids[keep])
                for keep, (owners, distances, ids) in zip(kept, self._parts, strict=True)
            ]

    def arrays(self, metric: Metric) -> FoundArrays:
        """All results, best first a query."""
        nothing = (np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
        owners, distances, ids = map(np.concatenate, zip(nothing, *self._parts, strict=True))
        self._parts.clear()
        return FoundArrays(*by_query(self.nq, owners, distances, ids, metric))


def _runs(list_nos: Int64, sizes: Int64, most: int) -> Iterator[tuple[Int64, Int64]]:
    """Cut a batch into runs of lists, in file order, with at most ``most`` codes to scan.

    Only a query alone with a list that is larger has more.

    Yields
    ------
    rows : ndarray of shape (n,), int64
        Queries that want some list of the run.
    list_nos : ndarray of shape (n, nprobe), int64
        Their lists of the run; others -1.
    """
    wanted, counts = np.unique(list_nos, return_counts=True)
    if len(wanted) and wanted[0] == -1:
        wanted, counts = wanted[1:], counts[1:]
    for start, stop, fits in list_runs(counts * sizes[wanted], most):
        mine = (list_nos >= wanted[start]) & (list_nos <= wanted[stop - 1])
        rows = np.flatnonzero(mine.any(axis=1))
        step = len(rows) if fits else max(1, most // int(sizes[wanted[start]]))
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            yield some, np.where(mine[some], list_nos[some], -1)


def all_but_own(ids: Int64, own: Int64) -> npt.NDArray[np.bool_]:
    """Which results, (nq, k) bool, are not the query itself, or the last where it is not found."""
    same = ids == own[:, None]
    place = np.where(same.any(axis=1), same.argmax(axis=1), ids.shape[1] - 1)
    return np.asarray(np.arange(ids.shape[1]) != place[:, None])


def check_own_ids(index: Index, source: Source) -> None:
    """Raise InvalidArgument where a query's id is not the id that the index knows it by.

    Ids of a column name a vector wherever it is stored. Row numbers do so only within the files
    that the index was built from, or the first of them.
    """
    made_of = index.manifest.source
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


def _check_dimensions(index: Index, source: Source) -> None:
    if source.d != index.d and (source.ntotal or source.d):
        raise InvalidArgument(
            f"queries of shape {(source.ntotal, source.d)} found, (nq, {index.d}) expected"
        )
