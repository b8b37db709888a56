"""A server's counters, for Prometheus and for the console."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from teravec.serving.server.gauges import GaugeSource
from teravec.serving.wire.protocol import ERROR_CODES, METHODS

__all__ = ["PORTS", "REASONS", "STATUSES", "Metrics"]

PORTS = ("flight", "http")
STATUSES = (200, 400, 401, 403, 404, 405, 408, 413, 421, 422, 500, 503, 504)
"""Statuses of HTTP that are counted; any other one is ``other``."""
REASONS = (
    "access-denied",
    "busy",
    "deadline",
    "host",
    "invalid",
    "limit",
    "malformed",
    "not-found",
    "unavailable",
)
"""Why requests are refused."""

_REASON_OF_CODE = {
    "access-denied": "access-denied",
    "busy": "busy",
    "deadline-exceeded": "deadline",
    "invalid-argument": "invalid",
    "limit-exceeded": "limit",
    "method-not-allowed": "not-found",
    "not-found": "not-found",
    "protocol": "malformed",
    "other-index": "unavailable",
    "old-version": "unavailable",
    "unavailable": "unavailable",
}
_REASON_OF_STATUS = {400: "malformed", 403: "host", 421: "host"}  # whatever the code is

_LATENCIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_JOINED = (1, 2, 4, 8, 16, 32, 64, 128)
# Between clients and this server, and between a coordinator and its servers.
DIRECTIONS = ("received", "sent", "fanned-out", "gathered")
_RECENT = 2000
_RECENT_S = 60.0


class Metrics:
    """Counters and histograms of one server.

    Each server has its own registry, so several servers can run in one process.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"teravec_{name}", text, labels, registry=self.registry)

        self._requests = counter("requests", "Requests by method and outcome.", "method", "code")
        self._queries = counter("queries", "Queries answered.", "method")
        self._bytes = counter("bytes", "Bytes of frames.", "direction")
        self._retries = counter("retries", "Searches sent to another replica.", "why")
        self._refusals = counter(
            "refusals", "Requests, calls and connections refused.", "port", "reason"
        )
        self._responses = counter("http_responses", "HTTP responses by status.", "status")
        self._partial = counter("partial_answers", "Answers without some lists.")
        self._reloads = counter("reloads", "Reloads of the index by outcome.", "outcome")
        self._latency = Histogram(
            "teravec_request_seconds",
            "Time from a request's arrival to its answer.",
            ["method"],
            buckets=_LATENCIES,
            registry=self.registry,
        )
        self._joined = Histogram(
            "teravec_batch_requests",
            "Requests joined into a batch.",
            buckets=_JOINED,
            registry=self.registry,
        )
        self._lock = threading.Lock()
        self._children: dict[tuple[object, ...], Any] = {}
        self._moved = dict.fromkeys(DIRECTIONS, 0)
        # Time, duration, queries and bytes of the latest requests.
        self._recent: deque[tuple[float, float, int, int]] = deque(maxlen=_RECENT)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Make all series, so that the first event of a kind is an increase too."""
        for method in (*METHODS, "other"):
            self._of(self._latency, method)
            self._of(self._queries, method)
            for code in ("ok", *ERROR_CODES):
                self._of(self._requests, method, code)
        for direction in DIRECTIONS:
            self._of(self._bytes, direction)
        for port in PORTS:
            for reason in REASONS:
                self._of(self._refusals, port, reason)
        for status in (*STATUSES, "other"):
            self._of(self._responses, str(status))
        for why in ("failed", "slow"):
            self._of(self._retries, why)
        for outcome in ("ok", "failed"):
            self._of(self._reloads, outcome)

    def collect_from(self, *sources: Callable[[], Iterable[Metric]]) -> None:
        """Add gauges that these functions return, whenever the metrics are asked for."""
        self.registry.register(GaugeSource(*sources))

    def request(self, method: str, code: str, seconds: float, queries: int, size: int) -> None:
        """Count a request, answered (code ``ok``) or refused; ``size`` in bytes, both ways.

        Callers choose the text of ``method``. Unknown methods are counted as ``other``, so that no
        caller can create time series.
        """
        method = method if method in METHODS else "other"
        self._of(self._requests, method, code).inc()
        self._of(self._latency, method).observe(seconds)
        if code == "ok":
            self._of(self._queries, method).inc(queries)
            with self._lock:
                self._recent.append((time.monotonic(), seconds, queries, size))

    def request_together(
        self, method: str, code: str, seconds: float, queries: int, size: int, requests: int
    ) -> None:
        """Count ``requests`` requests of one outcome and duration; all others are sums."""
        self._of(self._requests, method, code).inc(requests)
        observe = self._of(self._latency, method).observe
        for _ in range(requests):
            observe(seconds)
        if code == "ok" and requests:
            self._of(self._queries, method).inc(queries)
            one = time.monotonic(), seconds, queries // requests, size // requests
            with self._lock:
                self._recent.extend([one] * requests)

    def moved(self, direction: str, size: int) -> None:
        """Count bytes of frames; ``direction`` is one of ``DIRECTIONS``."""
        self._of(self._bytes, direction).inc(size)
        with self._lock:
            self._moved[direction] += size

    def bytes_moved(self) -> dict[str, int]:
        """Bytes of frames so far, by direction."""
        with self._lock:
            return dict(self._moved)

    def _of(self, metric: Any, *labels: str) -> Any:
        """Return the child for some labels, cached: prometheus_client's own lookup locks."""
        key = (id(metric), *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def batch(self, joined: int) -> None:
        """Count a batch of ``joined`` requests."""
        self._joined.observe(joined)

    def retry(self, why: str) -> None:
        """Count a search that went to another replica: ``failed`` or ``slow``."""
        self._of(self._retries, why).inc()

    def refused(self, port: str, code: str) -> None:
        """Count what a port refused with an error's code; failures are no refusals."""
        if (reason := _REASON_OF_CODE.get(code)) is not None:
            self._of(self._refusals, port, reason).inc()

    def responded(self, status: int, code: str) -> None:
        """Count an HTTP response, and a refusal if it has an error's code."""
        self._of(self._responses, str(status) if status in STATUSES else "other").inc()
        if (reason := _REASON_OF_STATUS.get(status)) is not None:
            self._of(self._refusals, "http", reason).inc()
        elif code:
            self.refused("http", code)

    def partial(self) -> None:
        """Count an answer without some lists."""
        self._partial.inc()

    def reloaded(self, *, ok: bool) -> None:
        """Count a reload."""
        self._of(self._reloads, "ok" if ok else "failed").inc()

    def recent(self) -> dict[str, Any]:
        """Return the last minute's latencies (seconds), queries a second and bytes a query."""
        now = time.monotonic()
        with self._lock:
            rows = [row for row in self._recent if now - row[0] <= _RECENT_S]
        if not rows:
            return {"requests": 0}
        when, seconds, queries, sizes = (np.array(column) for column in zip(*rows, strict=True))
        span = max(1.0, now - float(when[0]))
        p50, p90, p99 = np.quantile(seconds, [0.5, 0.9, 0.99]).tolist()
        return {
            "requests": len(rows),
            "p50_s": p50,
            "p90_s": p90,
            "p99_s": p99,
            "queries_per_s": float(queries.sum()) / span,
            "bytes_per_query": float(sizes.sum()) / max(1, int(queries.sum())),
        }

    def text(self) -> bytes:
        """Return all counters in Prometheus's text format."""
        return generate_latest(_WithoutCreated(self.registry))


class _WithoutCreated:
    """A registry without the times at which series were made.

    prometheus_client writes them as gauges ``..._created``, which nobody asks for, and which double
    the page. Its own switch holds for the whole process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            if metric.type in ("counter", "histogram"):
                metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric
