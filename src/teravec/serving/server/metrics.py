"""What a server counts, for Prometheus and for the console."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from teravec.serving.server.gauges import GaugeSource
from teravec.serving.wire.protocol import METHODS

__all__ = ["Metrics"]

_LATENCIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_JOINED = (1, 2, 4, 8, 16, 32, 64, 128)
# From and to clients; from a coordinator to its servers, and back.
DIRECTIONS = ("received", "sent", "fanned-out", "gathered")
_RECENT = 2000
_RECENT_S = 60.0


class Metrics:
    """Counters and histograms of one server.

    Each server has a registry of its own, so that several can live in one process.
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
        self._latency = Histogram(
            "teravec_request_seconds", "Time from a request's arrival to its answer.", ["method"],
            buckets=_LATENCIES, registry=self.registry,
        )  # fmt: skip
        self._joined = Histogram(
            "teravec_batch_requests", "Requests joined into a batch.", buckets=_JOINED,
            registry=self.registry,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._children: dict[tuple[object, ...], Any] = {}
        self._moved = dict.fromkeys(DIRECTIONS, 0)
        # When, seconds, queries and bytes of the latest requests.
        self._recent: deque[tuple[float, float, int, int]] = deque(maxlen=_RECENT)

    def collect_from(self, *sources: Callable[[], Iterable[Metric]]) -> None:
        """Add gauges that these functions return, whenever the metrics are asked for."""
        self.registry.register(GaugeSource(*sources))

    def request(self, method: str, code: str, seconds: float, queries: int, size: int) -> None:
        """Count a request, answered (code ``ok``) or refused; ``size`` in bytes, both ways.

        Callers choose the text of a method: what is none of ours is counted as ``other``, so that
        nobody can make time series.
        """
        method = method if method in METHODS else "other"
        self._of(self._requests, method, code).inc()
        self._of(self._latency, method).observe(seconds)
        if code == "ok":
            self._of(self._queries, method).inc(queries)
            with self._lock:
                self._recent.append((time.monotonic(), seconds, queries, size))

    def moved(self, direction: str, size: int) -> None:
        """Count bytes of frames: one of ``DIRECTIONS``."""
        self._of(self._bytes, direction).inc(size)
        with self._lock:
            self._moved[direction] += size

    def bytes_moved(self) -> dict[str, int]:
        """Bytes of frames so far, by direction."""
        with self._lock:
            return dict(self._moved)

    def _of(self, metric: Any, *labels: str) -> Any:
        """The child of some labels; looking it up by prometheus_client takes its lock."""
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
        self._retries.labels(why).inc()

    def recent(self) -> dict[str, Any]:
        """Percentiles in seconds, queries a second and bytes a query, of the last minute."""
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
        """All counters, as Prometheus reads them."""
        return generate_latest(self.registry)
