"""One HTTP request on a connection, from its head until its answer is sent, within bounds."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from teravec.errors import Busy, DeadlineExceeded, InvalidArgument, LimitExceeded, TeravecError
from teravec.serving.loop.methods import Caller, Method
from teravec.serving.server.budget import Budget, Share

__all__ = ["Head", "HttpCall", "Refusal", "Response", "message_buffer"]

_STEP_BYTES = 1 << 20  # a large body is reserved in steps of this size
_BODY_S, _BODY_BYTES_S = 30.0, 128 << 10  # time to send a body: 30 s, plus 1 s per 128 KiB


class Head(NamedTuple):
    """A request's line and headers.

    Parameters
    ----------
    method : str
    target : bytes
        Path and query, as they came.
    headers : dict
        By lower-case names; of several lines with one name, the last.
    lines : list of (name, value)
        All headers.
    """

    method: str
    target: bytes
    headers: dict[bytes, bytes]
    lines: list[tuple[bytes, bytes]]

    @property
    def path(self) -> str:
        """The path alone, as it came."""
        return self.target.partition(b"?")[0].decode("latin-1")


class Response(NamedTuple):
    """An answer: its status, its own header lines, and its body in parts.

    Parameters
    ----------
    status : int
    headers : bytes
        Whole lines, except those on length and connection.
    parts : tuple of bytes-like
    pieces : iterator of bytes, optional
        Instead of parts: made while the caller reads.
    last : bool
        Close the connection afterwards.
    """

    status: int
    headers: bytes = b""
    parts: tuple[bytes | memoryview, ...] = ()
    pieces: Iterator[bytes] | None = None
    last: bool = False


class Refusal(Exception):
    """Ends a request with a response, before or while its body is read."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class CallHost(Protocol):
    """The connection's interface for its calls."""

    budget: Budget
    peer: str

    def respond(self, call: Any, response: Response) -> None:
        """Send the answer to a call."""

    def give(self, call: Any, message: memoryview) -> bool:
        """Have a message answered by a worker; False if all are busy."""


class HttpCall:
    """A request.

    Parameters
    ----------
    connection : CallHost
    head : Head
    method : Method
    caller : Caller
    """

    __slots__ = (
        "_body",
        "_filled",
        "_size",
        "_start",
        "_working",
        "arrived_s",
        "caller",
        "closed",
        "connection",
        "head",
        "is_complete",
        "is_old",
        "is_refused",
        "keep_alive",
        "method",
        "notes",
        "share",
    )

    def __init__(self, connection: CallHost, head: Head, method: Method, caller: Caller) -> None:
        self.connection, self.head, self.method, self.caller = connection, head, method, caller
        self.arrived_s = time.monotonic()
        self.notes: dict[str, Any] = {}  # for the method's use
        self.share: Share | None = None  # budget share while a message or an answer exists
        self.is_complete = self.is_refused = self.is_old = self.closed = False
        self.keep_alive = True
        self._working = False
        self._body: bytes | bytearray | mmap.mmap = b""
        self._size: int | None = None  # of the body, if the head tells it
        self._filled = self._start = 0

    # --- the body

    def expect(self, size: int | None) -> None:
        """Reserve a body's first bytes before they are read; None if its size is unknown.

        Raises
        ------
        Refusal
        """
        self._size = size
        try:
            if self.head.headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise InvalidArgument("bodies are taken uncompressed only")
            self._check(size or 0)
            self._hold(min(size or 0, _STEP_BYTES))
        except TeravecError as error:
            raise Refusal(self.refuse_unread(error)) from None

    def received(self, data: bytes) -> None:
        """Take bytes of the body; raises as ``expect``."""
        try:
            self._take(data)
        except TeravecError as error:
            raise Refusal(self.refuse_unread(error)) from None

    def begin(self) -> None:
        """Do nothing: a worker gets the whole request."""

    def gathered(self) -> None:
        """Note that a worker will have the call, and may change its share."""
        self._working = True

    def completed(self) -> None:
        """Have the request answered."""
        self.gathered()
        if not self.connection.give(self, self.message()):
            self.answered(self.refuse_busy())

    def _take(self, data: bytes) -> None:
        filled = self._filled + len(data)
        if not self._filled and (filled == self._size or self._size is None):
            self._body = data  # most come in one piece
        elif self._size is not None:
            if not self._filled:
                # Align the end to 8 bytes: a frame ends with its arrays, which are then aligned.
                self._start = -self._size % 8
                self._body = message_buffer(self._start + self._size)
            self._reserve(min(self._size, filled + _STEP_BYTES))
            self._body[self._start + self._filled : self._start + filled] = data  # type: ignore[index]
        else:
            self._check(filled)
            self._reserve(filled + _STEP_BYTES)
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data  # type: ignore[operator]
        self._filled = filled

    def message(self) -> memoryview:
        """Return the complete body."""
        view, self._body = memoryview(self._body), b""
        return view[self._start :].toreadonly()

    def check(self, now: float) -> None:
        """Refuse a body that should have come by now; raises Refusal."""
        allowed_s = _BODY_S + (self._size or self._filled) / _BODY_BYTES_S
        if not self.is_complete and now - self.arrived_s > allowed_s:
            late = DeadlineExceeded(f"no complete body within {allowed_s:.0f} s")
            raise Refusal(self.refuse_unread(late))

    def _check(self, size: int) -> None:
        if size > self.method.most_bytes:
            raise LimitExceeded(
                f"request bytes: {size:,} asked for, this server takes at most "
                f"{self.method.most_bytes:,}"
            )

    def _reserve(self, size: int) -> None:
        if self.share is None or size - self.share.bytes >= _STEP_BYTES:
            self._hold(size)

    def _hold(self, size: int) -> None:
        """Reserve ``size`` bytes in all; raises Busy if they do not fit."""
        if self.share is None:
            self.share = Share(self.connection.budget, self.caller.share)
        self.share.hold(size)

    # --- the answer

    def run(self, message: memoryview | None) -> Any:
        """Compute the response, on a worker."""
        try:
            return self.method.answer(self, message)
        except Refusal as refusal:
            return refusal.response
        except Exception as error:
            return self.method.refuse(error, self)

    def answered(self, response: Any) -> None:
        """Send a worker's response."""
        self._working = False
        if self.closed:
            self.release()
        else:
            self.connection.respond(self, response)

    def refuse_busy(self) -> Any:
        """Make the response to a request that no worker takes."""
        error = Busy("all workers are answering requests")
        return self.method.refuse(error, self)

    def refuse_unread(self, error: TeravecError) -> Response:
        """Make the response to a request whose body is not read to its end."""
        refused: Response = self.method.refuse_unread(error, self)
        return refused

    def release(self) -> None:
        """Give the reserved bytes back."""
        share, self.share = self.share, None
        if share is not None:
            share.close()

    def abandoned(self) -> None:
        """Release everything after the peer has left, as far as no worker needs it."""
        self.closed = True
        self._body = b""
        if not self._working:
            self.release()


def message_buffer(size: int) -> bytearray | mmap.mmap:
    """Make room for a message; a large one takes memory only as its bytes arrive."""
    if size <= _STEP_BYTES:
        return bytearray(size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
