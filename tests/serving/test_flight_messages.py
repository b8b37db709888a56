"""Flight's messages: what pyarrow writes is read, and anything else does no harm."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import flight

from teravec.errors import ProtocolError
from teravec.serving.flight.http2 import FrameReader, Http2Error, header_block
from teravec.serving.flight.messages import Action, FlightData, action_types, flight_data, result

PREFIX_BYTES = 5


def body(parts: tuple[bytes | memoryview, ...]) -> memoryview:
    """A message of gRPC without its prefix, which must be right."""
    whole = b"".join(parts)
    assert whole[0] == 0
    assert int.from_bytes(whole[1:PREFIX_BYTES], "big") == len(whole) - PREFIX_BYTES
    return memoryview(whole)[PREFIX_BYTES:]


@given(st.binary(max_size=70_000))
def test_round_trip(data: bytes) -> None:
    found = FlightData.decode(body(flight_data(data)))
    assert found.frame is not None
    assert (found.command, bytes(found.frame), found.has_batches) == (None, data, False)


@given(st.text(max_size=300), st.binary(max_size=300))
def test_actions_as_pyarrow_writes_them(name: str, content: bytes) -> None:
    fields = [b"\x0a", name.encode(), b"\x12", content]
    parts = b"".join(
        tag
        + (len(value) & 127 | 128).to_bytes(1, "big")
        + (len(value) >> 7).to_bytes(1, "big")
        + value
        for tag, value in zip(fields[::2], fields[1::2], strict=True)
    )
    found = Action.decode(memoryview(parts))
    assert (found.name, bytes(found.body)) == (name, content)


def test_descriptors_as_pyarrow_writes_them() -> None:
    command = flight.FlightDescriptor.for_command(b"search-lists").serialize()
    message = b"\x0a" + bytes([len(command)]) + command + b"\x1a\x03abc"
    found = FlightData.decode(memoryview(message))
    assert found.frame is not None
    assert (found.command, bytes(found.frame)) == ("search-lists", b"abc")
    path = flight.FlightDescriptor.for_path("x").serialize()
    assert FlightData.decode(memoryview(b"\x0a" + bytes([len(path)]) + path)).command == ""


def test_data_of_arrow_is_seen() -> None:
    assert FlightData.decode(memoryview(b"\x12\x02xx")).has_batches
    assert FlightData.decode(memoryview(b"\xc2\x3e\x02xx")).has_batches  # data_body, number 1000


def test_results_and_types() -> None:
    assert bytes(body(result(b"abc"))) == b"\x0a\x03abc"
    assert [bytes(body((each,))) for each in action_types({"a": "b", "c": "d"})] == [
        b"\x0a\x01a\x12\x01b",
        b"\x0a\x01c\x12\x01d",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\x1a",
        b"\x1a\xff",
        b"\x1a\x05abcd",
        b"\x1a" + b"\xff" * 9 + b"\x01",
        b"\xff" * 20,
        b"\x1b",
        b"\x1c",
        b"\x1e",
        b"\x19abc",
        b"\x1a\xff\xff\xff\xff\x0f",
        b"\x08" + b"\x80" * 11,
        b"\x08\x01" * 65,
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    for kind in (FlightData, Action):
        with pytest.raises(ProtocolError):
            kind.decode(memoryview(data))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for kind in (FlightData, Action):
        with contextlib.suppress(ProtocolError):
            kind.decode(memoryview(data))


def test_claims_cost_nothing() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            FlightData.decode(memoryview(b"\x1a" + b"\xff" * 8 + b"\x7f" + bytes(50)))
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


@given(st.lists(st.binary(max_size=60), max_size=20), st.booleans())
def test_frames_of_any_bytes_in_any_pieces(pieces: list[bytes], greets: bool) -> None:
    reader = FrameReader()
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if greets else b""
    with contextlib.suppress(Http2Error):
        for piece in [preface, *pieces]:
            for kind, flags, stream, payload in reader.read(piece):
                assert kind < 256
                assert flags < 256
                assert stream < 1 << 31
                assert len(payload) <= 16384


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=5000)), max_size=5)
)
def test_header_blocks_are_hpack(headers: list[tuple[bytes, bytes]]) -> None:
    import hpack

    decoder = hpack.Decoder(1 << 20)
    for _ in range(2):  # without a trace in the table
        found = decoder.decode(header_block(headers), raw=True)
        assert [(bytes(name), bytes(value)) for name, value in found] == headers
    assert not decoder.header_table.dynamic_entries
