"""One gRPC call on a connection: messages in, messages out, each within a bound.

A message's length is checked, and reserved in the budget, before the flow-control window opens for
its bytes. Until then a caller can send ``STREAM_WINDOW`` bytes, HTTP/2's default. An answer's bytes
stay reserved until they are sent. A caller that neither sends nor reads is disconnected.
"""

from __future__ import annotations

import logging
import mmap
import time
from collections import deque
from typing import Any, NamedTuple, Protocol

from teravec.errors import Busy, LimitExceeded
from teravec.serving.flight.http2 import STREAM_WINDOW, Code
from teravec.serving.loop.methods import Method
from teravec.serving.server.budget import Budget, Share

__all__ = ["Call", "CallRefused", "Reply", "Status"]

log = logging.getLogger(__name__)

_PREFIX_BYTES = 5
_AROUND_BYTES = 4096  # a message's own fields, in addition to its frame
_SMALL_BYTES = 16 << 10  # a message or an answer up to this size is handled in one piece
_STEP_BYTES = 1 << 20  # a large message is reserved and received in steps of this size
_ENOUGH_BYTES = 256 << 10  # progress that a caller must make within ``patience_s``


class Status:
    """The gRPC status codes used here."""

    OK = 0
    INVALID_ARGUMENT = 3
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class CallRefused(Exception):
    """Ends a call with a status instead of an answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Reply(NamedTuple):
    """The reply to a message: bytes with gRPC's prefixes; ``last`` ends the call after them.

    An empty reply means that the message needs no answer.
    """

    parts: tuple[bytes | memoryview, ...]
    last: bool = False


class Stream(Protocol):
    """The connection's interface for its calls."""

    peer: str
    peer_window: int
    budget: Budget
    draining: bool

    def answer(self, call: Call, message: memoryview | None) -> bool:
        """Have a message answered by a worker; False if all are busy."""

    def grant(self, call: Call, more: int) -> None:
        """Let the peer send ``more`` bytes."""

    def send(self, call: Call) -> None:
        """Send the call's waiting bytes, as fast as the peer reads them."""

    def send_small(self, call: Call, data: bytes | memoryview) -> bool:
        """Send a call's only bytes in one frame; False if they must wait."""

    def end(self, call: Call, status: int, why: str = "") -> None:
        """End the call with a status."""

    def reset(self, call: Call, code: Code) -> None:
        """End the call by force."""

    def flush(self) -> None:
        """Write waiting frames to the socket."""


