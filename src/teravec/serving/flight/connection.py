"""One HTTP/2 connection for gRPC calls only, with bounds on everything that a peer can send.

| what a peer may do | bound |
| --- | --- |
| send no HTTP/2 preface | 10 s |
| size of a frame | 16 KiB |
| headers of a call | 16 KiB in 16 frames, 16 KiB expanded |
| frames that belong to no message | 10,000 a second |
| refused calls before the first accepted one | 64 |
| send without reading | the sockets' buffers, for 30 s |
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import hpack

from teravec.errors import Busy
from teravec.serving.flight import http2
from teravec.serving.flight.call import Call, CallRefused, Status
from teravec.serving.flight.http2 import Code, Flag, FrameReader, Http2Error, Kind
from teravec.serving.flight.output import Output
from teravec.serving.loop.methods import Bounds, Caller, Method
from teravec.serving.server.budget import Budget
from teravec.serving.server.fairness import FairShares

__all__ = ["Connection", "Headers", "Host"]

log = logging.getLogger(__name__)

_MOST_HEADER_BYTES = 16 << 10
_MOST_HEADER_FRAMES = 16
_MOST_FRAMES_A_SECOND = 10_000
_FRAMES_A_MESSAGE = 4  # window updates and pings that come with each message
_MOST_REFUSED = 64
_WRITE_BYTES = 256 << 10  # in this process's write buffer for a peer
# Plain ints: an enum's member costs a look-up for each frame.
_DATA, _SETTINGS, _CONTINUATION = int(Kind.DATA), int(Kind.SETTINGS), int(Kind.CONTINUATION)
Headers = dict[bytes, list[bytes]]


class Host(Protocol):
    """The server's interface for its connections."""

    bounds: Bounds
    budget: Budget
    calls: int  # open, on all connections
    shares: FairShares  # of the open calls
    refused: Callable[[str], None]

    def admit(self, connection: Connection) -> bool:
        """Accept a connection; False if there are too many."""

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""

    def start(self, call: Call, message: memoryview | None) -> bool:
        """Start a worker on a message; False if all are busy."""

    def soon(self, act: Callable[[], None]) -> None:
        """Run ``act`` on the loop, after the events that are waiting now."""


