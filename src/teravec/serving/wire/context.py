"""What goes along with a request through all servers: its id, and its place in a trace.

Callers choose these texts. They are checked here, and what does not fit is left out: a strange id
must not make a search fail.

References
----------
W3C, Trace Context, 2021: ``traceparent`` and ``tracestate``.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

__all__ = ["CURRENT", "RequestContext", "request_id"]

_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(r"[ -~]{1,512}")


class RequestContext(NamedTuple):
    """A request's id, and its place in a trace.

    Parameters
    ----------
    request_id : str
    traceparent, tracestate : str
        As in W3C's Trace Context; empty if the caller does not trace.
    """

    request_id: str
    traceparent: str = ""
    tracestate: str = ""

    @classmethod
    def read(cls, given: Any) -> RequestContext | None:
        """Read what a caller sent as a mapping by these names; None if nothing of it is of use.

        Without a usable id, a new one is made.
        """
        if not isinstance(given, dict) or not given:
            return None
        found = _fitting(_ID, given.get("request_id"))
        parent = _fitting(_PARENT, given.get("traceparent"))
        if not (found or parent):
            return None
        state = _fitting(_STATE, given.get("tracestate")) if parent else ""
        return cls(found or _new_id(), parent, state)

    @classmethod
    def new(cls) -> RequestContext:
        """Make a context with an id of its own."""
        return cls(_new_id())

    @property
    def trace_id(self) -> str:
        """Id of the trace; empty without one."""
        return self.traceparent[3:35]

    def fields(self) -> dict[str, str]:
        """Return what is not empty, by name; ``read`` reads it."""
        return {name: value for name, value in self._asdict().items() if value}


CURRENT: ContextVar[RequestContext | None] = ContextVar("teravec.request", default=None)
"""The request that this thread works for; of several joined requests, the first."""


@contextmanager
def request_id(text: str) -> Iterator[RequestContext]:
    """Give the requests that the body makes an id, under which all servers log them.

    Parameters
    ----------
    text : str
        1 to 128 letters, digits and ``._:/+=@-``; anything else is replaced by a new id.
    """
    context = RequestContext.read({"request_id": text}) or RequestContext.new()
    token = CURRENT.set(context)
    try:
        yield context
    finally:
        CURRENT.reset(token)


def _fitting(pattern: re.Pattern[str], given: object) -> str:
    return given if isinstance(given, str) and pattern.fullmatch(given) else ""


_numbers = itertools.count(1)
_process = secrets.token_hex(6)


def _new_id() -> str:
    return f"{_process}-{next(_numbers):x}"


def _renew() -> None:
    global _process
    _process = secrets.token_hex(6)


os.register_at_fork(after_in_child=_renew)
