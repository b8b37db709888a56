"""HTTP's statuses for errors."""

from __future__ import annotations

__all__ = ["status_of"]

_STATUS = {
    "invalid-argument": 422,
    "invalid-filter": 400,
    "protocol": 422,
    "limit-exceeded": 413,
    "access-denied": 401,
    "busy": 503,
    "unavailable": 503,
    "other-index": 503,
    "old-version": 504,
    "deadline-exceeded": 504,
}


def status_of(code: str) -> int:
    """Return the status for an error's code."""
    return _STATUS.get(code, 500)
