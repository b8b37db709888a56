"""A peer that sends whatever frames it likes, as no library of HTTP/2 would."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import hpack

from teravec.serving.flight.http2 import PREFACE, Flag, Kind, frame, word
from teravec.serving.wire.security import Address

PATH = "/arrow.flight.protocol.FlightService/"
END = Flag.END_STREAM
Frame = tuple[int, int, int, bytes]


class Peer:
    """A connection of HTTP/2 by hand.

    Parameters
    ----------
    address : Address
    greets : bool
        Send the preface and empty settings first.
    """

    def __init__(self, address: Address, greets: bool = True) -> None:
        self.socket = socket.create_connection((address.host, address.port))
        self.socket.settimeout(60)
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._came = b""
        if greets:
            self.send(PREFACE, frame(Kind.SETTINGS, 0, 0))

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(b"".join(frames))

    def headers(
        self, stream: int = 1, method: str = "DoExchange", flags: int = 0, **more: str
    ) -> bytes:
        """The frame that begins a call; names of more headers with _ for -."""
        given = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH + method),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *((name.replace("_", "-"), value) for name, value in more.items()),
        ]
        return frame(Kind.HEADERS, Flag.END_HEADERS | flags, stream, self._encoder.encode(given))

    def frames(self) -> Iterator[Frame]:
        """What comes, until the other side closes."""
        while True:
            while len(self._came) >= 9:
                size = int.from_bytes(self._came[:3], "big")
                if len(self._came) < 9 + size:
                    break
                kind, flags, stream = struct.unpack(">BBI", self._came[3:9])
                payload, self._came = self._came[9 : 9 + size], self._came[9 + size :]
                yield kind, flags, stream, payload
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return
            if not data:
                return
            self._came += data

    def until(self, wanted: int, stream: int | None = None) -> bytes:
        """The payload of the next frame of a kind; AssertionError where there is none."""
        for kind, _, of, payload in self.frames():
            if kind == wanted and stream in (None, of):
                return payload
        raise AssertionError(f"closed before a frame of kind {wanted}")

    def status(self, stream: int = 1) -> dict[str, str]:
        """Headers and trailers of a call that ends."""
        found: dict[str, str] = {}
        for kind, flags, of, payload in self.frames():
            if kind == Kind.HEADERS:
                decoded = {str(k): str(v) for k, v in self._decoder.decode(payload, raw=False)}
                if of == stream:
                    found |= decoded
                    if flags & END:
                        return found
        raise AssertionError(f"closed before the call ended, after {found}")

    def closed_with(self) -> int | None:
        """The code of GOAWAY with which the other side closes; None without one."""
        code = None
        for kind, _, _, payload in self.frames():
            if kind == Kind.GOAWAY:
                code = int.from_bytes(payload[4:8], "big")
        return code


def message(body: bytes, *, size: int | None = None, compressed: int = 0) -> bytes:
    """A message of gRPC; ``size`` is what it claims, if not the truth."""
    return bytes([compressed]) + word(len(body) if size is None else size) + body


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    """A frame of data."""
    return frame(Kind.DATA, flags, stream, payload)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where the body takes longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds
