"""Requests for nearest vectors, as types and as frames."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, ProtocolError
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.filter_form import FilterForm, form_key, read_form
from teravec.serving.wire.frames import Array, decode, encode
from teravec.serving.wire.harder import read_harder
from teravec.serving.wire.limits import Limits

__all__ = [
    "LARGEST_VERSION",
    "Arrays",
    "ListRequest",
    "QueryRequest",
    "RefineRequest",
    "Request",
    "SearchRequest",
    "Wanted",
    "check_columns",
    "check_min_version",
    "check_timeout",
    "check_version",
    "find_array",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Arrays = dict[str, tuple[str, int]]
"""Kind and dimensions of the arrays of a request."""

_RESULT_BYTES = 12  # a distance and an id
_CANDIDATE_BYTES = 16  # with an error bound
_KEEP_S = 60.0
_MOST_COLUMNS = 1024
LARGEST_VERSION = 10**10 - 1
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Wanted:
    """The kind of search: the k nearest, or all within a radius; the other one is None."""

    k: int | None = None
    radius: float | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.radius is None):
            raise InvalidArgument("k or radius expected, and not both")
        if self.k is not None and not (type(self.k) is int and self.k >= 1):
            raise InvalidArgument(f"k is {self.k!r}; a whole number from 1 expected")
        if self.radius is not None and not _is_finite(self.radius):
            raise InvalidArgument(f"radius is {self.radius!r}; a finite number of float32 expected")


class Request:
    """Base of all requests. In a frame, array fields are arrays; all others go in the header."""

    ARRAYS: ClassVar[Arrays] = {}
    """Kind and dimensions of each array field."""
    __match_args__: ClassVar[tuple[str, ...]]  # the fields' names, by ``dataclass``
    context: RequestContext | None
    timeout_s: float

    @property
    def rows(self) -> int:
        """Queries, or what else is asked for in a request without any."""
        raise NotImplementedError

    @property
    def k(self) -> int | None:
        """Results a query, if it asks for so many."""
        return None

    @property
    def results(self) -> int:
        """Largest number of results in the answer; 0 where it is unknown."""
        return self.rows

    @property
    def answer_bytes(self) -> int:
        """Largest size of the answer, as far as it is known: see ``results``."""
        return self.results * _RESULT_BYTES

    @property
    def array_bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(getattr(self, name).nbytes for name in self.ARRAYS)

    @property
    def key(self) -> Hashable:
        """What requests that may be joined have in common; None joins with none."""
        return None

    def check(self, limits: Limits) -> None:
        """Raise LimitExceeded if the request is above a bound."""
        limits.check_timeout(self.timeout_s)
        limits.check_results(self.results)

    def encode(self) -> bytes:
        """Return the request as a frame."""
        content = {**vars(self)}
        arrays: dict[str, Array] = {name: content.pop(name) for name in self.ARRAYS}
        if (wanted := content.pop("wanted", None)) is not None:
            content |= vars(wanted)
        if self.context is not None:
            content["context"] = self.context.fields()
        return encode({n: value for n, value in content.items() if value is not None}, arrays)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """Read a frame; raises ProtocolError or InvalidArgument if it holds no such request."""
        header, arrays = decode(data)
        content = {name: header.get(name) for name in cls.__match_args__}
        for name, (kind, ndim) in cls.ARRAYS.items():
            content[name] = find_array(arrays, name, kind, ndim)
        if "wanted" in content:
            content["wanted"] = Wanted(header.get("k"), header.get("radius"))
        content["context"] = RequestContext.read(content["context"])
        return cls(**content)


class QueryRequest(Request):
    """Base of the requests with queries."""

    queries: Float32
    wanted: Wanted

    @property
    def rows(self) -> int:
        """Queries."""
        return len(self.queries)

    @property
    def k(self) -> int | None:
        """Results a query; None within a radius."""
        return self.wanted.k

    @property
    def results(self) -> int:
        """Largest number of results in the answer; 0 for a range search, where it is unknown."""
        most = max(self.wanted.k or 0, getattr(self, "candidates", None) or 0)
        return len(self.queries) * most

    @property
    def key(self) -> Hashable:
        """What requests that may be joined have in common."""
        return type(self), self.wanted, self.queries.shape[1], *self._options()

    def _options(self) -> tuple[Hashable, ...]:
        raise NotImplementedError


@dataclass(frozen=True)
class SearchRequest(QueryRequest):
    """A user's queries.

    Parameters
    ----------
    queries : ndarray of shape (nq, d), float32
    wanted : Wanted
    nprobe : int, optional
        Lists to visit per query.
    recall : float, optional
        Target recall instead of nprobe, by the index's calibration. With neither, the index's
        default applies.
    timeout_s : float
        Seconds from sending until the answer is no longer useful.
    allow_partial : bool
        Answer without the lists that no live server owns, and report the missing share.
    candidates : int, optional
        For codes in two stages: most vectors per query whose finer codes are read.
    prune : float, optional
        Beside nprobe, as in ``Effort``. Servers before it ignore it; they tell no effort either.
    context : RequestContext, optional
        Its id and trace. Servers of earlier releases ignore it.
    min_version : int, optional
        Number of the oldest version that may answer; a server waits for it, until the deadline.
    version : str, optional
        The version that must answer, as an earlier answer named it.
    harder : dict, optional
        Beside nprobe and prune, as ``write_harder`` returns it.
    filter : str or list, optional
        Find only rows that pass: see ``filter_form``.
    columns : list of str, optional
        Return these columns of the index with each result, ``["all"]`` for all of them. If the
        ids are texts, these are returned too, even if the list is empty.
    vectors : bool, optional
        Beside columns: return the vectors too, as the column ``vector``.

    Notes
    -----
    Servers of earlier releases ignore fields that they do not know. A request with a filter or
    columns is therefore sent by another method, ``query``, which they refuse.
    """

    ARRAYS: ClassVar[Arrays] = {"queries": ("f", 2)}

    queries: Float32
    wanted: Wanted
    nprobe: int | None = None
    recall: float | None = None
    timeout_s: float = 10.0
    allow_partial: bool = False
    candidates: int | None = None
    prune: float | None = None
    context: RequestContext | None = None
    min_version: int | None = None
    version: str | None = None
    harder: dict[str, Any] | None = None
    filter: FilterForm | None = None
    columns: list[str] | None = None
    vectors: bool | None = None

    def __post_init__(self) -> None:
        _check_queries(self.queries)
        check_timeout(self.timeout_s)
        _check_candidates(self.candidates, self.wanted)
        if self.nprobe is not None and self.recall is not None:
            raise InvalidArgument(f"nprobe {self.nprobe} and recall {self.recall}; one expected")
        if self.nprobe is not None and not (type(self.nprobe) is int and self.nprobe >= 1):
            raise InvalidArgument(f"nprobe is {self.nprobe!r}; a whole number from 1 expected")
        if self.recall is not None and not (_is_finite(self.recall) and 0 < self.recall <= 1):
            raise InvalidArgument(f"recall is {self.recall!r}; above 0, at most 1 expected")
        if self.prune is not None and not (
            _is_finite(self.prune) and self.prune >= 0 and self.nprobe is not None
        ):
            raise InvalidArgument(f"prune is {self.prune!r}; 0 or more, and nprobe, expected")
        check_min_version(self.min_version)
        if self.version is not None:
            check_version(self.version)
        if self.harder is not None and read_harder(self.harder)[0] > (self.nprobe or 0):
            raise InvalidArgument(
                f"harder is {self.harder!r}; an nprobe of at most nprobe expected"
            )
        if type(self.allow_partial) is not bool:
            raise InvalidArgument(f"allow_partial is {self.allow_partial!r}; a bool expected")
        if self.filter is not None:
            read_form(self.filter)
        check_columns(self.columns)
        if self.vectors is not None and (type(self.vectors) is not bool or self.columns is None):
            raise InvalidArgument(f"vectors is {self.vectors!r}; a bool, and columns, expected")

    @property
    def method(self) -> str:
        """The method by which it is sent."""
        return "search" if self.filter is None and self.columns is None else "query"

    def _options(self) -> tuple[Hashable, ...]:
        return (
            *(self.nprobe, self.prune, self.recall, self.allow_partial),
            *(self.candidates, self.version, *(self.harder or {}).items()),
            form_key(self.filter),
            None if self.columns is None else tuple(self.columns),
            self.vectors,
        )

    @property
    def keep_s(self) -> float:
        """Seconds for which its version should be there afterwards: its caller will ask again."""
        return 0.0 if self.version is None else _KEEP_S

    def check(self, limits: Limits) -> None:
        """Raise LimitExceeded if the request is above a bound."""
        limits.check_queries(len(self.queries), self.wanted.k)
        limits.check_timeout(self.timeout_s)
        if self.nprobe is not None:
            usual = self.nprobe if self.harder is None else read_harder(self.harder)[0]
            limits.check_nprobe(len(self.queries), usual)
        if self.candidates is not None:
            limits.check_results(len(self.queries) * self.candidates)


@dataclass(frozen=True)
class ListRequest(QueryRequest):
    """Prepared queries, and the lists that one server scans for each.

    Parameters
    ----------
    version : str
        Version of the index that lists and queries were prepared for.
    queries : ndarray of shape (nq, d_index), float32
        Scaled and transformed.
    counts : ndarray of shape (nq,), uint32
        Lists to scan for each query.
    list_nos, distances : ndarray of shape (sum of counts,), uint32 and float32
        The lists, query after query, and their centroids' distances.
    wanted : Wanted
    timeout_s : float
    candidates : int, optional
        For codes in two stages: run the first stage only, and answer with this many candidates
        per query, chosen by their estimates.
    context : RequestContext, optional
    filter : str or list, optional
        Scan only rows that pass. Sent by the method ``query-lists``, as for ``SearchRequest``.
    """

    ARRAYS: ClassVar[Arrays] = {
        "queries": ("f", 2),
        "counts": ("u", 1),
        "list_nos": ("u", 1),
        "distances": ("f", 1),
    }

    version: str
    queries: Float32
    counts: npt.NDArray[np.uint32]
    list_nos: npt.NDArray[np.uint32]
    distances: Float32
    wanted: Wanted
    timeout_s: float
    candidates: int | None = None
    context: RequestContext | None = None
    filter: FilterForm | None = None

    def __post_init__(self) -> None:
        _check_queries(self.queries)
        check_timeout(self.timeout_s)
        check_version(self.version)
        total = int(self.counts.sum(dtype=np.uint64))
        if len(self.counts) != len(self.queries) or not (
            total == len(self.list_nos) == len(self.distances)
        ):
            raise ProtocolError(
                f"{len(self.queries)} queries, {len(self.counts)} counts, {total} lists counted, "
                f"{len(self.list_nos)} lists and {len(self.distances)} distances do not fit"
            )
        if not np.isfinite(self.distances).all():
            raise InvalidArgument("a centroid's distance is NaN or infinite")
        _check_candidates(self.candidates, self.wanted)
        if self.filter is not None:
            read_form(self.filter)

    @property
    def answer_bytes(self) -> int:
        """Largest size of the answer; candidates have an error bound each."""
        return self.results * (_CANDIDATE_BYTES if self.candidates else _RESULT_BYTES)

    def _options(self) -> tuple[Hashable, ...]:
        return self.version, self.candidates, form_key(self.filter)

    def check(self, limits: Limits) -> None:
        """Raise LimitExceeded if the request is above a bound."""
        limits.check_queries(len(self.queries), self.wanted.k)
        limits.check_timeout(self.timeout_s)
        if len(self.counts):
            # The table of lists is as wide as its longest row.
            limits.check_nprobe(len(self.queries), int(self.counts.max()))
        if self.candidates is not None:
            limits.check_results(len(self.queries) * self.candidates)

    def table(self) -> tuple[Int64, Float32]:
        """Return lists and distances as tables of shape (nq, most lists per query), -1 for none."""
        width = int(self.counts.max()) if len(self.counts) else 0
        if width * len(self.counts) == len(self.list_nos):  # as many of each
            shape = len(self.counts), width
            return self.list_nos.astype(np.int64).reshape(shape), self.distances.reshape(shape)
        filled = np.arange(width) < self.counts[:, None]
        list_nos = np.full(filled.shape, -1, np.int64)
        distances = np.zeros(filled.shape, np.float32)
        list_nos[filled], distances[filled] = self.list_nos, self.distances
        return list_nos, distances


@dataclass(frozen=True)
class RefineRequest(QueryRequest):
    """Prepared queries, and for each the vectors whose finer codes are compared with it.

    Parameters
    ----------
    version : str
        Version of the index.
    queries : ndarray of shape (nq, d_index), float32
    counts : ndarray of shape (nq,), uint32
        Vectors for each query.
    places : ndarray of shape (sum of counts,), int64
        Places of the vectors, query after query: ``list_no << 32 | row``.
    wanted : Wanted
        How many of the best to return.
    timeout_s : float
    context : RequestContext, optional
    """

    ARRAYS: ClassVar[Arrays] = {"queries": ("f", 2), "counts": ("u", 1), "places": ("i", 1)}

    version: str
    queries: Float32
    counts: npt.NDArray[np.uint32]
    places: Int64
    wanted: Wanted
    timeout_s: float
    context: RequestContext | None = None

    def __post_init__(self) -> None:
        _check_queries(self.queries)
        check_timeout(self.timeout_s)
        if not isinstance(self.version, str) or self.wanted.k is None:
            raise ProtocolError("no version, or no k found")
        total = int(self.counts.sum(dtype=np.uint64))
        if len(self.counts) != len(self.queries) or total != len(self.places):
            raise ProtocolError(
                f"{len(self.queries)} queries, {len(self.counts)} counts, {total} vectors counted "
                f"and {len(self.places)} places do not fit"
            )
        if len(self.places) and self.places.min() < 0:
            raise InvalidArgument(f"place {self.places.min()} found; 0 or more expected")

    def _options(self) -> tuple[Hashable, ...]:
        return (self.version,)

    def check(self, limits: Limits) -> None:
        """Raise LimitExceeded if the request is above a bound."""
        limits.check_queries(len(self.queries), self.wanted.k)
        limits.check_timeout(self.timeout_s)
        limits.check_results(len(self.places))


def find_array(arrays: dict[str, Array], name: str, kind: str, ndim: int) -> Any:
    """Return a frame's array, or raise ProtocolError if there is none of this kind."""
    array = arrays.get(name)
    fits = array is not None and array.dtype.kind == kind and array.dtype.itemsize > 1
    if array is None or not fits or array.ndim != ndim:
        raise ProtocolError(f"no array {name!r} of kind {kind!r} and {ndim} dimensions found")
    return array


