"""POST /search: from a body to an answer, in bounded memory and off the event loop.

A request's bytes count from before its body is read until its answer is sent. Searches run on their
own threads. If all threads are busy, or no bytes are left, the answer is ``busy`` at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from teravec.errors import Busy, DeadlineExceeded, InvalidArgument, LimitExceeded
from teravec.serving.http.answer import answer_pieces
from teravec.serving.http.arrow import ARROW_TYPE, arrow_pieces, read_arrow
from teravec.serving.http.body import SMALL_BODY_BYTES, Asked, read_body, timeout_of
from teravec.serving.http.rows import GET_BYTES, read_get, rows_pieces
from teravec.serving.loop.asgi import ARRIVED
from teravec.serving.server.access import Access
from teravec.serving.server.batching import JOINED_RESULTS
from teravec.serving.server.budget import Share
from teravec.serving.server.fairness import FairShares
from teravec.serving.server.lookup import VectorLookup
from teravec.serving.server.origin import HERE, Origin
from teravec.serving.server.service import SearchService
from teravec.serving.wire.protocol import Answer, GetRequest, SearchRequest, Wanted
from teravec.serving.wire.tracing import outgoing
from teravec.sources import parse_columns

__all__ = ["ACCESS", "CODE", "ORIGIN", "HttpSearches"]

T = TypeVar("T")

ORIGIN = "teravec.origin"  # in a request's scope: where it comes from
CODE = "teravec.code"  # likewise: the code of the error that it was answered with
ACCESS = "teravec.access"  # likewise: what the access log says of it, if there is one
_MOST_SEARCHES = 128  # at a time; each takes a thread, and batches join their requests
_SMALL_RESULTS = 4096  # an answer of so few results is written at once
_BODY_S = 30.0
_TURNS = 4
_SEND_S, _SEND_BYTES_S = 30.0, 128 << 10  # time to read an answer: 30 s, plus 1 s per 128 KiB
_TEXT_BYTES = 30  # approximate size of a result in JSON
_ARROW_TIMES = 5  # a body, and float16 as float32 twice, while it is converted
_PIECE_TEXT_BYTES = 384 << 10  # of an answer, as text, at a time


class HttpSearches(Response):
    """Answers searches. It is an ASGI application, and the route returns it as its response.

    Parameters
    ----------
    service : SearchService
    lookup : VectorLookup, optional
        For queries by id.
    """

    def __init__(self, service: SearchService, lookup: VectorLookup | None) -> None:
        super().__init__()
        self._service, self._lookup, self._limits = service, lookup, service.limits
        self._most = min(service.limits.queue, _MOST_SEARCHES)
        self._under_way, self._shares = 0, FairShares(self._most)
        self._searching = ThreadPoolExecutor(self._most, "teravec-http")
        # One thread for all large bodies and answers: both run in Python, and hold its lock.
        self._reading = ThreadPoolExecutor(1, "teravec-read-json")
        self._writing = ThreadPoolExecutor(1, "teravec-write-json")
        self._turn = asyncio.Semaphore(_TURNS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise its error."""
        arrived_s = scope.get(ARRIVED) or time.monotonic()
        origin = scope.get(ORIGIN, HERE)
        if self._service.traces:  # FastAPI has a span of its own for each request
            origin = replace(origin, context=outgoing(origin.context))
        self._check_room(origin)
        with self._service.budget.share(origin.share) as share:
            arrow, rows = _is_arrow(scope), scope["path"] == "/get"
            most = self._limits.request_bytes if arrow else self._limits.json_bytes
            most = min(most, GET_BYTES) if rows else most
            share.hold(_body_bytes(scope, most))
            body = await self._read(receive, most)
            if body is None:
                return  # the client left
            self._check_room(origin)
            self.count(origin, 1)
            try:
                asked = body, share, arrived_s, origin, scope.get(ACCESS)
                if rows:
                    pieces = await self._on_thread(self._get, *asked)
                elif arrow:
                    search = partial(self._search_arrow, scope["query_string"])
                    pieces = await self._on_thread(search, *asked)
                else:
                    pieces = await self._answer(*asked)
            finally:
                self.count(origin, -1)
            del body, asked
            kind = ARROW_TYPE if arrow and not rows else "application/json"
            await self._send(send, pieces, share, kind)

    async def _on_thread(self, search: Callable[..., T], *asked: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._searching, search, *asked)

    async def _read(self, receive: Receive, most: int) -> bytearray | None:
        """Read a whole body; None if the client left."""
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_S):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    body += message.get("body", b"")
                    _check(len(body), most)
                    if not message.get("more_body"):
                        return body
                    # Give way, so that one round of the event loop reads only some large bodies.
                    async with self._turn:
                        await asyncio.sleep(0)
        except TimeoutError:
            raise HTTPException(408, f"no complete body within {_BODY_S:.0f} s") from None

    def close(self) -> None:
        """Start no more searches."""
        for threads in (self._searching, self._reading, self._writing):
            threads.shutdown(wait=False, cancel_futures=True)

    def has_room(self, origin: Origin) -> bool:
        """Whether one more search of a caller may begin."""
        return self._under_way < self._most and self._shares.may_take(
            origin.share, 1, self._under_way
        )

    def _check_room(self, origin: Origin) -> None:
        if self._under_way >= self._most:
            raise Busy(f"{self._most} searches are under way over HTTP, the most at a time")
        if not self._shares.may_take(origin.share, 1, self._under_way):
            raise Busy(
                f"{self._under_way} searches are under way over HTTP, and yours are as many as "
                f"one token may have of {self._most}"
            )

    def count(self, origin: Origin, change: int) -> None:
        """Count searches that begin, or (negative) have ended."""
        self._under_way += change
        self._shares.add(origin.share, change)

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function of some milliseconds off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writing, function)

    async def _answer(
        self, body: bytearray, share: Share, arrived_s: float, origin: Origin, access: Access | None
    ) -> Iterator[bytes] | list[bytes]:
        """Return the answer's pieces; a single piece if it is small."""
        loop, asked = asyncio.get_running_loop(), None
        d = self._service.backend.versions.current.d
        if len(body) > SMALL_BODY_BYTES:
            reading = loop.run_in_executor(self._reading, read_body, body, d, self._limits.queries)
            left_s = arrived_s + timeout_of(body) - time.monotonic()
            await asyncio.wait([reading], timeout=max(0.0, left_s))
            if not reading.done():
                reading.cancel()  # it waited behind other large bodies
                raise DeadlineExceeded("the deadline was over before the body was read")
            asked = reading.result()
        search = self._search, asked, body, d, share, arrived_s, origin, access
        return await self._on_thread(*search)

    def _search(
        self,
        asked: Asked | None,
        body: bytearray,
        d: int,
        share: Share,
        arrived_s: float,
        origin: Origin,
        access: Access | None,
    ) -> Iterator[bytes] | list[bytes]:
        """Search, on a search thread."""
        if asked is None:
            asked = read_body(body, d, self._limits.queries)
        body.clear()
        answer = self._found(self._request(asked), share, arrived_s, origin, access)
        seconds, string_ids = time.monotonic() - arrived_s, asked.options.string_ids
        if _is_small(answer):
            return [b"".join(answer_pieces(answer, seconds, string_ids))]
        return answer_pieces(_alone(answer), seconds, string_ids)

    def _search_arrow(
        self,
        parameters: bytes,
        body: bytearray,
        share: Share,
        arrived_s: float,
        origin: Origin,
        access: Access | None,
    ) -> Iterator[bytes] | list[bytes]:
        """Search for queries in Arrow's format, on a search thread."""
        share.hold(_ARROW_TIMES * len(body))
        asked = read_arrow(body, parameters, self._limits.queries)
        body.clear()
        answer = self._found(self._request(asked), share, arrived_s, origin, access)
        seconds = time.monotonic() - arrived_s
        if _is_small(answer):
            return [b"".join(arrow_pieces(answer, seconds))]
        return arrow_pieces(_alone(answer), seconds)

    def _get(
        self, body: bytearray, share: Share, arrived_s: float, origin: Origin, access: Access | None
    ) -> Iterator[bytes] | list[bytes]:
        """Return rows by id, on a search thread."""
        manifest = self._service.backend.versions.current.manifest
        asked, request = read_get(body, text_ids=manifest.text_ids is not None)
        body.clear()
        answer = self._found(request, share, arrived_s, origin, access)
        seconds = time.monotonic() - arrived_s
        if _is_small(answer):
            return [b"".join(rows_pieces(asked, answer, seconds))]
        return rows_pieces(asked, answer, seconds)

    def _found(
        self,
        request: SearchRequest | GetRequest,
        share: Share,
        arrived_s: float,
        origin: Origin,
        access: Access | None,
    ) -> Answer:
        """Search, within the deadline and the bytes of the request's share."""
        request.check(self._limits)
        left_s = arrived_s + request.timeout_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the request's deadline is over; it was not searched")
        results = request.rows * (request.k or 0)
        share.hold(request.array_bytes + self._sent_bytes(results))
        answer = self._service.search(replace(request, timeout_s=left_s), origin, access)
        columns = 0 if answer.table is None else answer.table.nbytes
        share.hold(self._sent_bytes(len(answer.ids)) + columns)
        return answer

    def _sent_bytes(self, results: int) -> int:
        """Return the bytes of results and of the text that waits to be read at a time."""
        text = min(results * _TEXT_BYTES, _PIECE_TEXT_BYTES)
        return self._limits.result_bytes(results) + text

    def _request(self, asked: Asked) -> SearchRequest:
        options, queries = asked.options, asked.queries
        manifest = self._service.backend.versions.current.manifest
        columns = None if options.columns is None else list(parse_columns(options.columns or None))
        if columns is None and manifest.text_ids is not None:
            columns = []  # the ids' texts
        if queries is None:
            if self._lookup is None:
                raise InvalidArgument("this server has no vectors to look ids up in (--vectors)")
            self._lookup.check(manifest)
            queries = self._lookup.vectors([int(i) for i in options.ids or []])
        return SearchRequest(
            queries,
            Wanted(options.k, options.radius),
            options.nprobe,
            options.recall,
            float(options.timeout_s),
            options.allow_partial,
            options.candidates,
            min_version=options.min_version,
            filter=options.filter,
            columns=columns,
        )

    async def _send(
        self, send: Send, pieces: Iterable[bytes], share: Share, content_type: str
    ) -> None:
        """Send an answer; raises TimeoutError if the client reads too slowly."""
        headers = [(b"content-type", content_type.encode())]
        if isinstance(pieces, list):
            headers.append((b"content-length", str(len(pieces[0])).encode()))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": pieces[0]})
            return
        loop, left = asyncio.get_running_loop(), iter(pieces)
        async with asyncio.timeout(_SEND_S + share.peak_bytes / 12 * _TEXT_BYTES / _SEND_BYTES_S):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while piece := await loop.run_in_executor(self._writing, next, left, b""):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _is_small(answer: Answer) -> bool:
    """Whether an answer is written at once."""
    columns = 0 if answer.table is None else answer.table.nbytes
    return len(answer.ids) <= _SMALL_RESULTS and columns <= _PIECE_TEXT_BYTES


