"""The service behind both ports: it checks, queues, answers and counts requests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from teravec.errors import Busy, InvalidArgument, LimitExceeded, OldVersion
from teravec.index.info import size_histogram
from teravec.serving.server.access import Access, is_on, log_access
from teravec.serving.server.batching import JOINED_RESULTS, Batcher, Job
from teravec.serving.server.budget import Budget, Share
from teravec.serving.server.details import details
from teravec.serving.server.following import Follower
from teravec.serving.server.gauges import gauge, info
from teravec.serving.server.metrics import Metrics
from teravec.serving.server.origin import HERE, Origin
from teravec.serving.server.served import Ranges, ServedIndex
from teravec.serving.server.versions import Versions
from teravec.serving.server.work import WorkEstimate
from teravec.serving.wire.context import CURRENT, RequestContext
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.frames import Parts
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import (
    METHODS,
    Answer,
    CountRequest,
    FindRequest,
    GetRequest,
    ListRequest,
    RefineRequest,
    Request,
    SearchRequest,
    TakeRequest,
    encode_error,
    error_code,
)
from teravec.serving.wire.requests import QueryRequest
from teravec.serving.wire.tracing import find_tracing

__all__ = ["Backend", "SearchService"]

log = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
_METHOD_OF: dict[type, str] = {kind: method for method, kind in reversed(METHODS.items())}
SMALL_BYTES = 16 << 10  # a request and its answer up to this are never refused for their bytes
_MOST_WAITING = 64  # requests that wait for a later version; each holds a thread
_SAY_S = 0.25  # of a request's time, to say that the version did not come
_CLOSE_S = 5.0  # for searches under way when a server closes without draining


class Backend(Protocol):
    """The searcher behind a service: this machine's lists, or a coordinator's servers."""

    versions: Versions

    def search(self, request: SearchRequest, deadline: Deadline) -> Answer:
        """Answer queries."""

    def search_lists(self, request: ListRequest, deadline: Deadline) -> Answer:
        """Search the lists given for each query."""

    def refine(self, request: RefineRequest, deadline: Deadline) -> Answer:
        """Compare each query with the finer codes of its given vectors."""

    def count(self, request: CountRequest, deadline: Deadline) -> Answer:
        """Count the rows of lists that pass a filter."""

    def find(self, request: FindRequest, deadline: Deadline) -> Answer:
        """Find rows by id among lists."""

    def take(self, request: TakeRequest, deadline: Deadline) -> Answer:
        """Read columns of rows at places."""

    def get(self, request: GetRequest, deadline: Deadline) -> Answer:
        """Return rows by id."""

    def list_sizes(self, index: ServedIndex) -> tuple[npt.NDArray[np.int64], Ranges]:
        """Return the vectors of each list, and the ranges of lists searched here."""

    def why_not_ready(self, *, partial: bool = False) -> str | None:
        """Return None if the backend can answer, otherwise what is missing.

        With ``partial``, partial answers are enough.
        """

    def statistics(self) -> dict[str, Any]:
        """Return statistics in addition to the service's own."""

    def want(self, versions: dict[str, str]) -> None:
        """Serve these versions as long as a coordinator makes requests for them."""

    def follow(self) -> None:
        """Go over to the index's newest version, if there is a newer one; raise if that fails."""

    def gauges(self) -> Iterable[Metric]:
        """What it is at this moment, beside the service's own gauges."""

    def reload(self) -> str:
        """Switch to the index that is now in the directory; return its version."""

    def close(self) -> None:
        """Close files and connections."""


