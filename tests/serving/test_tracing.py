"""Traces: the spans of a request through all servers, and nothing at all without a provider."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import teravec
from teravec.errors import TeravecError
from teravec.serving.server.access import ACCESS_LOGGER
from teravec.serving.server.logs import JsonFormatter
from teravec.serving.wire.context import CURRENT, RequestContext, request_id
from teravec.serving.wire.security import Address
from teravec.serving.wire.tracing import find_tracing, outgoing
from tests.serving.conftest import QUERIES, Launch, addresses, url

sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
trace = pytest.importorskip("opentelemetry.trace")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Spans:
    """Finished spans."""

    def __init__(self) -> None:
        self._exporter = memory.InMemorySpanExporter()
        self.provider = sdk.TracerProvider()
        self.provider.add_span_processor(export.SimpleSpanProcessor(self._exporter))

    def until(self, count: int) -> list[Any]:
        """All spans, once there are so many: an answer may be here before its spans end."""
        limit = time.monotonic() + 60
        while len(self._exporter.get_finished_spans()) < count and time.monotonic() < limit:
            time.sleep(0.01)
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Sets up a provider, for what is made from now on."""
    found = Spans()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: found.provider)
    return found


@pytest.fixture
def accesses() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Turns the access log on."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger(ACCESS_LOGGER)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def named(found: list[Any], name: str) -> list[Any]:
    return [span for span in found if span.name == name]


def parent_of(span: Any) -> int | None:
    return span.parent.span_id if span.parent else None


def test_a_request_its_wait_and_its_search(index: Path, serve: Launch, spans: Spans) -> None:
    server = serve(index)
    token = CURRENT.set(RequestContext("shop-1", PARENT, "vendor=x"))
    with teravec.connect(url(server)) as remote:
        remote.search(QUERIES[:3], 5, 8)
    CURRENT.reset(token)
    found = spans.until(3)
    assert sorted(span.name for span in found) == ["queue", "request search", "search"]
    assert {span.context.trace_id for span in found} == {int(TRACE, 16)}
    (request,), (queue,), (search,) = (
        named(found, name) for name in ("request search", "queue", "search")
    )
    assert parent_of(request) == 0x00F067AA0BA902B7
    assert request.context.trace_state["vendor"] == "x"
    assert request.kind is trace.SpanKind.SERVER
    assert request.attributes == {
        "teravec.request_id": "shop-1",
        "teravec.queries": 3,
        "teravec.k": 5,
        "teravec.outcome": "ok",
    }
    assert parent_of(queue) == parent_of(search) == request.context.span_id
    assert request.start_time <= queue.start_time <= queue.end_time <= request.end_time
    assert queue.end_time <= search.end_time
    assert search.attributes["teravec.batch_requests"] == 1


def test_http_takes_part(index: Path, serve: Launch, spans: Spans) -> None:
    server = serve(index, http=Address("127.0.0.1", 0))
    body = {"queries": QUERIES[:1].tolist(), "k": 3, "nprobe": 4}
    answer = httpx.post(
        f"http://{server.http_address}/search", json=body, headers={"traceparent": PARENT}
    )
    assert answer.status_code == 200
    (request,) = named(spans.until(3), "request search")
    assert request.context.trace_id == int(TRACE, 16)
    assert request.parent is not None
    assert request.attributes["teravec.request_id"] == answer.headers["x-request-id"]


def test_one_trace_through_all_servers(index: Path, serve: Launch, spans: Spans) -> None:
    servers = [serve(index, lists="0:30"), serve(index, lists="30:60")]
    coordinator = serve(index, servers=addresses(servers))
    tracer = spans.provider.get_tracer("test")
    with (
        teravec.connect(url(coordinator)) as remote,
        tracer.start_as_current_span("checkout") as own,
        request_id("shop-2"),
    ):
        remote.search(QUERIES[:2], 5, 60)
    found = spans.until(3 + 2 + 6 + 1)
    assert {span.context.trace_id for span in found} == {own.get_span_context().trace_id}
    (request,) = named(found, "request search")
    assert parent_of(request) == own.get_span_context().span_id
    at_coordinator = [s for s in named(found, "search") if parent_of(s) == request.context.span_id]
    (search,) = at_coordinator
    calls = [span for span in found if span.kind is trace.SpanKind.CLIENT]
    assert {span.name for span in calls} == {f"search-lists {s.address}" for s in servers}
    assert {parent_of(call) for call in calls} == {search.context.span_id}
    there = named(found, "request search-lists")
    assert {parent_of(span) for span in there} == {call.context.span_id for call in calls}
    assert {span.attributes["teravec.request_id"] for span in (request, *there)} == {"shop-2"}
    for call in calls:
        assert call.attributes["server.port"] in {server.address.port for server in servers}
        assert call.attributes["teravec.scan_bytes"] > 0
        assert not call.attributes["teravec.hedge"]
        assert call.attributes["teravec.outcome"] == "ok"


def test_joined_requests_are_linked(index: Path, serve: Launch, spans: Spans) -> None:
    server = serve(index)

    def ask(number: int) -> None:
        with teravec.connect(url(server)) as remote, request_id(f"joined-{number}"):
            for _ in range(10):
                remote.search(QUERIES[:1], 5, 8)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    found = spans.until(2 * 80)
    requests = {span.context.span_id: span for span in named(found, "request search")}
    assert len(requests) == len(named(found, "queue")) == 80
    joined = [s for s in named(found, "search") if s.attributes["teravec.batch_requests"] > 1]
    assert joined
    for search in joined:
        assert len(search.links) == search.attributes["teravec.batch_requests"] - 1
        assert {link.context.span_id for link in search.links} <= set(requests)
        waited = [
            q for q in named(found, "queue") if search.context in [x.context for x in q.links]
        ]
        assert len(waited) == search.attributes["teravec.batch_requests"]


def test_what_fails_is_seen(index: Path, serve: Launch, spans: Spans) -> None:
    servers = [serve(index, lists="0:30"), serve(index, lists="30:60")]
    coordinator = serve(index, servers=addresses(servers))
    with teravec.connect(url(coordinator)) as remote:
        servers[1].close()
        with pytest.raises(TeravecError):
            remote.search(QUERIES[:2], 5, 60, timeout_s=1)
    request = named(spans.until(3), "request search")[0]
    assert request.attributes["teravec.outcome"] == "unavailable"
    assert request.status.status_code is trace.StatusCode.ERROR


def test_without_a_provider_nothing_is_made(
    index: Path,
    serve: Launch,
    monkeypatch: pytest.MonkeyPatch,
    accesses: Callable[[], list[dict[str, Any]]],
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    assert find_tracing() is None
    servers = [serve(index, lists="0:30"), serve(index, lists="30:60")]
    coordinator = serve(index, servers=addresses(servers), http=Address("127.0.0.1", 0))
    body = {"queries": QUERIES[:1].tolist(), "k": 3, "nprobe": 60}
    httpx.post(
        f"http://{coordinator.http_address}/search", json=body, headers={"traceparent": PARENT}
    )
    limit = time.monotonic() + 60
    while len(accesses()) < 3 and time.monotonic() < limit:
        time.sleep(0.01)
    # The trace is passed on as it came, so that servers with a provider take part in it.
    assert [line["trace_id"] for line in accesses() if "search" in line["method"]] == [TRACE] * 3


def test_a_client_without_a_span_says_nothing() -> None:
    assert outgoing(None) is None
    context = RequestContext("shop-3")
    assert outgoing(context) is context