def _is_finite(value: object) -> bool:
    """Whether the value is a number within float32's range."""
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST  # type: ignore[operator]


def check_timeout(timeout_s: object) -> None:
    """Raise InvalidArgument unless this is a time."""
    if not (_is_finite(timeout_s) and timeout_s > 0):  # type: ignore[operator]
        raise InvalidArgument(f"timeout_s is {timeout_s!r}; a number above 0 expected")


def check_version(version: object) -> None:
    """Raise ProtocolError unless this may name a version."""
    if not isinstance(version, str):
        raise ProtocolError(f"version is {version!r}; a text expected")


def check_min_version(number: object) -> None:
    """Raise InvalidArgument unless this is None or a version's number."""
    if number is not None and not (type(number) is int and 0 <= number <= LARGEST_VERSION):
        raise InvalidArgument(f"min_version is {number!r}; 0 to {LARGEST_VERSION:,} expected")


def check_columns(columns: object) -> None:
    """Raise InvalidArgument unless this is None or a list of names."""
    if columns is None:
        return
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise InvalidArgument("columns: a list of names expected")
    if len(columns) > _MOST_COLUMNS:
        raise InvalidArgument(f"columns: {len(columns):,} names found, at most {_MOST_COLUMNS:,}")


def _check_candidates(most: object, wanted: Wanted) -> None:
    if most is not None and not (type(most) is int and most >= 1 and wanted.k is not None):
        raise InvalidArgument(f"candidates is {most!r}; a whole number from 1, and k, expected")


def _check_queries(queries: Float32) -> None:
    if not np.isfinite(queries).all():
        bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        raise InvalidArgument(f"query {bad[0]} holds NaN or an infinite value")
