"""A served index, searched as if it were here."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.arguments import PathArgument, flag, path_of, real_number, text, whole_number
from teravec.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LimitExceeded,
    OtherIndex,
    ProtocolError,
)
from teravec.index.calibration import Calibration, check_recall
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
from teravec.serving.wire.details import Details, read_details, read_effort
from teravec.serving.wire.flight_client import FlightPeer
from teravec.serving.wire.frames import encode
from teravec.serving.wire.peers import Peers, Question
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted
from teravec.serving.wire.security import ClientSecurity
from teravec.storage.layout import absolute

__all__ = ["RemoteIndex", "connect"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_LONGEST_S = 1e6  # waits of the system overflow beyond some 10^9 s
_RESULT_BYTES = 12
_BATCH_BYTES = 256 << 20  # of queries and results of a source, where nobody says
_BATCH_S = 60.0  # of one request of a batch, whatever a lone query is given
_FIRST_ROWS = 64  # queries of the first request within a radius: who knows what it finds
_HELD_BYTES = 5 * _RESULT_BYTES  # of a result in a batch: as it came, joined, and chosen from
_USUAL_NPROBE = 16  # where a recall or nothing is asked for
_LEAST_TIMEOUT_S = 0.001


class RemoteIndex(Fixed):
    """An index behind a server or coordinator, for any number of threads.

    Made by ``teravec.connect``. Use it as a context manager, or call ``close``; one that is
    dropped is closed with a ResourceWarning. Pickled, it is its URL and the names of its files,
    and connects anew where it is loaded.

    Attributes
    ----------
    d, ntotal, nlist : int
    metric : str
    stats : SearchStats
        Queries asked, and the bytes of requests and answers as ``bytes_read``; what the search
        cost is in ``statistics()``.
    batch_bytes : int
        Memory for the queries and results of a batch, where a source of queries is searched for.
    """

    d: int
    ntotal: int
    nlist: int
    metric: str
    stats: SearchStats
    batch_bytes: int

    def __init__(self, peers: list[FlightPeer], timeout_s: float) -> None:
        self._peers, self._timeout_s = Peers(peers), timeout_s
        self.stats, self.batch_bytes = SearchStats(), _BATCH_BYTES
        info = self.info()
        try:
            self.d, self.ntotal = int(info["d"]), int(info["ntotal"])
            self.nlist, self.metric = int(info["nlist"]), str(info["metric"])
            self._queries = int(info["limits"]["queries"])
            self._answer_bytes = int(info["limits"]["answer_bytes"])
            self._request_bytes = int(info["limits"]["request_bytes"])
            self._pairs = int(info["limits"]["pairs"])
            self._longest_s = float(info["limits"]["timeout_s"])
            self._version, self._codec = str(info["version"]), str(info["codec"])
            self._list_bytes = int(info["code_size"]) * self.ntotal // max(1, self.nlist)
            if min(self._queries, self._answer_bytes, self._request_bytes, self._pairs) < 1:
                raise ValueError("its limits allow no query")
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"the server's info is not what it should be: {error}") from error
        self._connected_by: dict[str, Any] | None = None
        self._dropped = weakref.finalize(self, _close_dropped, os.getpid(), self._peers)
        self._dropped.atexit = False  # what is under way then is ended by `exchanges`

    def info(self) -> dict[str, Any]:
        """What is served: sizes, codec, version, limits."""
        return self._tell("info")

    @property
    def codec(self) -> str:
        """What codes are, as ``build`` was told."""
        return self._codec

    @property
    def calibration(self) -> Calibration | None:
        """None: the server keeps it, and says what effort a recall takes."""
        return None

    @property
    def seal(self) -> str:
        """The version of the index that was served when this client connected."""
        return f"served {self._version}"

    @property
    def source(self) -> dict[str, Any]:
        """The vectors that the index was built from; empty where an older server does not tell."""
        return self._details.source

    @property
    def copies_of_an_id(self) -> int:
        """Most vectors that have the same id."""
        return self._details.copies_of_an_id

    @cached_property
    def _details(self) -> Details:
        return read_details(self._tell("info", {"source": True}), self._version)

    def holds(self, path: Path) -> bool:
        """Whether a file of this path would lie inside the index: it is elsewhere."""
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
        """The effort that nprobe or recall asks for, as the server says: see ``Index.effort``."""
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
        return read_effort(self._tell("info", {"effort": asked}), self._version)

    def statistics(self) -> dict[str, Any]:
        """State, load and latencies of the server and, at a coordinator, of its replicas."""
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
        timeout_s: float | None = None,
    ) -> tuple[Float32, Int64]:
        """Find each query's nearest vectors: see ``Index.search``.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), or (d,) for one
        k, nprobe : int
        recall : float, optional
            Instead of nprobe.
        candidates : int, optional
            As for ``Index.search``.
        timeout_s : float, optional
            Until the whole answer is here; that of ``connect`` if not given.

        Raises
        ------
        InvalidArgument, LimitExceeded
            Queries do not fit the index, or the server's bounds.
        Busy, Unavailable, DeadlineExceeded
            Tried again until the deadline.
        AccessDenied, ProtocolError
        """
        return self.search_partial(
            queries,
            k,
            nprobe,
            recall=recall,
            candidates=candidates,
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
        timeout_s: float | None = None,
        allow_partial: bool = True,
    ) -> tuple[Float32, Int64, float]:
        """As ``search``, without lists that no live server owns.

        Returns
        -------
        distances, ids
            As of ``search``.
        missing : float
            Share of the bytes to scan that was left out, 0 if nothing was.
        """
        k, queries = checked_k(k), as_queries(queries)
        answers = self._ask(
            queries, Wanted(k=k), nprobe, recall, timeout_s, allow_partial, candidates
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
        timeout_s: float | None = None,
    ) -> tuple[Int64, Float32, Int64]:
        """Find all vectors within a radius of each query: see ``Index.range_search``."""
        return self.range_search_partial(
            queries, radius, nprobe, recall=recall, timeout_s=timeout_s, allow_partial=False
        )[:3]

    def range_search_partial(
        self,
        queries: Float32,
        radius: float,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        timeout_s: float | None = None,
        allow_partial: bool = True,
    ) -> tuple[Int64, Float32, Int64, float]:
        """As ``range_search``, without lists that no live server owns; the last says how much."""
        wanted = Wanted(radius=checked_radius(radius))
        answers = self._ask(queries, wanted, nprobe, recall, timeout_s, allow_partial)
        return (*_joined(answers), _missing(answers))

    def batch_rows(self, nprobe: int, k: int, candidates: int | None = None) -> int:
        """Queries of a batch: as many as ``batch_bytes`` hold with their results."""
        return max(1, self.batch_bytes // (2 * 4 * self.d + _HELD_BYTES * k))

    def search_at(self, queries: Float32, k: int, effort: Effort) -> tuple[Float32, Int64]:
        """Do as ``search`` at a stated effort, however long all queries take together.

        Raises
        ------
        OtherIndex
            The server went over to another version since this client connected.
        """
        k, queries = checked_k(k), checked_queries(queries, self.d)
        answers = list(self._answers_at(queries, Wanted(k=k), effort))
        return self._tables(answers, k)

    def range_search_at(
        self, queries: Float32, radius: float, effort: Effort, most: int
    ) -> tuple[Int64, Float32, Int64]:
        """Do as ``range_search`` for the first queries: see ``Index.range_search_at``."""
        queries, wanted = checked_queries(queries, self.d), Wanted(radius=checked_radius(radius))
        answers: list[Answer] = []
        left = most
        for answer in self._answers_at(queries, wanted, effort, most // 4):
            fit = int(np.searchsorted(answer.lims, left, side="right")) - 1
            if fit < len(answer.counts):
                answers.append(answer.split([fit])[0])
                break
            answers.append(answer)
            left -= len(answer.ids)
        return _joined(answers)

    def _answers_at(
        self, queries: Float32, wanted: Wanted, effort: Effort, few: int | None = None
    ) -> Iterator[Answer]:
        """Answers to runs of the queries, in order; ``few`` results an answer are aimed at.

        A run that is too much for the server, or for its time, is sent in smaller ones.
        """
        make = partial(
            SearchRequest,
            wanted=wanted,
            nprobe=effort.nprobe,
            prune=effort.prune or None,
            candidates=effort.candidates,
        )
        most = self._most_rows(wanted, effort.nprobe, effort.candidates)
        rows = most if few is None else min(most, _FIRST_ROWS)
        start = 0
        while start < max(1, len(queries)):
            part = queries[start : start + rows]
            deadline = Deadline.after(min(max(_BATCH_S, self._timeout_s), self._longest_s))
            try:
                answer = self._ask_run(make(part, timeout_s=deadline.left_s), deadline)
            except (LimitExceeded, DeadlineExceeded):
                if len(part) <= 1:
                    raise
                rows = most = -(-len(part) // 4)
                continue
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
        """Distances and ids of shape (nq, k), of answers to runs of queries."""
        worst = np.inf if self.metric == "l2" else -np.inf
        tables = [answer.top_k(k, worst) for answer in answers]
        return np.concatenate([d for d, _ in tables]), np.concatenate([i for _, i in tables])

    def _ask(
        self,
        queries: Float32,
        wanted: Wanted,
        nprobe: int | None,
        recall: float | None,
        timeout_s: float | None,
        allow_partial: bool,
        candidates: int | None = None,
    ) -> list[Answer]:
        """Answers to runs of the queries, each small enough for the server."""
        queries = checked_queries(queries, self.d)
        if nprobe is not None and recall is not None:
            raise InvalidArgument(f"nprobe {nprobe} and recall {recall} given; one expected")
        nprobe = None if nprobe is None else checked_nprobe(nprobe)
        recall = None if recall is None else check_recall(recall)
        candidates = None if candidates is None else whole_number(candidates, "candidates", 1)
        timeout_s = self._timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        allow_partial = flag(allow_partial, "allow_partial")
        deadline = Deadline.after(timeout_s)
        answers: list[Answer] = []
        most = self._most_rows(wanted, nprobe, candidates)
        while True:
            for start in range(0, max(len(queries), 1), most):
                part = queries[start : start + most]
                request = SearchRequest(
                    part, wanted, nprobe, recall, self._timeout_s, allow_partial, candidates
                )
                answers.append(self._ask_run(request, deadline))
                if answers[-1].version != answers[0].version:
                    break
            else:
                return answers
            answers = []  # the index changed meanwhile: no result mixes two versions

    def _ask_run(self, request: SearchRequest, deadline: Deadline) -> Answer:
        queries, wanted = request.queries, request.wanted
        request = replace(request, context=CURRENT.get())
        nprobe = min(self.nlist, request.nprobe or _USUAL_NPROBE)
        question = Question(
            "search",
            lambda: replace(request, timeout_s=max(_LEAST_TIMEOUT_S, deadline.left_s)).encode(),
            len(queries) * nprobe * self._list_bytes,
            lambda answer: answer.check(len(queries), wanted, self.metric != "l2"),
        )
        answer, size = self._peers.ask(question, deadline)
        self.stats.add(SearchStats(queries=len(queries), bytes_read=size))
        return answer

    def _most_rows(self, wanted: Wanted, nprobe: int | None, candidates: int | None) -> int:
        """Most queries that one request may have by the server's limits."""
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
        """Pickled and copied are the URL and names of files, never a secret; it connects anew."""
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
    insecure: bool = False,
) -> RemoteIndex:
    """Connect to a server or coordinator.

    Parameters
    ----------
    url : str
        ``host:port``, ``grpc://host:port`` or ``grpc+tls://host:port``; several, separated by
        commas, are coordinators of the same index. Where one fails or is overdue, the next one is
        asked, and asked first from then on.
    token, token_file : str and path-like, optional
        Sent only over TLS or to this machine, unless ``insecure``.
    ca : path-like, optional
        PEM file that signed the server's certificate.
    certificate, key : path-like, optional
        PEM files of this client's certificate, where servers ask for one.
    timeout_s : float
        For each search that does not say its own.
    insecure : bool

    Raises
    ------
    InvalidArgument
    Unavailable, AccessDenied
        Nobody answers within the timeout, or not to us.
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
    peers: list[FlightPeer] = []
    try:
        peers += [FlightPeer(url, security) for url in urls]
        index = RemoteIndex(peers, timeout_s)
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
    """Close the connections of a lost index; those of a parent are the parent's."""
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
    """Limits, distances and ids of answers to consecutive queries."""
    counts = np.concatenate([answer.counts for answer in answers])
    return (
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        np.concatenate([answer.distances for answer in answers]),
        np.concatenate([answer.ids for answer in answers]),
    )


def _missing(answers: list[Answer]) -> float:
    """The share missing of several runs of queries: their mean, weighted by queries."""
    weights = [max(1, len(answer.counts)) for answer in answers]
    total = sum(w * answer.missing for w, answer in zip(weights, answers, strict=True))
    return float(total / sum(weights))
