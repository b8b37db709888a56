"""Frames: what goes in comes out, and nothing that was not put there does harm."""

from __future__ import annotations

import contextlib
import json
import struct
import tracemalloc

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from teravec.errors import ProtocolError, TeravecError
from teravec.serving.wire.frames import decode, encode
from teravec.serving.wire.protocol import Answer, ListRequest, RefineRequest, SearchRequest, Wanted

SHAPES = hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9)


def framed(header: bytes, arrays: bytes = b"") -> bytes:
    """A frame whose checksum is right, whatever its content."""
    padded = header + b" " * (-len(header) % 8) + arrays
    prefix = struct.pack("<4sHxxIxxxxQ", b"TVFR", 1, len(header), xxhash.xxh3_64_intdigest(padded))
    return prefix + padded


@given(st.sampled_from(["<f4", "<i8", "<u4"]).flatmap(lambda t: hnp.arrays(t, SHAPES)))
def test_round_trip(array: np.ndarray) -> None:
    header, arrays = decode(encode({"a": [1, "b"]}, {"x": array, "y": array}))
    assert header == {"a": [1, "b"]}
    for name in "xy":
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize(
    "shape",
    [
        [1 << 60],
        [1 << 60, 24],
        [1 << 31, 1 << 31],
        [-1],
        [1.5],
        ["9"],
        [[1]],
        [True],
        [],
        [1, 1, 1],
        [0, 1 << 62, 3],
        None,
        [1 << 63],
        [1 << 4000],
    ],
)
def test_claims_cost_nothing(shape: object) -> None:
    frame = framed(json.dumps({"arrays": [["queries", "<f4", shape]]}).encode(), bytes(96))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(frame)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("offset", range(8))
def test_arrays_are_aligned_wherever_the_bytes_lie(offset: int) -> None:
    data = bytearray(offset) + encode({}, {"x": np.arange(5, dtype=np.int64)})
    found = decode(memoryview(data)[offset:])[1]["x"]
    assert found.flags.aligned
    assert found.data.format in ("l", "q")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"arrays": 1}',
        b'{"arrays": [["a", "O", [1]]]}',
        b'{"arrays": [["a"]]}',
        b'{"arrays": [5]}',
        b'{"k": NaN, "arrays": []}',
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"arrays": [["a", {}, [1]]]}',
        b"{}",
    ],
)
def test_strange_headers(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(framed(header))


FRAME = SearchRequest(np.ones((3, 4), np.float32), Wanted(k=2), nprobe=1).encode()


@given(st.integers(0, len(FRAME) - 1), st.integers(1, 255))
def test_flipped_bytes_are_found(place: int, flip: int) -> None:
    damaged = bytearray(FRAME)
    damaged[place] ^= flip
    reserved = place in (6, 7, 12, 13, 14, 15)
    if not reserved:
        with pytest.raises(ProtocolError):
            decode(bytes(damaged))


@given(st.integers(0, len(FRAME) - 1))
def test_cut_frames_are_found(length: int) -> None:
    with pytest.raises(ProtocolError):
        decode(FRAME[:length])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            (
                "k",
                "radius",
                "nprobe",
                "recall",
                "timeout_s",
                "allow_partial",
                "version",
                "missing",
                "error",
                "message",
            ),
            JSON,
        ),
    ),
    st.dictionaries(
        st.sampled_from(["queries", "counts", "list_nos", "distances", "ids"]),
        st.sampled_from(["<f4", "<i8", "<u4"]).flatmap(lambda t: hnp.arrays(t, SHAPES)),
    ),
)
def test_no_content_does_harm(header: dict, arrays: dict) -> None:
    described = [[n, a.dtype.str, list(a.shape)] for n, a in arrays.items()]
    data = b"".join(a.tobytes() + bytes(-a.nbytes % 8) for a in arrays.values())
    frame = framed(json.dumps({**header, "arrays": described}).encode(), data)
    for kind in (SearchRequest, ListRequest, RefineRequest, Answer):
        with contextlib.suppress(TeravecError):
            kind.decode(frame)