class Call:
    """A stream of a connection, from its headers until both sides are done.

    Parameters
    ----------
    stream : int
    connection : Stream
    method : Method
    caller : Caller
    """

    def __init__(self, stream: int, connection: Stream, method: Method, caller: Any) -> None:
        self.stream, self.caller = stream, caller
        self.notes: dict[str, str] = {}  # for the method's use
        self.headers_sent = self.input_ended = self.closed = False
        self.receive_window, self.send_window = STREAM_WINDOW, connection.peer_window
        self.output: deque[memoryview] = deque()
        self.connection, self.method = connection, method
        self._answering = self._last = self._answered_once = False
        self._working = False  # a worker runs the method, and may change the share
        self._prefix = b""
        self._message: bytearray | mmap.mmap | None = None
        self._start = self._filled = 0  # in the buffer: the message's start, and its end so far
        self._early = bytearray()  # received before the previous message was answered
        self._since, self._moved = time.monotonic(), 0
        self.share: Share | None = None  # budget share while a message or an answer exists
        self._early_share: Share | None = None

    # --- input

    def received(self, data: memoryview) -> None:
        """Take received bytes of messages."""
        self._moved += len(data)
        if self.is_idle and self._take_whole(data):
            return
        while data and not (self._answering or self.closed):
            data = self._begin(data) if self._message is None else self._fill(data)
        if self._message is not None and not self.closed:
            self._grant()
        if data and not self.closed:
            self._keep_early(data)

    def _take_whole(self, data: memoryview) -> bool:
        """Deliver a small message that came in one piece; False if it is none."""
        size = len(data) - _PREFIX_BYTES
        if not 0 < size <= _SMALL_BYTES or data[0] or int.from_bytes(data[1:5], "big") != size:
            return False
        if size > self.method.most_bytes + _AROUND_BYTES:
            return False
        self._since, self._moved = time.monotonic(), 0
        if self._hold(size):
            if self.receive_window < STREAM_WINDOW // 2:
                self.connection.grant(self, STREAM_WINDOW - self.receive_window)
            self._ask(memoryview(bytes(data[_PREFIX_BYTES:])))
        return True

    def end_input(self) -> None:
        """Note that the caller sends no more."""
        self.input_ended = True
        if not self._answering:
            self._conclude()

    def _begin(self, data: memoryview) -> memoryview:
        """Read a message's prefix and allocate its buffer; return the rest of ``data``."""
        if not self._prefix:
            self._since, self._moved = time.monotonic(), 0
        taken = _PREFIX_BYTES - len(self._prefix)
        self._prefix += bytes(data[:taken])
        if len(self._prefix) < _PREFIX_BYTES:
            return data[taken:]
        size = int.from_bytes(self._prefix[1:], "big")
        if self._prefix[0]:
            self.connection.end(self, Status.UNIMPLEMENTED, "compressed messages are not taken")
        elif size > self.method.most_bytes + _AROUND_BYTES:
            self.refuse(
                LimitExceeded(
                    f"request bytes: {size:,} asked for, this server takes at most "
                    f"{self.method.most_bytes:,}"
                )
            )
        elif self._hold(min(size, _STEP_BYTES)):
            # Align the end to 8 bytes: a frame ends with its arrays, which are then aligned.
            self._start = self._filled = -size % 8
            self._message = _buffer(self._start + size)
            if not size:
                self._deliver()
        self._prefix = b""
        return data[taken:]

    def _fill(self, data: memoryview) -> memoryview:
        """Copy bytes into the message; return the rest."""
        assert self._message is not None
        taken = min(len(data), len(self._message) - self._filled)
        self._message[self._filled : self._filled + taken] = data[:taken]
        self._filled += taken
        if self._filled == len(self._message):
            self._deliver()
        return data[taken:]

    def _grant(self) -> None:
        """Reserve the next step of the message, and let the caller send it.

        All that the caller may send is reserved: half a step to a whole one ahead.
        """
        assert self._message is not None
        half = _STEP_BYTES // 2
        end = min(len(self._message), (self._filled // half + 2) * half)
        more = end - self._filled - self.receive_window
        if more > 0 and self.receive_window <= half and self._hold(end):
            self.connection.grant(self, more)

    def _deliver(self) -> None:
        """Hand the complete message to a worker."""
        assert self._message is not None
        message = memoryview(self._message).toreadonly()[self._start :]
        self._message = None
        if self.receive_window < STREAM_WINDOW // 2:
            self.connection.grant(self, STREAM_WINDOW - self.receive_window)
        self._ask(message)

    def _ask(self, message: memoryview | None) -> None:
        self._answering = self._answered_once = True
        self._working = self.connection.answer(self, message)
        if not self._working:
            self.answered(self.refuse_busy())

    # --- output

    def refuse_busy(self) -> Reply:
        """Make the reply for a message that no worker takes."""
        self._release()
        refused: Reply = self.method.refuse(Busy("all workers are answering requests"), self)
        return refused

    def run(self, message: memoryview | None) -> Reply | CallRefused:
        """Compute the reply to a message, on a worker."""
        try:
            reply: Reply = self.method.answer(self, message)
            return reply
        except CallRefused as refused:
            return refused
        except Exception as error:
            failed: Reply = self.method.refuse(error, self)
        return failed

    def answered(self, reply: Reply | CallRefused) -> None:
        """Send a worker's reply."""
        self._working = False
        if self.closed:
            self._release()
            return
        if isinstance(reply, CallRefused):
            self.connection.end(self, reply.status, str(reply))
        elif not reply.parts:
            self._release()
            self._answering = self._answered_once = False
            self._conclude()
        elif not (self.headers_sent and self._send_small(reply)):
            self._send(self._held_reply(reply))

    def _send_small(self, reply: Reply) -> bool:
        """Write a small reply as one frame; False if it is none, or the peer takes no more now."""
        data = reply.parts[0] if len(reply.parts) == 1 else b"".join(reply.parts)
        if len(data) > _SMALL_BYTES or not self.connection.send_small(self, data):
            return False
        self._last = reply.last
        self._since, self._moved = time.monotonic(), 0
        self._release()
        self._answering = False
        if self._last or self.connection.draining or self._early or self.input_ended:
            self._conclude()
        return True

    def _held_reply(self, reply: Reply) -> Reply:
        """Reserve the reply's bytes until it is sent; if they do not fit, return a refusal."""
        try:
            if self.share is not None:
                self.share.hold(sum(map(len, reply.parts)))
        except Busy as error:
            self._release()
            reply = self.method.refuse(error, self)
        return reply

    def _send(self, reply: Reply) -> None:
        self._answering, self._last = True, reply.last
        self._since, self._moved = time.monotonic(), 0
        self.output.extend(memoryview(part) for part in reply.parts if part)
        self.connection.send(self)

    def moved(self, size: int) -> None:
        """Note that ``size`` bytes of the answer were written."""
        self._moved += size
        if not self.output:
            self._release()
            self._answering = False
            self._conclude()

    def _conclude(self) -> None:
        """After an answer or the end of input: end the call, or go on with early bytes."""
        early = self._take_early()
        if self._last or self.connection.draining:
            self.connection.end(self, Status.OK)
        elif early:
            self.received(memoryview(early))
        if self.input_ended and not (self._answering or self.closed):
            if self._prefix or self._message is not None:
                self.connection.end(self, Status.INTERNAL, "the call ended inside of a message")
            elif self._answered_once:
                self.connection.end(self, Status.OK)
            else:
                self._ask(None)

    def refuse(self, error: Exception) -> None:
        """End with an error, even in the middle of a message."""
        refused = self.method.refuse_unread(error, self)
        self.connection.end(self, refused.status, str(refused))

    # --- bounds of both

    def _hold(self, size: int) -> bool:
        """Reserve ``size`` bytes for a message; end the call if they do not fit."""
        if self.share is None:
            self.share = Share(self.connection.budget, self.caller.share)
        try:
            self.share.hold(size)
        except Busy as error:
            self.refuse(error)
            return False
        return True

    def _keep_early(self, data: memoryview) -> None:
        """Store bytes of the next message; they count against the budget too."""
        if self._early_share is None:
            self._early_share = Share(self.connection.budget, self.caller.share)
        self._early += data
        try:
            self._early_share.hold(len(self._early))
        except Busy as error:
            self.refuse(error)

    def _take_early(self) -> bytearray:
        early, self._early = self._early, bytearray()
        if self._early_share is not None:
            self._early_share.close()
            self._early_share = None
        return early

    def _release(self) -> None:
        share, self.share = self.share, None
        if share is not None:
            share.close()

    def close(self) -> None:
        """Release everything after the stream has ended."""
        self.closed = True
        self.output.clear()
        self._message = None
        self._take_early()
        if not self._working:
            self._release()

    @property
    def is_idle(self) -> bool:
        """Whether the call waits for the caller to begin a message."""
        return not (self._answering or self._prefix or self._message is not None)

    def check_progress(self, now: float, patience_s: float, idle_s: float) -> None:
        """Disconnect a caller that neither finishes its message nor reads its answer."""
        if self.is_idle:
            if now - self._since > idle_s:
                self.connection.end(self, Status.OK)
        elif self._answering and not self.output:
            self._since = now  # the server's turn, not the caller's
        elif now - self._since > patience_s:
            if self._moved < _ENOUGH_BYTES:
                log.warning("%s neither sends nor reads: disconnected", self.connection.peer)
                self.connection.reset(self, Code.CANCEL)
            self._since, self._moved = now, 0


def _buffer(size: int) -> bytearray | mmap.mmap:
    """Make room for a message; a large one takes memory only as its bytes arrive."""
    if size <= _STEP_BYTES:
        return bytearray(size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
