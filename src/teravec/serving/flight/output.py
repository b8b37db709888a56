"""Output of one connection: frames, and the calls' data in turn, as windows allow."""

from __future__ import annotations

from collections import deque

from teravec.serving.flight import http2
from teravec.serving.flight.call import Call, Status
from teravec.serving.flight.http2 import Code, Flag, Kind

__all__ = ["Output"]

_AT_A_TIME_BYTES = 256 << 10
_LARGEST_DATA = 64 << 10
_HEADERS = b"\x88" + http2.header_block(  # first ":status: 200", of HPACK's static table
    [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity")]
)
_TRAILERS_OK = http2.header_block([(b"grpc-status", b"0")])


class Output:
    """Frames waiting to be written."""

    def __init__(self) -> None:
        self.window = 65535  # bytes of data that the peer allows all calls together
        self._frame_bytes = http2.LARGEST_FRAME
        self._frames: list[bytes] = []
        self._calls: deque[Call] = deque()

    def use_frame_bytes(self, most: int) -> None:
        """Set the largest frame that the peer accepts."""
        self._frame_bytes = min(most, _LARGEST_DATA)

    def write(self, kind: Kind, flags: int, stream: int, *parts: bytes | memoryview) -> None:
        """Add a frame that is not subject to a window."""
        self._frames.append(http2.frame(kind, flags, stream, *parts))

    def add(self, call: Call) -> None:
        """Queue a call that has bytes to send."""
        if call not in self._calls:
            self._calls.append(call)

    def write_small(self, call: Call, data: bytes | memoryview) -> bool:
        """Add a frame with all of a call's data; False if others wait or a window is too small."""
        size = len(data)
        if self._calls or size > min(self.window, call.send_window, self._frame_bytes):
            return False
        self._frames.append(http2.frame_head(size, call.stream) + data)
        self.window -= size
        call.send_window -= size
        return True

    def remove(self, call: Call) -> None:
        """Drop a call from the queue."""
        if call in self._calls:
            self._calls.remove(call)

    def end(self, stream: int, status: int, why: str, headers_sent: bool) -> None:
        """End a stream on this side with a status.

        If the peer has not ended its side, no RST_STREAM follows: gRPC clients would then lose
        answers that they have not read. Data that still arrives is dropped, and its window stays
        closed.
        """
        block = _TRAILERS_OK if status == Status.OK else _trailers(status, why)
        flags = Flag.END_HEADERS | Flag.END_STREAM
        self.write(Kind.HEADERS, flags, stream, block if headers_sent else _HEADERS + block)

    def reset(self, stream: int, code: Code) -> None:
        """End a stream by force."""
        self.write(Kind.RST_STREAM, 0, stream, http2.word(code))

    def go_away(self, last_stream: int, code: Code) -> None:
        """Send GOAWAY: no call after ``last_stream`` will be answered."""
        self.write(Kind.GOAWAY, 0, 0, http2.word(last_stream), http2.word(code))

    @property
    def has_more(self) -> bool:
        """Whether data could be sent at once."""
        return bool(self._calls) and self.window > 0

    def fill(self) -> int:
        """Add data of calls in turn, up to the windows or 256 KiB; return the number of frames."""
        size = count = 0
        while self.has_more and size < _AT_A_TIME_BYTES:
            call = self._calls.popleft()
            room = min(self.window, call.send_window, self._frame_bytes)
            if room > 0:  # otherwise the call returns when its window opens
                size += self._add_data(call, room)
                count += 1
        return count

    def take(self) -> bytes:
        """Return and clear all frames so far."""
        frames, self._frames = self._frames, []
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _add_data(self, call: Call, room: int) -> int:
        """Add one frame of at most ``room`` bytes of a call's data; return its size."""
        parts, size = [], 0
        while call.output and size < room:
            part = call.output.popleft()
            if len(part) > room - size:
                call.output.appendleft(part[room - size :])
                part = part[: room - size]
            parts.append(part)
            size += len(part)
        if not call.headers_sent:
            call.headers_sent = True
            self.write(Kind.HEADERS, Flag.END_HEADERS, call.stream, _HEADERS)
        self.write(Kind.DATA, 0, call.stream, *parts)
        self.window -= size
        call.send_window -= size
        if call.output:
            self._calls.append(call)
        call.moved(size)
        return size


def _trailers(status: int, why: str) -> bytes:
    text = b"".join(
        bytes([byte]) if 32 <= byte <= 126 and byte != 37 else b"%%%02X" % byte
        for byte in why.encode()[:500]
    )
    return http2.header_block([(b"grpc-status", b"%d" % status), (b"grpc-message", text)])
