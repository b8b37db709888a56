"""Traces by OpenTelemetry, if the program that runs this one has set it up.

Only OpenTelemetry's API is used. Without it, or without a provider of traces, ``find_tracing``
returns None, and requests cost nothing more.

::

    request search                       (a server's or a coordinator's, as its caller's child)
    |-- queue                            from the request's arrival to its batch
    `-- search                           the batch, under its first request; others link to it
        |-- search-lists 10.0.0.1:7400   a coordinator's call of one server
        |   `-- request search-lists ... (that server's)
        `-- search-lists 10.0.0.2:7400

References
----------
OpenTelemetry, Tracing API. W3C, Trace Context, 2021.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from teravec.serving.wire.context import CURRENT, RequestContext

__all__ = ["Tracing", "find_tracing", "outgoing"]

_NAME = "teravec.serving"


def find_tracing() -> Tracing | None:
    """Return what makes spans; None if nobody has set up a provider of traces."""
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return Tracing(provider.get_tracer(_NAME))


def outgoing(context: RequestContext | None) -> RequestContext | None:
    """Return a context that also says of which span of this thread a request is a child."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        return context
    return _within(context or RequestContext.new())


def _within(context: RequestContext, of: Any = None) -> RequestContext:
    """Return the context with the trace of a span, or of this thread's."""
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    within = None if of is None else trace.set_span_in_context(of)
    TraceContextTextMapPropagator().inject(carrier, within)
    fields = {"traceparent": "", "tracestate": ""} | carrier
    return RequestContext.read({"request_id": context.request_id, **fields}) or context


class Tracing:
    """Makes the spans of requests.

    Parameters
    ----------
    tracer : opentelemetry.trace.Tracer
    """

    def __init__(self, tracer: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._trace = tracer, trace
        self._propagator = TraceContextTextMapPropagator()

    def begin_request(self, method: str, context: RequestContext) -> tuple[Any, RequestContext]:
        """Begin the span of a request; return it, and the context within it."""
        span = self._tracer.start_span(
            f"request {method}",
            self._propagator.extract(context.fields()),
            self._trace.SpanKind.SERVER,
            {"teravec.request_id": context.request_id},
        )
        return span, _within(context, span)

    def end(self, span: Any, code: str = "ok", **attributes: int | str | None) -> None:
        """End a span with an outcome."""
        found = {f"teravec.{name}": value for name, value in attributes.items()}
        span.set_attributes({name: value for name, value in found.items() if value is not None})
        span.set_attribute("teravec.outcome", code)
        if code not in ("ok", "given-up"):
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, code))
        span.end()

    @contextmanager
    def search(
        self, waiting: Sequence[tuple[Any, int]], context: RequestContext | None
    ) -> Iterator[RequestContext | None]:
        """Trace the search of a batch, which is this thread's current span meanwhile.

        Parameters
        ----------
        waiting : sequence of (span, nanoseconds)
            Of each request, and when it began to wait.
        context : RequestContext, optional
            Of the first request.
        """
        first, links = waiting[0][0], [self._link(span) for span, _ in waiting[1:]]
        span = self._tracer.start_span(
            "search",
            self._trace.set_span_in_context(first),
            attributes={"teravec.batch_requests": len(waiting)},
            links=links,
        )
        for request, since_ns in waiting:
            queue = self._tracer.start_span(
                "queue",
                self._trace.set_span_in_context(request),
                links=[self._link(span)],
                start_time=since_ns,
            )
            queue.end()
        with self._trace.use_span(span, end_on_exit=True):
            yield context and _within(context, span)

    @contextmanager
    def call(self, method: str, address: str, *, hedge: bool, size: int) -> Iterator[Any]:
        """Begin the span of a call of a server; in the body, ``CURRENT`` is within it.

        The span goes on after the body, until ``end``.
        """
        host, _, port = address.rpartition(":")
        span = self._tracer.start_span(
            f"{method} {address}",
            kind=self._trace.SpanKind.CLIENT,
            attributes={
                "server.address": host,
                "server.port": int(port),
                "teravec.hedge": hedge,
                "teravec.scan_bytes": size,
            },
        )
        token = CURRENT.set(_within(CURRENT.get() or RequestContext.new(), span))
        try:
            yield span
        finally:
            CURRENT.reset(token)

    def _link(self, span: Any) -> Any:
        return self._trace.Link(span.get_span_context())
