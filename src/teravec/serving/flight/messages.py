"""Arrow Flight's messages, as far as frames and actions need them: a few protobuf fields.

A frame travels as ``FlightData.app_metadata``, an action as ``Action``, its answer as ``Result``.
The parser reads only lengths and positions, and copies nothing but short texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from teravec.errors import ProtocolError

__all__ = ["Action", "FlightData", "action_types", "flight_data", "frame_alone", "result"]

_LONGEST_TEXT = 1024  # a command or an action's name
_MOST_FIELDS = 64
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
_DESCRIPTOR, _APP_METADATA, _COMMAND = 1, 3, 2  # field numbers
_TYPE, _BODY = 1, 2


@dataclass(frozen=True)
class FlightData:
    """The fields of one message of ``DoExchange``; None for a missing field.

    ``has_batches`` is true if the message holds Arrow data or announces it.
    """

    command: str | None = None
    frame: memoryview | None = None
    has_batches: bool = False

    @classmethod
    def decode(cls, message: memoryview) -> FlightData:
        """Read a message; raises ProtocolError if it is malformed."""
        command = frame = None
        has_batches = False
        for number, value in _fields(message):
            if number == _APP_METADATA:
                frame = value
            elif number == _DESCRIPTOR:
                command = next((_text(v) for n, v in _fields(value) if n == _COMMAND), "")
            else:
                has_batches = True
        return cls(command, frame, has_batches)


@dataclass(frozen=True)
class Action:
    """The action that a ``DoAction`` call requests."""

    name: str
    body: memoryview

    @classmethod
    def decode(cls, message: memoryview) -> Action:
        """Read a message; raises ProtocolError if it is malformed."""
        found = dict(_fields(message))
        return cls(_text(found.get(_TYPE, memoryview(b""))), found.get(_BODY, memoryview(b"")))


def frame_alone(message: memoryview) -> memoryview | None:
    """Return the frame of a message that has nothing else, as our clients send it; or None."""
    if len(message) < 3 or message[0] != _APP_METADATA << 3 | _LENGTH_DELIMITED:
        return None
    size, start = message[1], 2
    if size > 127:
        if message[2] > 127:
            return None
        size, start = size & 127 | message[2] << 7, 3
    return message[start:] if len(message) - start == size else None


def flight_data(*frame: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    """Return a frame, given in parts, as a gRPC message in parts: large ones are not copied."""
    size = sum(map(len, frame))
    head = b"\x1a" + _varint(size)
    return _prefix(len(head) + size) + head, *frame


def result(body: bytes) -> tuple[bytes, bytes]:
    """Return an action's answer as a gRPC message in two parts."""
    head = b"\x0a" + _varint(len(body))
    return _prefix(len(head) + len(body)) + head, body


def action_types(names: dict[str, str]) -> tuple[bytes, ...]:
    """Return action names and descriptions, one gRPC message for each."""
    messages = []
    for name, text in names.items():
        fields = [(b"\x0a", name.encode()), (b"\x12", text.encode())]
        body = b"".join(tag + _varint(len(value)) + value for tag, value in fields)
        messages.append(_prefix(len(body)) + body)
    return tuple(messages)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield numbers and values of the fields that have a length; skip others."""
    at, end = 0, len(message)
    for _ in range(_MOST_FIELDS):
        if at == end:
            return
        tag, at = _read_varint(message, at)
        kind = tag & 7
        size = _FIXED.get(kind, 0)
        if kind == _LENGTH_DELIMITED:
            size, at = _read_varint(message, at)
        elif kind == 0:
            _, at = _read_varint(message, at)
        elif not size:
            raise ProtocolError(f"a field of kind {kind} found in a message of Flight")
        if size > end - at:
            raise ProtocolError(f"a field of {size:,} bytes found where {end - at:,} are left")
        if kind == _LENGTH_DELIMITED:
            yield tag >> 3, message[at : at + size]
        at += size
    if at != end:
        raise ProtocolError(f"more than {_MOST_FIELDS} fields found in a message of Flight")


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number and the position behind it."""
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ProtocolError("a number without an end found in a message of Flight")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(value: memoryview) -> str:
    return bytes(value[:_LONGEST_TEXT]).decode("utf-8", "replace")


def _prefix(size: int) -> bytes:
    """Return a gRPC message's prefix: not compressed, and its length."""
    return b"\x00" + size.to_bytes(4, "big")
