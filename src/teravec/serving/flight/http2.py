"""HTTP/2 frames, as far as gRPC needs them (RFC 9113), and stateless header blocks.

At most one frame is buffered, and its length is checked before its bytes are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

__all__ = [
    "CONNECTION_WINDOW",
    "LARGEST_FRAME",
    "LARGEST_WINDOW",
    "STREAM_WINDOW",
    "Code",
    "Flag",
    "FrameReader",
    "Http2Error",
    "Kind",
    "frame",
    "frame_head",
    "header_block",
    "settings_of",
    "unpadded",
    "word",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_FRAME = 16384  # bytes; the protocol's default, which we do not raise
LARGEST_WINDOW = (1 << 31) - 1
STREAM_WINDOW = 65535  # bytes of a call before its window is opened further; the default
CONNECTION_WINDOW = 1 << 20
_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_WORD = struct.Struct(">I")


class Kind(IntEnum):
    """Frame types."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag:
    """Frame flags; ACK and END_STREAM share a bit. Plain ints: IntFlag's & costs a call."""

    ACK = 1
    END_STREAM = 1
    END_HEADERS = 4
    PADDED = 8
    PRIORITY = 32


class Code(IntEnum):
    """Error codes for the end of a stream or a connection."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """A peer's violation of the protocol, which ends its connection."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


class FrameReader:
    """Splits received bytes into frames."""

    def __init__(self) -> None:
        self._rest = b""
        self._began = False

    def read(self, data: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
        """Yield type, flags, stream and payload of each complete frame.

        Raises
        ------
        Http2Error
            The peer speaks no HTTP/2, or a frame is longer than ``LARGEST_FRAME``.
        """
        if self._rest:
            data = self._rest + data
        at, end, view = 0, len(data), memoryview(data)
        if not self._began:
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise Http2Error(Code.PROTOCOL_ERROR, "no HTTP/2")
            if end < len(PREFACE):
                self._rest = data
                return
            self._began, at = True, len(PREFACE)
        unpack = _HEAD.unpack_from
        while end - at >= 9:
            high, low, kind, flags, stream = unpack(data, at)
            size = high << 8 | low
            if size > LARGEST_FRAME:
                raise Http2Error(Code.FRAME_SIZE_ERROR, f"a frame of {size:,} bytes")
            if end - at < 9 + size:
                break
            # Store the position before the yield: the caller may stop there.
            start, at = at + 9, at + 9 + size
            yield kind, flags, stream & LARGEST_WINDOW, view[start:at]
        self._rest = data[at:]


def frame(kind: Kind, flags: int, stream: int, *parts: bytes | memoryview) -> bytes:
    """Return a frame as bytes."""
    size = sum(map(len, parts))
    return b"".join((_HEAD.pack(size >> 8, size & 255, kind, flags, stream), *parts))


def frame_head(size: int, stream: int) -> bytes:
    """Return the head of a DATA frame without flags."""
    return _HEAD.pack(size >> 8, size & 255, 0, 0, stream)


def word(value: int) -> bytes:
    """Encode an unsigned 32-bit integer."""
    return _WORD.pack(value)


def settings_of(payload: memoryview) -> Iterator[tuple[int, int]]:
    """Yield names and values of a SETTINGS frame."""
    if len(payload) % _SETTING.size:
        raise Http2Error(Code.FRAME_SIZE_ERROR, f"settings of {len(payload)} bytes")
    return _SETTING.iter_unpack(payload)


def unpadded(kind: int, flags: int, payload: memoryview) -> memoryview:
    """Return the payload of DATA or HEADERS without padding and priority."""
    start, end = 0, len(payload)
    if flags & Flag.PADDED:
        if not end:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "padding without its length")
        start, end = 1, end - payload[0]
    if kind == Kind.HEADERS and flags & Flag.PRIORITY:
        start += 5
    if start > end:
        raise Http2Error(Code.PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[start:end]


def header_block(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Encode headers as literals without indexing (RFC 7541, 6.2.2), which need no state."""
    parts = []
    for name, value in headers:
        parts += [b"\x00", _length(len(name)), name, _length(len(value)), value]
    return b"".join(parts)


def _length(size: int) -> bytes:
    """Encode a length for HPACK: 7-bit prefix, no Huffman coding."""
    if size < 127:
        return bytes([size])
    size -= 127
    out = bytearray([127])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)
