"""Messages between clients, coordinator and servers, as types and as frames.

A client sends a ``SearchRequest``. The coordinator turns it into one ``ListRequest`` per server:
prepared queries, and for each query the lists to scan there. The reply is an ``Answer``, or an
error with its code. ``docs/serving.md`` describes the protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, ProtocolError
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.error_codes import (
    ERROR_CODES,
    encode_error,
    error_code,
    error_message,
    error_of_header,
    error_of_text,
    error_text,
)
from teravec.serving.wire.frames import Array, Parts, decode, encode, encode_parts
from teravec.serving.wire.harder import read_harder
from teravec.serving.wire.limits import Limits

__all__ = [
    "ERROR_CODES",
    "LARGEST_VERSION",
    "METHODS",
    "Answer",
    "ListRequest",
    "RefineRequest",
    "SearchRequest",
    "Wanted",
    "encode_error",
    "error_code",
    "error_message",
    "error_of_text",
    "error_text",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
_Arrays = dict[str, tuple[str, int]]

_RESULT_BYTES = 12  # a distance and an id
_CANDIDATE_BYTES = 16  # with an error bound
_KEEP_S = 60.0
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


class _Request:
    """Base of the requests. In a frame, array fields are arrays; all others go in the header."""

    _ARRAYS: ClassVar[_Arrays]  # kind and dimensions of each array
    __match_args__: ClassVar[tuple[str, ...]]  # the fields' names, by ``dataclass``
    queries: Float32
    wanted: Wanted
    context: RequestContext | None

    @property
    def results(self) -> int:
        """Largest number of results in the answer; 0 for a range search, where it is unknown."""
        most = max(self.wanted.k or 0, getattr(self, "candidates", None) or 0)
        return len(self.queries) * most

    @property
    def answer_bytes(self) -> int:
        """Largest size of the answer, as far as it is known: see ``results``."""
        of_candidates = getattr(self, "candidates", None) and not isinstance(self, SearchRequest)
        return self.results * (_CANDIDATE_BYTES if of_candidates else _RESULT_BYTES)

    def encode(self) -> bytes:
        """Return the request as a frame."""
        content = {**vars(self)}
        arrays: dict[str, Array] = {name: content.pop(name) for name in self._ARRAYS}
        content |= vars(content.pop("wanted"))
        if self.context is not None:
            content["context"] = self.context.fields()
        return encode({n: value for n, value in content.items() if value is not None}, arrays)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """Read a frame; raises ProtocolError or InvalidArgument if it holds no such request."""
        header, arrays = decode(data)
        content = {name: header.get(name) for name in cls.__match_args__}
        for name, (kind, ndim) in cls._ARRAYS.items():
            content[name] = _array(arrays, name, kind, ndim)
        content["wanted"] = Wanted(header.get("k"), header.get("radius"))
        content["context"] = RequestContext.read(content["context"])
        return cls(**content)


@dataclass(frozen=True)
class SearchRequest(_Request):
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
    """

    _ARRAYS: ClassVar[_Arrays] = {"queries": ("f", 2)}

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

    def __post_init__(self) -> None:
        _check_queries(self.queries)
        _check_timeout(self.timeout_s)
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
        if self.min_version is not None and not (
            type(self.min_version) is int and 0 <= self.min_version <= LARGEST_VERSION
        ):
            raise InvalidArgument(
                f"min_version is {self.min_version!r}; 0 to {LARGEST_VERSION:,} expected"
            )
        if self.version is not None and type(self.version) is not str:
            raise ProtocolError(f"version is {self.version!r}; a text expected")
        if self.harder is not None and read_harder(self.harder)[0] > (self.nprobe or 0):
            raise InvalidArgument(
                f"harder is {self.harder!r}; an nprobe of at most nprobe expected"
            )
        if type(self.allow_partial) is not bool:
            raise InvalidArgument(f"allow_partial is {self.allow_partial!r}; a bool expected")

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
class ListRequest(_Request):
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
    """

    _ARRAYS: ClassVar[_Arrays] = {
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

    def __post_init__(self) -> None:
        _check_queries(self.queries)
        _check_timeout(self.timeout_s)
        if not isinstance(self.version, str):
            raise ProtocolError(f"version is {self.version!r}; a text expected")
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
class RefineRequest(_Request):
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

    _ARRAYS: ClassVar[_Arrays] = {"queries": ("f", 2), "counts": ("u", 1), "places": ("i", 1)}

    version: str
    queries: Float32
    counts: npt.NDArray[np.uint32]
    places: Int64
    wanted: Wanted
    timeout_s: float
    context: RequestContext | None = None

    def __post_init__(self) -> None:
        _check_queries(self.queries)
        _check_timeout(self.timeout_s)
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

    def check(self, limits: Limits) -> None:
        """Raise LimitExceeded if the request is above a bound."""
        limits.check_queries(len(self.queries), self.wanted.k)
        limits.check_timeout(self.timeout_s)
        limits.check_results(len(self.places))


@dataclass(frozen=True)
class Answer:
    """Results, query after query, best first.

    Parameters
    ----------
    version : str
        Version of the index that was searched.
    counts : ndarray of shape (nq,), uint32
        Results of each query.
    distances, ids : ndarray of shape (sum of counts,), float32 and int64
    missing : float
        Share of the (query, list) pairs' bytes that no live server could scan; 0 if complete.
    errors : ndarray of float32, optional
        For an answer of candidates: the error bound of each distance. Distances are then
        estimates (lower is closer), ids are places, and results are unordered.
    number : int, optional
        The version's number. Servers of earlier releases do not tell it.
    """

    version: str
    counts: npt.NDArray[np.uint32]
    distances: Float32
    ids: Int64
    missing: float = 0.0
    errors: Float32 | None = None
    number: int | None = None

    @classmethod
    def of_top_k(cls, version: str, distances: Float32, ids: Int64) -> Answer:
        """Make an answer from tables of shape (nq, k), leaving out results with id -1."""
        held = ids >= 0
        if held.all():
            counts = np.full(len(ids), ids.shape[1], np.uint32)
            return cls(version, counts, distances.reshape(-1), ids.reshape(-1))
        return cls(version, held.sum(axis=1).astype(np.uint32), distances[held], ids[held])

    @property
    def lims(self) -> Int64:
        """Offsets of the queries' results: query i has [lims[i], lims[i + 1])."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def top_k(self, k: int, worst: float) -> tuple[Float32, Int64]:
        """Return tables of shape (nq, k): missing results have id -1 and distance ``worst``."""
        shape = len(self.counts), k
        if len(self.ids) == shape[0] * k:
            return self.distances.reshape(shape), self.ids.reshape(shape)
        filled = np.arange(k) < self.counts[:, None]
        distances = np.full(filled.shape, worst, np.float32)
        ids = np.full(filled.shape, -1, np.int64)
        distances[filled], ids[filled] = self.distances, self.ids
        return distances, ids

    def split(self, rows: Sequence[int]) -> list[Answer]:
        """Split into answers to ``rows[0]``, ``rows[1]``, ... queries."""
        stops = np.cumsum(rows).tolist()
        ends = self.lims[[0, *stops]].tolist()
        parts = [slice(*part) for part in pairwise(ends)]
        return [
            Answer(
                self.version,
                self.counts[start:stop],
                self.distances[part],
                self.ids[part],
                self.missing,
                None if self.errors is None else self.errors[part],
                self.number,
            )
            for (start, stop), part in zip(pairwise([0, *stops]), parts, strict=True)
        ]

    def check(self, nq: int, wanted: Wanted, larger_is_closer: bool) -> None:
        """Raise ProtocolError if this cannot be the answer to a request."""
        most = wanted.k
        if len(self.counts) != nq or (most is not None and (self.counts > most).any()):
            raise ProtocolError(f"{len(self.counts)} rows of results found, {nq} expected")
        values = -self.distances if larger_is_closer else self.distances
        if len(values) and (not np.isfinite(values).all() or self.ids.min() < 0):
            raise ProtocolError("a result has no finite distance, or a negative id")
        if wanted.radius is not None and len(values):
            radius = -wanted.radius if larger_is_closer else wanted.radius
            if values.max() > radius:
                raise ProtocolError("a result lies outside the radius")
        descends = values[1:] < values[:-1]
        if descends.any():
            first = np.zeros(len(values) + 1, bool)  # of a query's results
            first[self.lims] = True
            descends &= ~first[1:-1]
        if descends.any():
            raise ProtocolError("results are not ordered, best first")

    def encode(self) -> bytes:
        """Return the answer as a frame."""
        return b"".join(self.encode_parts())

    def encode_parts(self) -> Parts:
        """Return the answer as a frame in parts, which share the arrays' memory."""
        arrays: dict[str, Array] = {
            "counts": self.counts,
            "distances": self.distances,
            "ids": self.ids,
        }
        if self.errors is not None:
            arrays["errors"] = self.errors
        return encode_parts(self.header, arrays)

    @property
    def header(self) -> dict[str, Any]:
        """What its frame says besides the arrays."""
        header: dict[str, Any] = {"version": self.version, "missing": self.missing}
        return header if self.number is None else header | {"number": self.number}

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Answer:
        """Read a frame; raises the frame's error, or ProtocolError if it is no answer."""
        header, arrays = decode(data)
        if "error" in header:
            raise error_of_header(header)
        counts = _array(arrays, "counts", "u", 1)
        distances, ids = _array(arrays, "distances", "f", 1), _array(arrays, "ids", "i", 1)
        total, missing = int(counts.sum(dtype=np.uint64)), header.get("missing")
        errors = _array(arrays, "errors", "f", 1) if "errors" in arrays else None
        if errors is not None and len(errors) != total:
            raise ProtocolError(f"{total} results counted, {len(errors)} errors found")
        if not total == len(distances) == len(ids):
            raise ProtocolError(f"{total} results counted, {len(distances)} and {len(ids)} found")
        if not isinstance(header.get("version"), str) or not isinstance(missing, int | float):
            raise ProtocolError("an answer without its version or its missing share")
        number = header.get("number")
        if number is not None and type(number) is not int:
            raise ProtocolError(f"version number {number!r} found; a whole number expected")
        return cls(header["version"], counts, distances, ids, missing, errors, number)


