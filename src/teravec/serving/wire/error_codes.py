"""Errors between machines: their codes, messages and frames."""

from __future__ import annotations

from typing import Any

from teravec import errors
from teravec.errors import ServiceError, TeravecError
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.frames import encode

__all__ = [
    "ERROR_CODES",
    "encode_error",
    "error_code",
    "error_message",
    "error_of_header",
    "error_of_text",
    "error_text",
]

# Error types by their code on the wire; any other error is 'internal'.
_CODES: dict[str, type[TeravecError]] = {
    "busy": errors.Busy,
    "deadline-exceeded": errors.DeadlineExceeded,
    "unavailable": errors.Unavailable,
    "other-index": errors.OtherIndex,
    "old-version": errors.OldVersion,
    "access-denied": errors.AccessDenied,
    "protocol": errors.ProtocolError,
    "limit-exceeded": errors.LimitExceeded,
    "invalid-filter": errors.InvalidFilter,
    "invalid-argument": errors.InvalidArgument,
    "corrupt-file": errors.CorruptFile,
    "missing-file": errors.MissingFile,
    "storage": errors.StorageError,
}

ERROR_CODES = (*_CODES, "internal")
"""What ``error_code`` returns."""


def error_code(error: Exception) -> str:
    """Return an error's code on the wire; ``internal`` for errors that are not teravec's."""
    if isinstance(error, MemoryError):
        return "busy"
    return next((code for code, kind in _CODES.items() if isinstance(error, kind)), "internal")


def error_message(error: Exception) -> str:
    """Return the message for clients; errors that are not teravec's stay in the log."""
    if isinstance(error, TeravecError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the server is out of memory"
    return "the server failed; its log says why"


def encode_error(error: Exception, request_id: str = "") -> bytes:
    """Encode an error's code and message as a frame, without a stack trace."""
    header = {"error": error_code(error), "message": error_message(error)}
    return encode(header | {"request_id": request_id} if request_id else header, {})


def error_text(error: Exception) -> str:
    """Return an error as one line, for where no frame can be sent; ``error_of_text`` reads it."""
    return f"{error_code(error)}: {error_message(error)}"


def error_of_text(text: str) -> TeravecError | None:
    """Parse a line of ``error_text``; None if it is not one."""
    code, _, message = text.partition(": ")
    kind = _CODES.get(code)
    return None if kind is None else kind(message[:2000])


def error_of_header(header: dict[str, Any]) -> TeravecError:
    """Return the error that a frame's header holds, with its request's id as a note."""
    message, code = str(header.get("message"))[:2000], header["error"]
    kind = _CODES.get(code) if isinstance(code, str) else None
    error = ServiceError(message) if kind is None else kind(message)
    if (context := RequestContext.read({"request_id": header.get("request_id")})) is not None:
        error.add_note(f"request id: {context.request_id}")
    return error