class Connection(asyncio.Protocol):
    """The frames of one peer. Everything here runs on the server's loop.

    Parameters
    ----------
    server : Host
    accept : callable
        Takes a call's headers and the peer's address. Returns its Method and Caller, or raises
        CallRefused. Runs before any data of the call is read.
    """

    def __init__(
        self, server: Host, accept: Callable[[Headers, str], tuple[Method, Caller]]
    ) -> None:
        self.server, self._accept = server, accept
        self.budget = server.budget
        self.calls: dict[int, Call] = {}
        self.peer_window = 65535  # the peer's initial window for a new call
        self.draining = False
        self.peer = "?"
        self.active_s = self._made_s = time.monotonic()  # active: a call began or ended
        self._transport: Any = None
        self._reader = FrameReader()
        self._decoder = hpack.Decoder(_MOST_HEADER_BYTES)
        self._began = False
        self._headers = bytearray()  # a call's header block, until it is complete
        self._headers_of: tuple[int, int] | None = None  # its stream and flags
        self._header_frames = 0
        self._last_stream = 0
        self._receive_window = http2.STREAM_WINDOW
        self._output = Output()
        self._unsent = 0  # bytes in the transport's buffer, as the budget knows
        self._paused_s: float | None = None
        self._closing_s: float | None = None
        self._frames = self._refused = 0
        self._has_accepted = False
        self._on_frame: dict[int, Callable[[int, int, memoryview], None]] = {
            Kind.HEADERS: self._headers_begin,
            Kind.RST_STREAM: self._rst_stream,
            Kind.SETTINGS: self._settings,
            Kind.PUSH_PROMISE: self._push_promise,
            Kind.PING: self._ping,
            Kind.WINDOW_UPDATE: self._window_update,
            Kind.CONTINUATION: self._continuation,
            Kind.GOAWAY: self._goaway,
        }

    # --- asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Send the settings, which say what a peer may send."""
        self._transport = transport
        transport.set_write_buffer_limits(_WRITE_BYTES)
        found = transport.get_extra_info("peername")
        self.peer = f"{found[0]}:{found[1]}" if isinstance(found, tuple) else "?"
        if not self.server.admit(self):
            transport.abort()
            return
        settings = b"".join(
            number.to_bytes(2, "big") + http2.word(value)
            for number, value in ((3, self.server.bounds.calls), (6, _MOST_HEADER_BYTES))
        )
        self._output.write(Kind.SETTINGS, 0, 0, settings)
        self._open_window()
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget all calls."""
        self.server.forget(self)
        self.budget.move(self._unsent, 0)
        self._unsent, self.draining = 0, False
        for call in list(self.calls.values()):
            self._drop(call)

    def data_received(self, data: bytes) -> None:
        """Handle each received frame."""
        if self._closing_s is not None:
            return
        try:
            for kind, flags, stream, payload in self._reader.read(data):
                if self._headers_of is not None and kind != _CONTINUATION:
                    raise Http2Error(Code.PROTOCOL_ERROR, "headers broke off")
                if kind == _DATA:
                    self._data(flags, stream, payload)
                else:
                    self._frames += 1
                    if not self._began and kind != _SETTINGS:
                        raise Http2Error(Code.PROTOCOL_ERROR, "no settings first")
                    if self._frames > _MOST_FRAMES_A_SECOND:
                        raise Http2Error(Code.ENHANCE_YOUR_CALM, "a flood of frames")
                    if (act := self._on_frame.get(kind)) is not None:
                        act(flags, stream, payload)
                if self._closing_s is not None:
                    return
        except Http2Error as error:
            log.info("%s: %s", self.peer, error)
            self.server.refused("protocol")
            self.close(error.code)
            return
        self.flush()

    def pause_writing(self) -> None:
        """Stop reading from a peer that does not read its answers."""
        self._paused_s = time.monotonic()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        self._paused_s = None
        self._hold_unsent()
        self._transport.resume_reading()
        self.flush()

    # --- received frames

    def _data(self, flags: int, stream: int, payload: memoryview) -> None:
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, "more data than was granted")
        if self._receive_window < http2.CONNECTION_WINDOW // 2:
            self._open_window()
        call = self.calls.get(stream)
        if call is None:
            if stream > self._last_stream or not stream:
                raise Http2Error(Code.PROTOCOL_ERROR, "data of no call")
            return  # the call has already ended on this side
        call.receive_window -= size
        if call.receive_window < 0 or call.input_ended:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, "more data of a call than was granted")
        if not size:
            self._frames += 1
            if self._frames > _MOST_FRAMES_A_SECOND:
                raise Http2Error(Code.ENHANCE_YOUR_CALM, "a flood of frames")
        data = http2.unpadded(Kind.DATA, flags, payload) if flags & Flag.PADDED else payload
        call.received(data)
        if flags & Flag.END_STREAM and not call.closed:
            call.end_input()

    def _headers_begin(self, flags: int, stream: int, payload: memoryview) -> None:
        if not stream & 1:
            raise Http2Error(Code.PROTOCOL_ERROR, "a call with an even number")
        self._headers_of, self._header_frames = (stream, flags), 0
        self._headers_more(flags, http2.unpadded(Kind.HEADERS, flags, payload))

    def _continuation(self, flags: int, stream: int, payload: memoryview) -> None:
        if self._headers_of is None or self._headers_of[0] != stream:
            raise Http2Error(Code.PROTOCOL_ERROR, "a continuation without headers before it")
        self._headers_more(flags, payload)

    def _headers_more(self, flags: int, block: memoryview) -> None:
        self._headers += block
        self._header_frames += 1
        if len(self._headers) > _MOST_HEADER_BYTES or self._header_frames > _MOST_HEADER_FRAMES:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, "headers that are too long")
        if not flags & Flag.END_HEADERS:
            return
        assert self._headers_of is not None
        stream, first_flags = self._headers_of
        block, self._headers, self._headers_of = memoryview(self._headers), bytearray(), None
        try:
            headers = self._decoder.decode(bytes(block), raw=True)
        except (hpack.HPACKError, ValueError, IndexError) as error:
            raise Http2Error(Code.COMPRESSION_ERROR, f"headers: {error}") from None
        if (call := self.calls.get(stream)) is not None:
            if not first_flags & Flag.END_STREAM or call.input_ended:
                raise Http2Error(Code.PROTOCOL_ERROR, "headers twice")
            call.end_input()
        elif stream > self._last_stream:
            self._last_stream = stream
            self._open(stream, headers, bool(first_flags & Flag.END_STREAM))

    def _open(self, stream: int, headers: Any, ended: bool) -> None:
        """Begin a call, or refuse it."""
        if self.draining or len(self.calls) >= 2 * self.server.bounds.calls:
            self._output.reset(stream, Code.REFUSED_STREAM)
            return
        found: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            found.setdefault(bytes(name), []).append(bytes(value))
        try:
            if not (found.get(b"content-type") or [b""])[0].startswith(b"application/grpc"):
                raise CallRefused(Status.UNIMPLEMENTED, "only gRPC is spoken here")
            method, caller = self._accept(found, self.peer)
        except CallRefused as refused:
            self._output.end(stream, refused.status, str(refused), headers_sent=False)
            self._refused += not self._has_accepted
            if self._refused > _MOST_REFUSED:
                raise Http2Error(Code.ENHANCE_YOUR_CALM, "one refused call after another") from None
            return
        self._has_accepted, self.active_s = True, time.monotonic()
        call = self.calls[stream] = Call(stream, self, method, caller)
        open_calls, most = self.server.calls, self.server.bounds.calls
        may_open = open_calls < most and self.server.shares.may_take(caller.share, 1, open_calls)
        self.server.calls += 1
        self.server.shares.add(caller.share, 1)
        if not may_open:
            call.input_ended = ended
            call.refuse(Busy(f"{open_calls} calls are open, at most {most}"))
        elif ended:
            call.end_input()

    def _rst_stream(self, flags: int, stream: int, payload: memoryview) -> None:
        if len(payload) != 4:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "a reset of another length")
        if stream > self._last_stream or not stream:
            raise Http2Error(Code.PROTOCOL_ERROR, "a reset of no call")
        if (call := self.calls.get(stream)) is not None:
            self._drop(call)

    def _settings(self, flags: int, stream: int, payload: memoryview) -> None:
        self._began = True
        if flags & Flag.ACK:
            return
        for name, value in http2.settings_of(payload):
            if name == 4:
                if value > http2.LARGEST_WINDOW:
                    raise Http2Error(Code.FLOW_CONTROL_ERROR, "a window that is too large")
                change, self.peer_window = value - self.peer_window, value
                for call in self.calls.values():
                    call.send_window += change
                    if call.output:
                        self.send(call)
            elif name == 5:
                if not http2.LARGEST_FRAME <= value < 1 << 24:
                    raise Http2Error(Code.PROTOCOL_ERROR, "a frame size that is none")
                self._output.use_frame_bytes(value)
        self._output.write(Kind.SETTINGS, Flag.ACK, 0)

    def _push_promise(self, flags: int, stream: int, payload: memoryview) -> None:
        raise Http2Error(Code.PROTOCOL_ERROR, "a push from a client")

    def _ping(self, flags: int, stream: int, payload: memoryview) -> None:
        if len(payload) != 8:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "a ping of another length")
        if not flags & Flag.ACK:
            self._output.write(Kind.PING, Flag.ACK, 0, payload)

    def _goaway(self, flags: int, stream: int, payload: memoryview) -> None:
        self.draining = True
        self._close_if_done()

    def _window_update(self, flags: int, stream: int, payload: memoryview) -> None:
        if len(payload) != 4:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "a window update of another length")
        more = int.from_bytes(payload, "big") & http2.LARGEST_WINDOW
        if not stream:
            self._output.window += more
            if not more or self._output.window > http2.LARGEST_WINDOW:
                raise Http2Error(Code.FLOW_CONTROL_ERROR, "a window that is none")
        elif (call := self.calls.get(stream)) is not None:
            call.send_window += more
            if not more or call.send_window > http2.LARGEST_WINDOW:
                self.reset(call, Code.FLOW_CONTROL_ERROR)
            elif call.output:
                self.send(call)
        elif stream > self._last_stream:
            raise Http2Error(Code.PROTOCOL_ERROR, "a window of no call")

    # --- for calls

    def answer(self, call: Call, message: memoryview | None) -> bool:
        """Start a worker on a message; False if all are busy."""
        self._frames -= _FRAMES_A_MESSAGE
        return self.server.start(call, message)

    def grant(self, call: Call, more: int) -> None:
        """Let a call's peer send ``more`` bytes."""
        call.receive_window += more
        if not call.input_ended:
            self._output.write(Kind.WINDOW_UPDATE, 0, call.stream, http2.word(more))

    def send(self, call: Call) -> None:
        """Send a call's waiting bytes, as fast as the peer reads them."""
        self._output.add(call)

    def send_small(self, call: Call, data: bytes | memoryview) -> bool:
        """Send a call's only bytes in one frame; False if they must wait."""
        if self._paused_s is not None or not self._output.write_small(call, data):
            return False
        self._frames -= 1  # the peer opens its window for it
        return True

    def end(self, call: Call, status: int, why: str = "") -> None:
        """End a call with a status."""
        self._output.end(call.stream, status, why, call.headers_sent)
        self._drop(call)

    def reset(self, call: Call, code: Code) -> None:
        """End a call by force."""
        self._output.reset(call.stream, code)
        self._drop(call)

    def _drop(self, call: Call) -> None:
        del self.calls[call.stream]
        self.server.calls -= 1
        self.server.shares.add(call.caller.share, -1)
        self.active_s = time.monotonic()
        self._output.remove(call)
        call.close()
        self._close_if_done()

    # --- output

    def _open_window(self) -> None:
        more = http2.CONNECTION_WINDOW - self._receive_window
        self._receive_window += more
        self._output.write(Kind.WINDOW_UPDATE, 0, 0, http2.word(more))

    def flush(self) -> None:
        """Send waiting frames, as far as the windows and the peer's reading allow."""
        if self._paused_s is not None or self._closing_s is not None:
            return
        self._frames -= self._output.fill()  # the peer opens its window for each
        if data := self._output.take():
            self._transport.write(data)
            self._hold_unsent()
            if self._output.has_more:  # let other connections have a turn in between
                self.server.soon(self.flush)

    def _hold_unsent(self) -> None:
        """Let bytes that the peer has not taken from the write buffer count against the budget."""
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self.budget.move(self._unsent, unsent)
            self._unsent = unsent

    # --- ends

    def drain(self) -> None:
        """Accept no new calls, and close when the open ones have ended."""
        if not self.draining:
            self.draining = True
            self._output.go_away(self._last_stream, Code.NO_ERROR)
            for call in list(self.calls.values()):
                if call.is_idle:
                    self.end(call, Status.OK)
            self.flush()
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self.draining and not self.calls:
            self.close(Code.NO_ERROR)

    def close(self, code: Code) -> None:
        """Send GOAWAY with a code, and close."""
        if self._closing_s is None and self._transport is not None:
            self._output.go_away(self._last_stream, code)
            self._transport.write(self._output.take())
            self._closing_s = time.monotonic()
            for call in list(self.calls.values()):
                self._drop(call)
            self._transport.close()

    def abort(self) -> None:
        """Close at once, without GOAWAY."""
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> None:
        """Disconnect callers that make no progress; runs once a second."""
        self._frames, times = 0, self.server.bounds.times
        waiting_s = self._paused_s if self._closing_s is None else self._closing_s
        most_s = times.progress_s if self._closing_s is None else times.ending_s
        if waiting_s is not None and now - waiting_s > most_s:
            self.abort()
            return
        if not self._began and now - self._made_s > times.greeting_s:
            self.abort()
            return
        for call in list(self.calls.values()):
            call.check_progress(now, times.progress_s, times.idle_call_s)
        self.flush()
        if not self.calls and now - self.active_s > times.idle_s:
            self.close(Code.NO_ERROR)
