"""Log lines of ``teravec serve``: as text or as JSON, with the request's id, and not without end.

Callers can cause log lines, and choose some of their words. Control characters are therefore
escaped, and a line of a kind that comes over and over is left out for a while.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from teravec.serving.server.access import ACCESS_LOGGER
from teravec.serving.wire.context import CURRENT

__all__ = ["JsonFormatter", "LogFormat", "RepeatFilter", "TextFormatter", "set_up_logs"]

_MOST_ALIKE, _WINDOW_S = 100, 60.0  # lines of one kind in a window
_MOST_KINDS = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


class TextFormatter(logging.Formatter):
    """One line of text: time, level, logger, message, and the request's id in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Add the request's id, and escape control characters."""
        text = super().formatMessage(record) + _left_out(record)
        if found := _request_id(record):
            text += f" [{found}]"
        return _CONTROL.sub(lambda c: c[0].encode("unicode_escape").decode(), text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, and more.

    ``request_id``, ``trace_id``, ``traceback`` and the access log's fields are there where they
    apply.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC)
        content = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage() + _left_out(record),
        }
        if found := _request_id(record):
            content["request_id"] = found
        if (context := CURRENT.get()) is not None and context.trace_id:
            content["trace_id"] = context.trace_id
        content |= getattr(record, "fields", {})
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


@dataclass
class _Kind:
    since_s: float
    count: int = 0


class RepeatFilter(logging.Filter):
    """Leaves out lines of one kind above 100 a minute; the last one before says so.

    Lines with the same logger, level and template are of one kind. The access log is exempt.
    """

    def __init__(self, most: int = _MOST_ALIKE, window_s: float = _WINDOW_S) -> None:
        super().__init__()
        self._most, self._window_s = most, window_s
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, int, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a line; marks the first one after a pause, and the last one before."""
        if record.name == ACCESS_LOGGER:
            return True
        key, now_s = (record.name, record.levelno, str(record.msg)[:200]), time.monotonic()
        with self._lock:
            kind = self._kinds.get(key)
            if kind is None or now_s - kind.since_s >= self._window_s:
                record.left_out = 0 if kind is None else max(0, kind.count - self._most)
                if len(self._kinds) >= _MOST_KINDS:
                    self._kinds.clear()
                kind = self._kinds[key] = _Kind(now_s)
            kind.count += 1
            record.more_left_out = kind.count == self._most
            return kind.count <= self._most


def set_up_logs(form: LogFormat = LogFormat.TEXT, *, access: bool = False) -> None:
    """Have this process log as servers do, on standard error.

    Parameters
    ----------
    form : LogFormat
    access : bool
        Whether to log each request.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stderr))
    for handler in root.handlers:
        if getattr(handler, "stream", None) is not sys.stderr:
            continue  # not for operators: another program's, which this one runs in
        handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
        if not any(isinstance(each, RepeatFilter) for each in handler.filters):
            handler.addFilter(RepeatFilter())
    logging.getLogger(ACCESS_LOGGER).setLevel(logging.INFO if access else logging.WARNING)


def _request_id(record: logging.LogRecord) -> str:
    found = getattr(record, "request_id", None)
    if found is None and (context := CURRENT.get()) is not None:
        found = context.request_id
    return found or ""


def _left_out(record: logging.LogRecord) -> str:
    if count := getattr(record, "left_out", 0):
        return f" ({count:,} lines like this were left out before)"
    if getattr(record, "more_left_out", False):
        return " (more lines like this are left out for a minute)"
    return ""