# Request types by their name on the wire.
METHODS: dict[str, type[SearchRequest | ListRequest | RefineRequest]] = {
    "search": SearchRequest,
    "search-lists": ListRequest,
    "refine": RefineRequest,
}


def _array(arrays: dict[str, Array], name: str, kind: str, ndim: int) -> Any:
    array = arrays.get(name)
    if array is None or array.dtype.kind != kind or array.ndim != ndim:
        raise ProtocolError(f"no array {name!r} of kind {kind!r} and {ndim} dimensions found")
    return array


def _is_finite(value: object) -> bool:
    """Whether the value is a number within float32's range."""
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST  # type: ignore[operator]


def _check_timeout(timeout_s: object) -> None:
    if not (_is_finite(timeout_s) and timeout_s > 0):  # type: ignore[operator]
        raise InvalidArgument(f"timeout_s is {timeout_s!r}; a number above 0 expected")


def _check_candidates(most: object, wanted: Wanted) -> None:
    if most is not None and not (type(most) is int and most >= 1 and wanted.k is not None):
        raise InvalidArgument(f"candidates is {most!r}; a whole number from 1, and k, expected")


def _check_queries(queries: Float32) -> None:
    if not np.isfinite(queries).all():
        bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        raise InvalidArgument(f"query {bad[0]} holds NaN or an infinite value")
