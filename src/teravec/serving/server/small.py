"""Small searches of many callers: read, searched, answered and counted together.

Requests of clients with equal options have equal headers, up to their deadline. A header is parsed
and checked once. Its requests' queries become one array, and their answers are written as rows of
one table. Whatever does not fit (another header, a damaged frame, a query that is not finite) goes
the usual way, which says what is wrong.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from teravec.errors import DeadlineExceeded, TeravecError
from teravec.serving.server.access import Access, is_on, log_access
from teravec.serving.server.budget import Share
from teravec.serving.server.origin import Origin
from teravec.serving.server.service import SMALL_BYTES, SearchService
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.frames import Array, encode_rows, read_prefix
from teravec.serving.wire.protocol import Answer, SearchRequest, encode_error

__all__ = ["Asked", "SmallSearch", "SmallSearches"]

_LONGEST_HEADER = 512
_MOST_HEADERS = 256
_TIMEOUT = re.compile(rb'"timeout_s": ([0-9]{1,9}(?:\.[0-9]{1,20})?)(?=, )')


class _Kind(NamedTuple):
    """What all requests of one header have in common."""

    request: SearchRequest
    rows: int
    array_bytes: int
    padded_bytes: int


class SmallSearch(NamedTuple):
    """One request as it was read; ``key`` is equal for those that can be joined."""

    kind: _Kind
    key: Hashable
    frame: memoryview
    vectors: memoryview
    timeout_s: float


class Asked(NamedTuple):
    """A small search, its bytes in the budget, and who asked."""

    search: SmallSearch
    share: Share | None
    origin: Origin


class SmallSearches:
    """Reads small searches for one service, and answers them together.

    Parameters
    ----------
    service : SearchService
    """

    def __init__(self, service: SearchService) -> None:
        self._service = service
        self._kinds: dict[tuple[bytes, bytes], _Kind | None] = {}

    @property
    def kinds(self) -> int:
        """Headers that are remembered, a bounded number."""
        return len(self._kinds)

    def read(self, frame: memoryview) -> SmallSearch | None:
        """Read a frame; None if it must go the usual way."""
        if len(frame) > SMALL_BYTES or self._service.traces:
            return None
        found = read_prefix(frame, _LONGEST_HEADER)
        if found is None:
            return None
        text, start = found
        timeout = _TIMEOUT.search(text)
        if timeout is None:
            return None
        head = text[: timeout.start()], text[timeout.end() :]
        kind = self._kinds[head] if head in self._kinds else self._learn(head, frame)
        if kind is None or len(frame) - start != kind.padded_bytes:
            return None
        timeout_s = float(timeout[1])
        if not 0 < timeout_s <= self._service.limits.timeout_s:
            return None
        # Deadlines within a factor of two are joined.
        key = head, math.frexp(timeout_s)[1]
        return SmallSearch(kind, key, frame, frame[start : start + kind.array_bytes], timeout_s)

    def _learn(self, head: tuple[bytes, bytes], frame: memoryview) -> _Kind | None:
        """Parse and check a header that is new."""
        try:
            request = SearchRequest.decode(frame)
            request.check(self._service.limits)
        except TeravecError:
            return None
        rows, size = len(request.queries), request.queries.nbytes
        few = len(frame) + request.answer_bytes <= SMALL_BYTES
        kind = None
        usual = request.context is None and request.min_version is None
        usual = usual and request.columns is None
        if request.wanted.k is not None and usual and rows and few:
            kind = _Kind(request, rows, size, size + -size % 8)
        if len(self._kinds) >= _MOST_HEADERS:
            self._kinds.clear()
        self._kinds[head] = kind
        return kind

    def answer(self, asked: Sequence[Asked]) -> list[bytes]:
        """Answer searches of one key, each with a frame: an answer or an error."""
        if len(asked) == 1:
            return [self._alone(asked[0])]
        started, context = time.perf_counter(), RequestContext.new()
        try:
            answer = self._search(asked, context)
        except Exception:  # one may be at fault, or there is no room for all
            return [self._alone(each) for each in asked]
        seconds = time.perf_counter() - started
        frames = _frames(answer, asked[0].search.kind.rows, len(asked))
        late = [n for n, each in enumerate(asked) if seconds > each.search.timeout_s]
        for n in late:
            frames[n] = encode_error(DeadlineExceeded("the deadline was over in the queue"))
        received = sum(len(each.search.frame) for each in asked)
        queries = (len(asked) - len(late)) * asked[0].search.kind.rows
        counted = len(asked), len(late), seconds, queries, received, frames
        self._service.count_together(*counted)
        if is_on():
            self._log(asked, late, seconds, context.request_id)
        return frames

    def _log(self, asked: Sequence[Asked], late: Sequence[int], seconds: float, batch: str) -> None:
        """Write the access log's line of each request."""
        kind = asked[0].search.kind
        for n, each in enumerate(asked):
            outcome = "deadline-exceeded" if n in late else "ok"
            ours = RequestContext.new().request_id
            access = Access("flight", "search", ours, outcome, seconds, batch=batch)
            access.queries, access.k = kind.rows, kind.request.wanted.k
            log_access(access, each.origin)

    def _alone(self, asked: Asked) -> bytes:
        frame = asked.search.frame
        return b"".join(self._service.answer_frame("search", frame, asked.share, asked.origin))

    def _search(self, asked: Sequence[Asked], context: RequestContext) -> Answer:
        first = asked[0].search.kind.request
        joined = b"".join([each.search.vectors for each in asked])
        queries = np.frombuffer(joined, "<f4").reshape(-1, first.queries.shape[1])
        timeout_s = max(each.search.timeout_s for each in asked)
        request = replace(first, queries=queries, timeout_s=timeout_s)
        origin = asked[0].origin
        return self._service.search_together(request, len(asked), origin, context)


def _frames(answer: Answer, rows: int, count: int) -> list[bytes]:
    """Encode ``count`` answers to as many requests of ``rows`` queries each."""
    counts = answer.counts
    if not len(counts) or counts.min() != counts.max():
        return [part.encode() for part in answer.split([rows] * count)]
    arrays: dict[str, Array] = {"counts": counts, "distances": answer.distances, "ids": answer.ids}
    return encode_rows(answer.header, {name: a.reshape(count, -1) for name, a in arrays.items()})
