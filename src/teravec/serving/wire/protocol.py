"""Messages between clients, coordinator and servers, by their names on the wire.

A client sends a ``SearchRequest``. The coordinator turns it into one ``ListRequest`` per server:
prepared queries, and for each query the lists to scan there. The reply is an ``Answer``, or an
error with its code. ``docs/serving.md`` describes the protocol.
"""

from __future__ import annotations

from teravec.serving.wire.answers import Answer
from teravec.serving.wire.error_codes import (
    ERROR_CODES,
    encode_error,
    error_code,
    error_message,
    error_of_text,
    error_text,
)
from teravec.serving.wire.requests import (
    LARGEST_VERSION,
    ListRequest,
    RefineRequest,
    Request,
    SearchRequest,
    Wanted,
)
from teravec.serving.wire.row_requests import CountRequest, FindRequest, GetRequest, TakeRequest

__all__ = [
    "ERROR_CODES",
    "LARGEST_VERSION",
    "METHODS",
    "Answer",
    "CountRequest",
    "FindRequest",
    "GetRequest",
    "ListRequest",
    "RefineRequest",
    "Request",
    "SearchRequest",
    "TakeRequest",
    "Wanted",
    "encode_error",
    "error_code",
    "error_message",
    "error_of_text",
    "error_text",
]

METHODS: dict[str, type[Request]] = {
    "search": SearchRequest,
    "search-lists": ListRequest,
    "refine": RefineRequest,
    "query": SearchRequest,
    "query-lists": ListRequest,
    "count": CountRequest,
    "find": FindRequest,
    "take": TakeRequest,
    "get": GetRequest,
}
"""Request types by their method. ``query`` and ``query-lists`` are ``search`` and ``search-lists``
with a filter or columns: servers of earlier releases would ignore these fields, and refuse methods
that they do not know."""
