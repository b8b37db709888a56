"""Searches a served index as if it were a local one."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.arguments import PathArgument, flag, path_of, real_number, text, whole_number
from teravec.errors import (
    DeadlineExceeded,
    InvalidArgument,
    InvalidFilter,
    LimitExceeded,
    OldVersion,
    OtherIndex,
    ProtocolError,
)
from teravec.filters.each import group_filters
from teravec.filters.filter import FilterArgument
from teravec.index.calibration import Calibration, check_recall
from teravec.search.each_filter import search_each
from teravec.search.effort import Effort, effort_of_nprobe
from teravec.search.fixed import Fixed
from teravec.search.request import (
    as_queries,
    checked_k,
    checked_nprobe,
    checked_queries,
    checked_radius,
)
from teravec.search.stats import SearchStats
from teravec.serving.wire.context import CURRENT
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.details import (
    Details,
    ServedColumns,
    read_columns,
    read_details,
    read_effort,
)
from teravec.serving.wire.filter_form import form_of
from teravec.serving.wire.frames import encode
from teravec.serving.wire.harder import write_harder
from teravec.serving.wire.peer import ServerPeer
from teravec.serving.wire.peers import Peers, Question
from teravec.serving.wire.protocol import LARGEST_VERSION, Answer, GetRequest, SearchRequest, Wanted
from teravec.serving.wire.remote_tables import RemoteTables
from teravec.serving.wire.security import ClientSecurity
from teravec.serving.wire.tracing import outgoing
from teravec.storage.layout import absolute

__all__ = ["RemoteIndex", "connect"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_LONGEST_S = 1e6  # longer waits overflow in system calls (from some 10^9 s)
_RESULT_BYTES = 12
_BATCH_BYTES = 256 << 20  # default for the queries and results of a batch
_BATCH_S = 60.0  # least time for one request of a batch; the timeout is for lone queries
_FIRST_ROWS = 64  # queries of the first request within a radius: its results are unknown
_HELD_BYTES = 5 * _RESULT_BYTES  # a batch's result: as received, joined, and in the choice
_USUAL_NPROBE = 16  # guess for requests without nprobe
_LEAST_TIMEOUT_S = 0.001
_REFRESH_PAUSE_S = 0.05


class RemoteIndex(Fixed, RemoteTables):
    """An index behind a server or coordinator, for any number of threads.

    Made by ``teravec.connect``. Use it as a context manager, or call ``close``; if it is dropped
    without either, it is closed with a ResourceWarning. A pickle holds its URL and file names; it
    reconnects where it is loaded.

    Attributes
    ----------
    d, ntotal, nlist : int
    metric : str
    version : int
        Number of the server's version of the index at the time of connecting, or of ``refresh``.
    stats : SearchStats
        Queries asked, and the bytes of requests and answers as ``bytes_read``. The servers' own
        counts are in ``statistics()``.
    batch_bytes : int
        Memory for the queries and results of a batch, in searches of a source of queries.
    """

    d: int
    ntotal: int
    nlist: int
    metric: str
    version: int
    stats: SearchStats
    _queries: int
    _answer_bytes: int
    _request_bytes: int
    _pairs: int
    _longest_s: float
    _version: str
    _codec: str
    _list_bytes: int
    batch_bytes: int

    def __init__(self, peers: list[ServerPeer], timeout_s: float, min_version: int = 0) -> None:
        self._peers, self._timeout_s = Peers(peers), timeout_s
        self.stats, self.batch_bytes = SearchStats(), _BATCH_BYTES
        self.refresh(min_version)
        self._connected_by: dict[str, Any] | None = None
        self._dropped = weakref.finalize(self, _close_dropped, os.getpid(), self._peers)
        self._dropped.atexit = False  # at exit, `exchanges` ends calls under way

    def refresh(self, min_version: int = 0, *, timeout_s: float | None = None) -> None:
        """Describe, and search by source, the version that the server has now.

        Lone searches always get the server's current version. ``ntotal``, ``seal`` and searches of
        a source of queries are of the version at the time of connecting, until this.

        Parameters
        ----------
        min_version : int
            Wait until the server has this version, or a later one.
        timeout_s : float, optional
            Not given: that of ``connect``.

        Raises
        ------
        OldVersion
            The server did not get it in time.
        """
        min_version = whole_number(min_version, "min_version", 0, LARGEST_VERSION)
        timeout_s = self._timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        deadline = Deadline.after(timeout_s)
        while True:
            info = self._peers.tell("info", deadline)
            if int(info.get("number", 0)) >= min_version:
                break
            if deadline.left_s <= _REFRESH_PAUSE_S:
                raise OldVersion(
                    f"version {min_version} or a later one asked for; the server has version "
                    f"{info.get('number', 0)} of the index"
                )
            time.sleep(_REFRESH_PAUSE_S)
        self._read(info)
        self.__dict__.pop("_details", None)
        self.__dict__.pop("_served_columns", None)

    def _read(self, info: dict[str, Any]) -> None:
        """Take what the server says of the index."""
        try:
            limits = info["limits"]
            told: dict[str, Any] = {
                "version": int(info.get("number", 0)),
                "d": int(info["d"]),
                "ntotal": int(info["ntotal"]),
                "nlist": int(info["nlist"]),
                "metric": str(info["metric"]),
                "_queries": int(limits["queries"]),
                "_answer_bytes": int(limits["answer_bytes"]),
                "_request_bytes": int(limits["request_bytes"]),
                "_pairs": int(limits["pairs"]),
                "_longest_s": float(limits["timeout_s"]),
                "_version": str(info["version"]),
                "_codec": str(info["codec"]),
            }
            told["_list_bytes"] = int(info["code_size"]) * told["ntotal"] // max(1, told["nlist"])
            bounds = ("_queries", "_answer_bytes", "_request_bytes", "_pairs")
            if min(told[bound] for bound in bounds) < 1:
                raise ValueError("its limits allow no query")
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"the server's info is not what it should be: {error}") from error
        vars(self).update(told)  # users cannot set these

    def info(self) -> dict[str, Any]:
        """Describe the served index: sizes, codec, version, limits."""
        return self._tell("info")

    @property
    def codec(self) -> str:
        """The codec, in the words of ``build``."""
        return self._codec

    @property
    def calibration(self) -> Calibration | None:
        """None: the server has the calibration, and ``effort`` asks it."""
        return None

    @property
    def seal(self) -> str:
        """The version of the index at the time of connecting."""
        return f"served {self._version}"

    @property
    def source(self) -> dict[str, Any]:
        """The vectors that the index was built from; empty if the server is older."""
        return self._details.source

    @property
    def copies_of_an_id(self) -> int:
        """Most vectors that have the same id."""
        return self._details.copies_of_an_id

    @cached_property
    def _details(self) -> Details:
        return read_details(self._tell("info", {"source": True}), self._version)

    @cached_property
    def _served_columns(self) -> ServedColumns:
        return read_columns(self._tell("info", {"columns": True}), self._version)

    def holds(self, path: Path) -> bool:
        """Return whether this path lies inside the index: never, as it is elsewhere."""
        return False

    def effort(
        self,
        nprobe: int | None = None,
        recall: float | None = None,
        *,
        k: int = 10,
        radius: float | None = None,
        candidates: int | None = None,
    ) -> Effort:
        """Return the effort for nprobe or recall, as the server has it: see ``Index.effort``."""
        if nprobe is not None and recall is not None:
            raise InvalidArgument(f"nprobe {nprobe} and recall {recall} given; one expected")
        candidates = None if candidates is None else whole_number(candidates, "candidates", 1)
        if nprobe is not None:
            return replace(effort_of_nprobe(nprobe, self.nlist), candidates=candidates)
        options = {"k": k} if radius is None else {"radius": checked_radius(radius)}
        asked: dict[str, Any] = {"recall": recall, "candidates": candidates, **options}
        if recall is not None:
            asked["recall"] = check_recall(recall)
        asked = {name: value for name, value in asked.items() if value is not None}
        return read_effort(self._tell("info", {"effort": asked, "harder": True}), self._version)

    def statistics(self) -> dict[str, Any]:
        """Return state, load and latencies of the server, and of a coordinator's servers."""
        return self._tell("statistics")

    def _tell(self, action: str, asked: dict[str, Any] | None = None) -> dict[str, Any]:
        body = b"" if asked is None else encode(asked, {})
        return self._peers.tell(action, Deadline.after(self._timeout_s), body)

    def search(
        self,
        queries: Float32,
        k: int = 10,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        candidates: int | None = None,
        filter: FilterArgument | None = None,
        min_version: int | None = None,
        timeout_s: float | None = None,
    ) -> tuple[Float32, Int64]:
        """Find each query's nearest vectors: see ``Index.search``.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), or (d,) for one
        k, nprobe : int
        recall : float, optional
            Instead of nprobe.
        candidates, filter : optional
            As for ``Index.search``.
        min_version : int, optional
            Number of the oldest version of the index that may answer, such as ``teravec.add``
            returned: then a search finds what was added. The server waits for it.
        timeout_s : float, optional
            For the whole answer. Not given: that of ``connect``.

        Raises
        ------
        InvalidArgument, InvalidFilter, LimitExceeded
            Queries or filter do not fit the index, or the server's bounds.
        Busy, Unavailable, DeadlineExceeded
            Every try until the deadline failed.
        OldVersion
            The server had no version from ``min_version`` on by then.
        AccessDenied, ProtocolError
        """
        return self.search_partial(
            queries,
            k,
            nprobe,
            recall=recall,
            candidates=candidates,
            filter=filter,
            min_version=min_version,
            timeout_s=timeout_s,
            allow_partial=False,
        )[:2]

    def search_partial(
        self,
        queries: Float32,
        k: int = 10,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        candidates: int | None = None,
        filter: FilterArgument | None = None,
        min_version: int | None = None,
        timeout_s: float | None = None,
        allow_partial: bool = True,
    ) -> tuple[Float32, Int64, float]:
        """Search as ``search`` does, but skip lists without a live owner.

        Returns
        -------
        distances, ids
            As for ``search``.
        missing : float
            Share of the bytes to scan that was skipped; 0 for a whole answer.
        """
        k, queries = checked_k(k), as_queries(queries)
        answers = self._ask(
            queries,
            Wanted(k=k),
            nprobe,
            recall,
            candidates,
            filter,
            None,
            False,
            min_version,
            timeout_s,
            allow_partial,
        )
        distances, ids = self._tables(answers, k)
        if queries.ndim == 1 and len(queries):
            distances, ids = distances[0], ids[0]
        return distances, ids, _missing(answers)

    def range_search(
        self,
        queries: Float32,
        radius: float,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        filter: FilterArgument | None = None,
        min_version: int | None = None,
        timeout_s: float | None = None,
    ) -> tuple[Int64, Float32, Int64]:
        """Find all vectors within a radius of each query: see ``Index.range_search``."""
        return self.range_search_partial(
            queries,
            radius,
            nprobe,
            recall=recall,
            filter=filter,
            min_version=min_version,
            timeout_s=timeout_s,
            allow_partial=False,
        )[:3]

    def range_search_partial(
        self,
        queries: Float32,
        radius: float,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        filter: FilterArgument | None = None,
        min_version: int | None = None,
        timeout_s: float | None = None,
        allow_partial: bool = True,
    ) -> tuple[Int64, Float32, Int64, float]:
        """Search as ``range_search`` does, but skip lists without a live owner.

        The last value returned is the share of the bytes to scan that was skipped.
        """
        answers = self._ask(
            queries,
            Wanted(radius=checked_radius(radius)),
            nprobe,
            recall,
            None,
            filter,
            None,
            False,
            min_version,
            timeout_s,
            allow_partial,
        )
        return (*_joined(answers), _missing(answers))

    def batch_rows(self, nprobe: int, k: int, candidates: int | None = None) -> int:
        """Return the queries of a batch: as many as ``batch_bytes`` hold with their results."""
        return max(1, self.batch_bytes // (2 * 4 * self.d + _HELD_BYTES * k))

    def search_at(self, queries: Float32, k: int, effort: Effort) -> tuple[Float32, Int64]:
        """Search as ``search`` does, at a stated effort, with a deadline for each request only.

        Raises
        ------
        OtherIndex
            The server has gone over to another version since this client connected.
        """
        k, queries = checked_k(k), checked_queries(queries, self.d)
        template = self._template_at(Wanted(k=k), effort, None)
        return self._tables(list(self._answers_at(queries, template, effort.typical)), k)

    def search_under(
        self,
        queries: Float32,
        k: int,
        nprobe: int | None,
        recall: float | None,
        candidates: int | None,
        filter: FilterArgument,
    ) -> tuple[Float32, Int64]:
        """Search as ``search`` does under a filter, otherwise as ``search_at``."""
        k, queries = checked_k(k), checked_queries(queries, self.d)
        groups = group_filters(filter, len(queries))
        if groups is not None:
            return search_each(
                groups,
                lambda group: self.search_under(
                    queries[group.rows], k, nprobe, recall, candidates, group.filter
                ),
                k,
            )
        template = self._template(Wanted(k=k), nprobe, recall, candidates, None, False, None, False)
        form = None if filter is None else form_of(filter)
        template = replace(template, filter=form, version=self._version)
        return self._tables(list(self._answers_at(queries, template, nprobe or _USUAL_NPROBE)), k)

    def range_search_at(
        self,
        queries: Float32,
        radius: float,
        effort: Effort,
        most: int,
        filter: FilterArgument | None = None,
    ) -> tuple[Int64, Float32, Int64]:
        """Search the first queries as ``range_search`` does: see ``Index.range_search_at``."""
        queries, wanted = checked_queries(queries, self.d), Wanted(radius=checked_radius(radius))
        answers: list[Answer] = []
        left = most
        template = self._template_at(wanted, effort, filter)
        for answer in self._answers_at(queries, template, effort.typical, most // 4):
            fit = int(np.searchsorted(answer.lims, left, side="right")) - 1
            if fit < len(answer.counts):
                answers.append(answer.split([fit])[0])
                break
            answers.append(answer)
            left -= len(answer.ids)
        return _joined(answers)

    def _template_at(
        self, wanted: Wanted, effort: Effort, filter: FilterArgument | None
    ) -> SearchRequest:
        return SearchRequest(
            np.empty((0, self.d), np.float32),
            wanted,
            nprobe=effort.nprobe,
            prune=effort.prune or None,
            harder=write_harder(effort),
            candidates=effort.candidates,
            version=self._version,
            filter=None if filter is None else form_of(filter),
        )

    def _answers_at(
        self, queries: Float32, template: SearchRequest, nprobe: int, few: int | None = None
    ) -> Iterator[Answer]:
        """Yield answers to runs of the queries, in order, each of about ``few`` results.

        A run that exceeds the server's limits, or its time, is split.
        """
        most = self._most_rows(template.wanted, nprobe, template.candidates)
        rows = most if few is None else min(most, _FIRST_ROWS)
        start = 0
        while start < max(1, len(queries)):
            part = queries[start : start + rows]
            deadline = Deadline.after(min(max(_BATCH_S, self._timeout_s), self._longest_s))
            request = replace(template, queries=part, timeout_s=deadline.left_s)
            try:
                answer = self._ask_run(request, deadline)
            except (LimitExceeded, DeadlineExceeded):
                if len(part) <= 1:
                    raise
                rows = most = -(-len(part) // 4)
                continue
            except OtherIndex as error:
                raise OtherIndex(f"{error}; connect and search again") from None
            if answer.version != self._version:
                raise OtherIndex(
                    f"the server answers from version {answer.version}, {self._version} expected, "
                    "which it had before; connect and search again"
                )
            yield answer
            start += max(1, len(part))
            if few is not None:
                rows = min(most, 2 * rows, max(1, rows * few // max(1, len(answer.ids))))

    def _tables(self, answers: list[Answer], k: int) -> tuple[Float32, Int64]:
        """Join answers to runs of queries into distances and ids of shape (nq, k)."""
        worst = np.inf if self.metric == "l2" else -np.inf
        tables = [answer.top_k(k, worst) for answer in answers]
        return np.concatenate([d for d, _ in tables]), np.concatenate([i for _, i in tables])

    def _ask(
        self,
        queries: Float32,
        wanted: Wanted,
        nprobe: int | None,
        recall: float | None,
        candidates: int | None,
        filter: FilterArgument | None,
        columns: list[str] | None,
        vectors: bool,
        min_version: int | None,
        timeout_s: float | None,
        allow_partial: bool,
    ) -> list[Answer]:
        """Return answers to runs of the queries, each small enough for the server."""
        queries = checked_queries(queries, self.d)
        template = self._template(
            wanted, nprobe, recall, candidates, columns, vectors, min_version, allow_partial
        )
        groups = group_filters(filter, len(queries))
        deadline = self._deadline(timeout_s)
        if groups is None:
            if filter is not None:
                template = replace(template, filter=form_of(filter))
            return self._ask_runs(queries, [(template, np.arange(len(queries)))], deadline)
        parts = [
            (replace(template, filter=None if g.filter is None else form_of(g.filter)), g.rows)
            for g in groups
        ]
        answers = self._ask_runs(queries, parts or [(template, np.arange(0))], deadline)
        return [
            Answer.reordered(
                answers, np.concatenate([np.empty(0, np.int64), *(g.rows for g in groups)])
            )
        ]

    def _template(
        self,
        wanted: Wanted,
        nprobe: int | None,
        recall: float | None,
        candidates: int | None,
        columns: list[str] | None,
        vectors: bool,
        min_version: int | None,
        allow_partial: bool,
    ) -> SearchRequest:
        """Check options, and make a request without queries of them."""
        if nprobe is not None and recall is not None:
            raise InvalidArgument(f"nprobe {nprobe} and recall {recall} given; one expected")
        if min_version is not None:
            min_version = whole_number(min_version, "min_version", 0, LARGEST_VERSION)
        return SearchRequest(
            np.empty((0, self.d), np.float32),
            wanted,
            None if nprobe is None else checked_nprobe(nprobe),
            None if recall is None else check_recall(recall),
            self._timeout_s,
            flag(allow_partial, "allow_partial"),
            None if candidates is None else whole_number(candidates, "candidates", 1),
            min_version=min_version,
            columns=columns,
            vectors=vectors or None,
        )

    def _deadline(self, timeout_s: float | None) -> Deadline:
        return Deadline.after(self._timeout_s if timeout_s is None else _checked_timeout(timeout_s))

    def _ask_runs(
        self, queries: Float32, parts: list[tuple[SearchRequest, Int64]], deadline: Deadline
    ) -> list[Answer]:
        """Return answers to runs of some queries of each part, all of one version."""
        while True:
            try:
                return self._ask_runs_once(queries, parts, deadline)
            except OtherIndex:
                deadline.check()  # it was closed meanwhile: start anew, to mix no versions

    def _ask_runs_once(
        self, queries: Float32, parts: list[tuple[SearchRequest, Int64]], deadline: Deadline
    ) -> list[Answer]:
        answers: list[Answer] = []
        for template, rows in parts:
            most = self._most_rows(template.wanted, template.nprobe, template.candidates)
            start = 0
            while start < max(1, len(rows)):
                run = rows[start : start + most]
                version = answers[0].version if answers else None  # kept for the other runs
                request = replace(template, queries=queries[run], version=version)
                try:
                    answer = self._ask_run(request, deadline)
                except InvalidFilter as error:
                    named = f"query {int(rows[0]):,}: " if len(parts) > 1 else ""
                    raise InvalidFilter(f"{named}{error}") from None
                except LimitExceeded:
                    if template.columns is None or len(run) <= 1:
                        raise
                    most = -(-len(run) // 4)  # nobody knows how large columns are
                    continue
                if version is not None and answer.version != version:  # as older servers may answer
                    raise OtherIndex(f"version {answer.version} answered, {version} expected")
                answers.append(answer)
                start += max(1, len(run))
        return answers

    def _ask_run(self, request: SearchRequest, deadline: Deadline) -> Answer:
        queries, wanted = request.queries, request.wanted
        nprobe = min(self.nlist, request.nprobe or _USUAL_NPROBE)
        answer = self._ask_one(
            request.method,
            request,
            len(queries) * nprobe * self._list_bytes,
            lambda answer: answer.check(len(queries), wanted, self.metric != "l2"),
            deadline,
        )
        self.stats.add(SearchStats(queries=len(queries)))
        return answer

    def _ask_one(
        self,
        method: str,
        request: SearchRequest | GetRequest,
        size: int,
        check: Callable[[Answer], None],
        deadline: Deadline,
    ) -> Answer:
        """Ask one question, with the time that is left."""
        request = replace(request, context=outgoing(CURRENT.get()))
        question = Question(
            method,
            lambda: replace(request, timeout_s=max(_LEAST_TIMEOUT_S, deadline.left_s)).encode(),
            size,
            check,
            of_one_version=request.version is not None,
        )
        try:
            answer, size = self._peers.ask(question, deadline)
        except InvalidArgument as error:
            if method != "search" and str(error).startswith("no method"):
                raise InvalidArgument(
                    "a server is older than this client, and takes no filters and sends no "
                    f"columns: update it ({error})"
                ) from None
            raise
        self.stats.add(SearchStats(bytes_read=size))
        _check_number(answer, request.min_version)
        return answer

    def _most_rows(self, wanted: Wanted, nprobe: int | None, candidates: int | None) -> int:
        """Return the most queries that the server's limits allow in one request."""
        most = min(self._queries, max(1, (self._request_bytes - 4096) // (4 * self.d)))
        if wanted.k is not None:
            results = max(wanted.k, candidates or 0)
            most = min(most, max(1, self._answer_bytes // (_RESULT_BYTES * max(1, results))))
        if nprobe is not None:
            most = min(most, max(1, self._pairs // max(1, nprobe)))
        return most

    def close(self) -> None:
        """Close the connections."""
        self._dropped.detach()
        self._peers.close()

    def __len__(self) -> int:
        return self.ntotal

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        addresses = ",".join(self._peers.addresses)
        return (
            f"<teravec.RemoteIndex {addresses!r}: {self.ntotal:,} x {self.d}, {self.metric}, "
            f"{self.nlist:,} lists>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the URL and the names of files, never a secret."""
        if self._connected_by is None:
            raise InvalidArgument(
                "this connection has a token of its own, which is not pickled: connect with "
                "token_file, or in each process"
            )
        return _connect_again, (self._connected_by,)

    def __enter__(self) -> RemoteIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    url: str,
    *,
    token: str | None = None,
    token_file: PathArgument | None = None,
    ca: PathArgument | None = None,
    certificate: PathArgument | None = None,
    key: PathArgument | None = None,
    timeout_s: float = 10.0,
    min_version: int = 0,
    insecure: bool = False,
) -> RemoteIndex:
    """Connect to a server or coordinator.

    Parameters
    ----------
    url : str
        ``host:port``, ``grpc://host:port`` or ``grpc+tls://host:port``. Several addresses,
        separated by commas, are coordinators of the same index. If one fails or is overdue, the
        next one is asked, and remains the first to be asked.
    token, token_file : str and path-like, optional
        Sent only over TLS or to this machine, unless ``insecure``.
    ca : path-like, optional
        PEM file that signed the server's certificate.
    certificate, key : path-like, optional
        PEM files of this client's certificate, for servers that require one.
    timeout_s : float
        For each search without a timeout of its own.
    min_version : int
        Wait until the server has this version of the index, or a later one.
    insecure : bool

    Raises
    ------
    InvalidArgument
    Unavailable
        No server answers within the timeout.
    AccessDenied
        The server wants another token or certificate.
    OldVersion
        The server did not get ``min_version`` within the timeout.
    """

    urls = [part.strip() for part in text(url, "the server's address").split(",")]
    timeout_s, insecure = _checked_timeout(timeout_s), flag(insecure, "insecure")
    given = {"token_file": token_file, "ca": ca, "certificate": certificate, "key": key}
    files = {
        name: None if path is None else absolute(path_of(path, name))
        for name, path in given.items()
    }
    security = ClientSecurity.read(**files, insecure=insecure)
    if token is not None:
        token = text(token, "token")
        security = ClientSecurity(token, security.ca, security.certificate, security.key, insecure)
    peers: list[ServerPeer] = []
    try:
        peers += [ServerPeer(url, security) for url in urls]
        index = RemoteIndex(peers, timeout_s, min_version)
    except BaseException:
        for peer in peers:
            peer.close()
        raise
    if token is None:
        named = {name: None if path is None else str(path) for name, path in files.items()}
        index._connected_by = {"url": url, "timeout_s": timeout_s, "insecure": insecure, **named}
    return index


def _connect_again(options: dict[str, Any]) -> RemoteIndex:
    return connect(**options)


def _close_dropped(process: int, peers: Peers) -> None:
    """Close the connections of a dropped index; after a fork, only the parent does."""
    if os.getpid() != process:
        return
    peers.close()
    warnings.warn(
        f"connection to {', '.join(peers.addresses)} was dropped without close()",
        ResourceWarning,
        stacklevel=2,
    )


def _checked_timeout(timeout_s: float) -> float:
    expected = f"a number above 0, at most {_LONGEST_S:,.0f}"
    return real_number(timeout_s, "timeout_s", 1e-9, _LONGEST_S, expected)


def _joined(answers: list[Answer]) -> tuple[Int64, Float32, Int64]:
    """Join answers to consecutive queries into limits, distances and ids."""
    counts = np.concatenate([answer.counts for answer in answers])
    return (
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        np.concatenate([answer.distances for answer in answers]),
        np.concatenate([answer.ids for answer in answers]),
    )


def _check_number(answer: Answer, min_version: int | None) -> None:
    """Raise OldVersion if a server, as an earlier release does, answered from any version."""
    if min_version and (answer.number is None or answer.number < min_version):
        found = "an unknown version" if answer.number is None else f"version {answer.number}"
        raise OldVersion(f"version {min_version} or a later one asked for; {found} answered")


def _missing(answers: list[Answer]) -> float:
    """Return the missing share of several runs of queries: their mean, weighted by queries."""
    weights = [max(1, len(answer.counts)) for answer in answers]
    total = sum(w * answer.missing for w, answer in zip(weights, answers, strict=True))
    return float(total / sum(weights))
