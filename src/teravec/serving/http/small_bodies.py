"""Small searches in JSON of many callers: parsed, searched and answered together.

Bodies of callers with equal options are equal but for their numbers. What surrounds the numbers is
parsed and checked once. The numbers of all bodies become one array, and their answers are rows of
one table. Whatever does not fit (several queries, ids, a number that is none, a filter) goes the
usual way, which says what is wrong.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from teravec.errors import TeravecError
from teravec.serving.http.body import read_body
from teravec.serving.server.origin import Origin
from teravec.serving.server.service import SMALL_BYTES, SearchService
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted

__all__ = ["SmallBodies", "SmallBody"]

_MOST_OPTIONS = 256  # that are remembered
_LONGEST_OPTIONS = 512  # bytes
_ARRAY = re.compile(rb'"(?:queries|query)"\s*:\s*\[\s*(\[)?')
_NESTED_END = re.compile(rb"\s*\]")
_NUMBERS = b"0123456789+-.eE, \t\r\n"
_OPTIONS = {"queries", "query", "k", "nprobe", "recall", "timeout_s", "string_ids"}


class _Kind(NamedTuple):
    """What all bodies with the same options have in common."""

    request: SearchRequest
    string_ids: bool


class SmallBody(NamedTuple):
    """One body as it was read; ``key`` is equal for those that can be joined."""

    kind: _Kind
    key: Hashable
    numbers: bytes
    size: int
    until_s: float  # its deadline


class SmallBodies:
    """Reads small bodies for one service, and answers them together.

    Parameters
    ----------
    service : SearchService
    """

    def __init__(self, service: SearchService) -> None:
        self._service = service
        self._kinds: dict[tuple[bytes, bytes], _Kind | None] = {}

    @property
    def kinds(self) -> int:
        """Options that are remembered, a bounded number."""
        return len(self._kinds)

    def read(self, body: bytes, arrived_s: float) -> SmallBody | None:
        """Read a body; None if it must go the usual way."""
        found = _ARRAY.search(body, 0, _LONGEST_OPTIONS)
        if found is None or self._service.traces or self._service.draining:
            return None
        start = found.end()
        end = body.find(b"]", start)
        numbers, stop = body[start:end], end + 1
        if end < 0 or numbers.translate(None, _NUMBERS):
            return None
        if found[1]:
            closing = _NESTED_END.match(body, stop)
            if closing is None:
                return None  # several queries
            stop = closing.end()
        options = body[: found.start()], body[stop:]
        kind = self._kinds[options] if options in self._kinds else self._learn(options, body)
        if kind is None or numbers.count(b",") != kind.request.queries.shape[1] - 1:
            return None
        timeout_s = kind.request.timeout_s
        if arrived_s + timeout_s <= time.monotonic():
            return None
        return SmallBody(kind, options, numbers, len(body), arrived_s + timeout_s)

    def _learn(self, options: tuple[bytes, bytes], body: bytes) -> _Kind | None:
        """Parse and check options that are new."""
        if len(options[0]) + len(options[1]) > _LONGEST_OPTIONS:
            return None
        kind = None
        with suppress(TeravecError):  # the usual way says why
            kind = self._kind(body)
        if len(self._kinds) >= _MOST_OPTIONS:
            self._kinds.clear()
        self._kinds[options] = kind
        return kind

    def _kind(self, body: bytes) -> _Kind | None:
        limits, index = self._service.limits, self._service.backend.versions.current
        asked = read_body(body, index.d, limits.queries)
        given, queries = asked.options, asked.queries
        usual = given.model_fields_set <= _OPTIONS and index.manifest.text_ids is None
        if queries is None or not usual or given.k is None:
            return None
        wanted, timeout_s = Wanted(given.k), float(given.timeout_s)
        request = SearchRequest(queries, wanted, given.nprobe, given.recall, timeout_s)
        request.check(limits)
        few = len(body) + request.answer_bytes <= SMALL_BYTES
        return _Kind(request, given.string_ids) if few and len(queries) == 1 else None

    def answer(
        self, asked: Sequence[SmallBody], origin: Origin, context: RequestContext
    ) -> list[bytes | None]:
        """Answer bodies of one key, each with a text; None for one that must go the usual way.

        ``origin`` and ``context`` are of the first one.
        """
        started = time.perf_counter()
        nothing: list[bytes | None] = [None] * len(asked)
        queries = _queries(asked)
        now_s = time.monotonic()
        left_s = max(each.until_s for each in asked) - now_s
        if queries is None or left_s <= 0:
            return nothing
        request = replace(asked[0].kind.request, queries=queries, timeout_s=left_s)
        try:
            answer = self._service.search_together(request, len(asked), origin, context)
        except Exception:  # one may be at fault, or there is no room for all
            return nothing
        seconds, ended_s = time.perf_counter() - started, time.monotonic()
        texts: list[bytes | None] = list(_texts(answer, seconds, asked[0].kind.string_ids))
        for n, each in enumerate(asked):
            if each.until_s < ended_s:
                texts[n] = None  # the usual way says that it is late
        sent = [text for text in texts if text is not None]
        received = sum(each.size for each in asked)
        self._service.count_together(len(sent), 0, seconds, len(sent), received, sent)
        return texts


def _queries(asked: Sequence[SmallBody]) -> npt.NDArray[np.float32] | None:
    """Return the vectors of all bodies; None if one of them is none."""
    try:
        numbers = from_json(b"[%b]" % b",".join([each.numbers for each in asked]))
        with np.errstate(over="ignore"):
            table = np.array(numbers, np.float32).reshape(len(asked), -1)
    except (ValueError, OverflowError):
        return None
    fits = table.shape[1] == asked[0].kind.request.queries.shape[1] and np.isfinite(table).all()
    return table if fits else None


def _texts(answer: Answer, seconds: float, string_ids: bool) -> list[bytes]:
    """Return the JSON of a ``SearchAnswer`` for each query alone."""
    end = (
        f']}}],"version":"{answer.version}","number":{answer.number or 0},'
        f'"missing":{answer.missing!r},"seconds":{seconds!r}}}'
    )
    ids: list[Any] = list(map(str, answer.ids.tolist()))
    if string_ids:
        ids = [f'"{text}"' for text in ids]
    distances = [repr(d) if math.isfinite(d) else "null" for d in answer.distances.tolist()]
    texts, start = [], 0
    for count in answer.counts.tolist():
        stop = start + count
        texts.append(
            f'{{"results":[{{"ids":[{",".join(ids[start:stop])}],"distances":['
            f"{','.join(distances[start:stop])}{end}".encode()
        )
        start = stop
    return texts