def _is_arrow(scope: Scope) -> bool:
    """Whether the body is said to be an Arrow IPC stream."""
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    return bool(kinds) and kinds[0].split(b";")[0].strip().lower() == ARROW_TYPE.encode()


def _body_bytes(scope: Scope, most: int) -> int:
    """Return the largest size of a body before it is read; raises LimitExceeded if too large."""
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise InvalidArgument(
                f"content-encoding {value.decode('latin-1')[:40]!r} found; bodies are taken "
                "uncompressed only"
            )
        if name == b"content-length":
            size = int(value[:20]) if value.isdigit() else most
            _check(size, most)
            return size
    return most


def _check(size: int, most: int) -> None:
    if size > most:
        raise LimitExceeded(
            f"request bytes: {size:,} found, this server takes at most {most:,} over HTTP; send "
            "fewer queries at a time"
        )


def _alone(answer: Answer) -> Answer:
    """Copy the answer out of its batch, whose arrays would otherwise stay until it is sent."""
    if len(answer.ids) > JOINED_RESULTS:
        return answer  # it was searched alone
    table = answer.table
    if table is not None:
        table = table.take(pa.array(np.arange(len(table))))
    distances, ids = np.array(answer.distances), np.array(answer.ids)
    return replace(answer, distances=distances, ids=ids, table=table)