class SearchService:
    """Answers requests from any number of threads.

    Parameters
    ----------
    backend : Backend
        Closed with the service.
    limits : Limits
    metrics : Metrics
    workers : int
        Batches at a time.
    batch_rows : int
        Most queries in a batch; 1 searches each request alone.
    follow_s : float, optional
        Seconds between two looks for a newer version of the index. Not given: it stays until it is
        reloaded.
    """

    def __init__(
        self,
        backend: Backend,
        limits: Limits,
        metrics: Metrics,
        *,
        workers: int = 1,
        batch_rows: int = 1024,
        follow_s: float | None = None,
    ) -> None:
        self.backend, self.limits, self.metrics = backend, limits, metrics
        self.budget = Budget(limits.queue_bytes, SMALL_BYTES)
        self._batcher = Batcher(self._run, limits, workers=workers, batch_rows=batch_rows)
        self._tracing, self._work = find_tracing(), WorkEstimate()
        self._draining = False
        self._started = self._reloaded = time.time()
        self._reload_failed, self._reload_s = False, 0.0
        self._follower = None if follow_s is None else Follower(backend.follow, follow_s)
        self._most_waiting = max(1, min(_MOST_WAITING, limits.queue))
        self._waiting = threading.BoundedSemaphore(self._most_waiting)
        metrics.collect_from(self._gauges, backend.gauges)

    def answer_frame(
        self, method: str, data: memoryview, share: Share | None = None, origin: Origin = HERE
    ) -> Parts:
        """Answer a request's frame with a frame in parts: an answer or an error.

        ``share`` reserves the bytes of both, starting before the search.
        """
        started = time.perf_counter()
        context, request, batch = origin.context, None, ""
        try:
            self.limits.check_bytes(len(data))
            if method not in METHODS:
                raise InvalidArgument(f"no method {method!r}; one of {', '.join(METHODS)} expected")
            request = METHODS[method].decode(data)
            context = request.context or context or RequestContext.new()
            if share is not None:
                request.check(self.limits)
                share.hold(len(data) + request.answer_bytes)
            answer, batch = self._answer(request, len(data), origin, context)
            frame, code = answer.encode_parts(), "ok"
            if len(answer.ids) <= JOINED_RESULTS:  # never keep a whole batch's arrays for one
                frame = [b"".join(frame)]
        except Exception as error:
            context = context or RequestContext.new()
            frame, code = [encode_error(error, context.request_id)], error_code(error)
            if code == "internal":
                log.exception("a request failed", extra={"request_id": context.request_id})
            self.metrics.refused("flight", code)
        seconds = time.perf_counter() - started
        self._count(method, code, seconds, request, len(data), sum(map(len, frame)))
        if is_on():
            method = method if method in METHODS else "other"
            access = Access("flight", method, context.request_id, code, seconds, batch=batch)
            access.trace_id = context.trace_id
            if request is not None:
                access.queries, access.k = request.rows, request.k
            log_access(access, origin)
        return frame

    def search(
        self,
        request: SearchRequest | GetRequest,
        origin: Origin = HERE,
        access: Access | None = None,
    ) -> Answer:
        """Answer a request that did not arrive as a frame; ``access`` learns about it.

        Raises
        ------
        TeravecError
        """
        started, size = time.perf_counter(), request.array_bytes
        code, sent = "internal", 0
        method = _METHOD_OF[type(request)]
        access = access or Access("here", method)
        access.queries, access.k = request.rows, request.k
        try:
            context = request.context or origin.context or RequestContext.new()
            answer, access.batch = self._answer(request, size, origin, context)
            code, sent = "ok", answer.nbytes
            return answer
        except Exception as error:
            code = error_code(error)
            raise
        finally:
            self._count(method, code, time.perf_counter() - started, request, size, sent)

    @property
    def traces(self) -> bool:
        """Whether each request has a span of its own."""
        return self._tracing is not None

    def search_together(
        self, request: SearchRequest, requests: int, origin: Origin, context: RequestContext
    ) -> Answer:
        """Answer small requests of one caller that were joined into one; raises as ``search``."""
        return self._answer(request, request.array_bytes, origin, context, requests)[0]

    def count_together(
        self,
        requests: int,
        late: int,
        seconds: float,
        queries: int,
        received: int,
        frames: Sequence[bytes],
    ) -> None:
        """Count requests that were answered together, ``late`` of them too late."""
        sent, answered = sum(map(len, frames)), requests - late
        self.metrics.request_together("search", "ok", seconds, queries, received + sent, answered)
        if late:
            self.metrics.request_together("search", "deadline-exceeded", seconds, 0, 0, late)
        self.metrics.moved("received", received)
        self.metrics.moved("sent", sent)

    def _count(
        self,
        method: str,
        code: str,
        seconds: float,
        request: Request | None,
        received: int,
        sent: int,
    ) -> None:
        queries = request.rows if isinstance(request, QueryRequest) else 0
        self.metrics.request(method, code, seconds, queries, received + sent)
        self.metrics.moved("received", received)
        self.metrics.moved("sent", sent)

    def _answer(
        self,
        request: Request,
        size: int,
        origin: Origin,
        context: RequestContext,
        requests: int = 1,
    ) -> tuple[Answer, str]:
        """Return the answer, and the id of the request that this one was joined to."""
        if self._tracing is None:
            return self._queued(request, size, origin, context, requests=requests)
        span, context = self._tracing.begin_request(_METHOD_OF[type(request)], context)
        code = "internal"
        try:
            found = self._queued(request, size, origin, context, span)
            code = "ok"
            return found
        except Exception as error:
            code = error_code(error)
            raise
        finally:
            self._tracing.end(span, code, queries=request.rows, k=request.k)

    def _queued(
        self,
        request: Request,
        size: int,
        origin: Origin,
        context: RequestContext,
        span: Any = None,
        requests: int = 1,
    ) -> tuple[Answer, str]:
        request.check(self.limits)
        if self._draining:
            raise Busy("the server is shutting down")
        deadline = Deadline.after(request.timeout_s)
        if isinstance(request, SearchRequest | GetRequest) and request.min_version is not None:
            self._wait_for(request.min_version, deadline)
        job = Job(
            request.key or object(),  # which equals nothing else
            request,
            request.rows,
            size,
            deadline,
            origin.share,
            self._work.of(request, self.backend.versions.current),
            request.results,
            context,
            span,
            requests=requests,
        )
        answer = self._batcher.answer(job)
        if answer.missing:
            self.metrics.partial()
        return answer, job.batch

    def _run(self, jobs: Sequence[Job], deadline: Deadline) -> list[Answer]:
        self.metrics.batch(sum(job.requests for job in jobs))
        first = jobs[0].context
        if len(jobs) > 1 and first is not None:
            for job in jobs[1:]:
                job.batch = first.request_id
        request = _joined([job.request for job in jobs])
        if self._tracing is None:
            answer = self._search(request, deadline, first)
        else:
            with self._tracing.search(
                [(job.span, job.entered_ns) for job in jobs], first
            ) as within:
                answer = self._search(request, deadline, within)
        if len(jobs) == 1:
            return [answer]
        if len(answer.ids) > JOINED_RESULTS:  # many within a radius
            raise LimitExceeded("results of joined requests; each is searched alone")
        return answer.split([job.rows for job in jobs])

    def _search(
        self, request: Request, deadline: Deadline, context: RequestContext | None
    ) -> Answer:
        token = CURRENT.set(context)
        try:
            answer = self._dispatch(request, deadline)
            if not isinstance(request, SearchRequest | GetRequest):
                return answer
            return replace(answer, number=self.backend.versions.number_of(answer.version))
        finally:
            CURRENT.reset(token)

    def _dispatch(self, request: Request, deadline: Deadline) -> Answer:
        backend = self.backend
        match request:
            case SearchRequest():
                return backend.search(request, deadline)
            case ListRequest():
                return backend.search_lists(request, deadline)
            case RefineRequest():
                return backend.refine(request, deadline)
            case CountRequest():
                return backend.count(request, deadline)
            case FindRequest():
                return backend.find(request, deadline)
            case TakeRequest():
                return backend.take(request, deadline)
            case GetRequest():
                return backend.get(request, deadline)
        raise AssertionError(type(request))

    def _wait_for(self, number: int, deadline: Deadline) -> None:
        """Wait until the current version is at least this one, and leave time to say that it isn't.

        Raises
        ------
        OldVersion
        Busy
            Too many requests wait for a version.
        """
        versions = self.backend.versions
        if versions.current.number >= number:
            return
        if not self._waiting.acquire(blocking=False):
            raise Busy(
                f"{self._most_waiting} requests wait for a later version, the most at a time"
            )
        try:
            if self._follower is not None:
                self._follower.wake()
            left_s = deadline.left_s
            if versions.wait_for(number, left_s - min(_SAY_S, left_s / 4)):
                return
        finally:
            self._waiting.release()
        raise OldVersion(
            f"version {number} or a later one asked for; this server has version "
            f"{versions.current.number} of the index"
            + ("" if self._follower is not None else ", and does not follow it (--no-follow)")
        )

    def info(self) -> dict[str, Any]:
        """Describe the index and the bounds of requests."""
        index = self.backend.versions.current
        manifest = index.manifest
        return {
            "protocol": PROTOCOL_VERSION,
            "version": index.version,
            "number": index.number,
            "d": manifest.d,
            "ntotal": manifest.ntotal,
            "nlist": manifest.nlist,
            "metric": manifest.metric,
            "codec": manifest.codec,
            "code_size": manifest.code_size,
            "transform": manifest.transform,
            "lists": [list(r) for r in self.backend.list_sizes(index)[1]],
            "limits": vars(self.limits),
        }

    def details(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What ``info`` tells beside, to a client that names it: see `serving.server.details`."""
        with self.backend.versions.using(None) as index:
            return details(index, asked)

    def statistics(self) -> dict[str, Any]:
        """Return state and load, for coordinators and the console."""
        backend = self.backend
        return {
            "ready": self.why_not_ready() is None,
            "draining": self._draining,
            "uptime_s": time.time() - self._started,
            "waiting": self._batcher.waiting,
            "versions": {
                i.version: [list(r) for r in backend.list_sizes(i)[1]]
                for i in backend.versions.open
            },
            "names": {i.version: i.name for i in backend.versions.open},
            "recent": self.metrics.recent(),
            "bytes": self.metrics.bytes_moved(),
            **backend.statistics(),
        }

    def want(self, versions: dict[str, str]) -> None:
        """A coordinator makes requests for these versions, by name of their directories."""
        self.backend.want(versions)

    def list_sizes(self, version: str | None) -> tuple[str, npt.NDArray[np.int64]]:
        """Return version, and vectors of every list; 0 for lists not searched here."""
        with self.backend.versions.using(version) as index:
            return index.version, self.backend.list_sizes(index)[0]

    def histogram(self) -> list[dict[str, int]]:
        """Return the histogram of the owned lists' sizes."""
        sizes, ranges = self.backend.list_sizes(self.backend.versions.current)
        owned = [sizes[start:stop] for start, stop in ranges]
        return size_histogram(np.concatenate(owned)) if owned else []

    def histogram_and_columns(self) -> dict[str, Any]:
        """Return what the console shows beside ``info``: sizes of lists, and columns by name."""
        manifest = self.backend.versions.current.manifest
        kinds = {} if manifest.schema is None else {f.name: str(f.type) for f in manifest.schema}
        return {"histogram": self.histogram(), "columns": kinds, "text_ids": manifest.text_ids}

    def why_not_ready(self, *, partial: bool = False) -> str | None:
        """Return None if requests are answered, otherwise the reason: see ``Backend``."""
        if self._draining:
            return "shutting down"
        return self.backend.why_not_ready(partial=partial)

    def reload(self, first: Callable[[], None] | None = None) -> str:
        """Switch to the index that is now in the directory, without dropping a request.

        ``first`` is done before, and if it fails, the reload has failed.
        """
        started = time.monotonic()
        try:
            if first is not None:
                first()
            version = self.backend.reload()
        except Exception:
            self._reload_failed = True
            self.metrics.reloaded(ok=False)
            raise
        self._reload_failed, self._reloaded = False, time.time()
        self._reload_s = time.monotonic() - started
        self.metrics.reloaded(ok=True)
        return version

    def _gauges(self) -> Iterable[Metric]:
        versions = self.backend.versions
        current = [versions.current.version]
        yield gauge("ready", "Whether requests are answered.", self.why_not_ready() is None)
        yield gauge("queue_requests", "Requests waiting or being answered.", self._batcher.waiting)
        yield gauge("queue_limit_requests", "Most requests (--queue).", self.limits.queue)
        yield gauge(
            "waiting_bytes", "Bytes that requests and answers hold.", self.budget.held_bytes
        )
        yield gauge(
            "waiting_limit_bytes", "Most of these bytes (--max-waiting).", self.limits.queue_bytes
        )
        yield info("index_info", "The version that new searches use.", "version", current)
        yield gauge("index_versions", "Versions that are open.", len(versions.open))
        yield gauge("index_version_number", "Number of the version.", versions.current.number)
        yield gauge(
            "last_switch_timestamp_seconds",
            "When new searches began to use the version, by the clock.",
            versions.switched_at,
        )
        if self._follower is not None:
            yield CounterMetricFamily(
                "teravec_follow_failures",
                "Looks for a newer version, or openings of one, that failed.",
                value=self._follower.failures,
            )
        yield gauge(
            "last_reload_timestamp_seconds",
            "When the index was opened, by the clock.",
            self._reloaded,
        )
        yield gauge("last_reload_success", "0 if a reload failed since.", not self._reload_failed)
        yield gauge("last_reload_seconds", "Time that the last reload took.", self._reload_s)

    @property
    def draining(self) -> bool:
        """Whether the server refuses new requests because it is shutting down."""
        return self._draining

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and finish the others; False if the time runs out first."""
        self._draining = True
        return self._batcher.drain(timeout_s)

    def close(self) -> None:
        """Refuse new requests, and close the backend."""
        self._draining = True
        if self._follower is not None:
            self._follower.close()
        self._batcher.drain(_CLOSE_S)
        self.backend.close()


def _joined(requests: Sequence[Any]) -> Request:
    """Join requests with equal options into one."""
    first = requests[0]
    if len(requests) == 1:
        return first  # type: ignore[no-any-return]

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(request, name) for request in requests])

    arrays = [name for name, value in vars(first).items() if isinstance(value, np.ndarray)]
    return replace(  # type: ignore[no-any-return]
        first,
        timeout_s=max(request.timeout_s for request in requests),
        **{name: column(name) for name in arrays},
    )
