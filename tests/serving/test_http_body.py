"""Bodies of searches: what is read, what is refused, and how the message helps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from teravec.errors import InvalidArgument, LimitExceeded
from teravec.serving.http import body as http_body
from teravec.serving.http.body import read_body, timeout_of

BLANKS = b" " * http_body.SMALL_BODY_BYTES


@pytest.fixture(params=["small", "large"])
def read(request: pytest.FixtureRequest) -> object:
    """Reads a body on the way of small ones, or, by tiny pieces, on that of large ones."""
    if request.param == "small":
        return lambda data: read_body(data, 2, 1000)
    return lambda data: read_body(data, 2, 1000, small_bytes=-1, piece_bytes=5)


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b'{"queries": [[1, 2], [3.5, -4e1]], "k": 3}', [[1, 2], [3.5, -40]]),
        (b'{"k": 3, "queries": [[1,2],[3,4],[5,6],[7,8]]}', [[1, 2], [3, 4], [5, 6], [7, 8]]),
        (b'{"query": [1, 2], "k": 3}', [[1, 2]]),
        (b'{"k":3,"queries":[1,2,3,4,5,6,7]}', [[1, 2, 3, 4, 5, 6, 7]]),
        (b'{"query": [[1, 2]], "k": 3}', [[1, 2]]),
        (
            b'\xef\xbb\xbf{"queries": [ [1,\n 2] ,\n\t[3] ], "k": 3}'.replace(b"3]", b"3, 4]"),
            [[1, 2], [3, 4]],
        ),
        (b'{"queries":[[' + b"7" * 30 + b',1]],"k":3}', [[float("7" * 30), 1]]),
    ],
)
def test_vectors(read: object, body: bytes, rows: list[list[float]]) -> None:
    asked = read(body)  # type: ignore[operator]
    np.testing.assert_array_equal(asked.queries, np.array(rows, np.float32))
    assert asked.queries.dtype == np.float32
    assert asked.options.k == 3


@pytest.mark.parametrize(
    "body",
    [
        b'{"queries": [[1, 2], [3]], "k": 1}',
        b'{"queries": [[1, 2], []], "k": 1}',
        b'{"queries": [], "k": 1}',
        b'{"queries": [[]], "k": 1}',
        b'{"queries": [1, [2]], "k": 1}',
        b'{"queries": [[1], 2], "k": 1}',
        b'{"queries": [[1, null]], "k": 1}',
        b'{"queries": [[true]], "k": 1}',
        b'{"queries": [["1"]], "k": 1}',
        b'{"queries": [[NaN]], "k": 1}',
        b'{"queries": [[Infinity]], "k": 1}',
        b'{"queries": [[1e999]], "k": 1}',
        b'{"queries": [[' + b"9" * 5000 + b']], "k": 1}',
        b'{"queries": [[1],], "k": 1}',
        b'{"queries": [[1,]], "k": 1}',
        b'{"queries": [1,], "k": 1}',
        b'{"queries": [[[1]]], "k": 1}',
        b'{"queries": [[01]], "k": 1}',
        b'{"queries": [[1]], "k": "1"}',
        b'{"queries": [[1]], "k": 1.0}',
        b'{"queries": [[1]], "k": true}',
        b'{"queries": [[1]], "k": 0}',
        b'{"queries": [[1]], "k": 1, "k": 2}',
        b'{"queries": [[1]], "queries": [[1]], "k": 1}',
        b'{"queries": [[1]], "query": [1], "k": 1}',
        b'{"queries": [[1]], "ids": [1], "k": 1}',
        b'{"queries": [[1]], "k": 1, "top": 3}',
        b'{"queries": [[1]], "k": 1} x',
        b'{"queries": [[1]], "k": 1',
        b'{"queries": [[1], "k": 1}',
        b'{"queries": "a", "k": 1}',
        b'{"queries": {"a": [1]}, "k": 1}',
        b'{"a": {"queries": [[1]]}, "k": 1}',
        b'{"ids": [1.0], "k": 1}',
        b'{"ids": [-1], "k": 1}',
        b'{"ids": ["x"], "k": 1}',
        b'{"ids": [9223372036854775808], "k": 1}',
        b'{"ids": [], "k": 1}',
        b'{"ids": [[1]], "k": 1}',
        b"",
        b"  ",
        b"null",
        b"7",
        b'"a"',
        b"[[1, 2]]",
        b"{",
        b"[" * 5000,
        b'{"a":' * 5000,
        b"\x00",
        b"\xff\xfe",
        '{"queries": [[1]], "k": 1}'.encode("utf-16"),
        b"queries=1&k=2",
        b"{'queries': [[1]]}",
        b'{"k": 1}',
        b"{}",
    ],
)
def test_what_is_refused_shows_what_works(read: object, body: bytes) -> None:
    with pytest.raises(InvalidArgument) as found:
        read(body)  # type: ignore[operator]
    assert 'send {"queries": [[2 numbers]], "k": 10} with content-type: application/json' in str(
        found.value
    )
    assert "\n" not in str(found.value)


def test_messages_name_the_place(read: object) -> None:
    rows = [[i, i] for i in range(40)]
    rows[33][1] = None  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument, match=r"^queries\.33\.1: "):
        read(json.dumps({"queries": rows, "k": 1}).encode())  # type: ignore[operator]
    with pytest.raises(
        InvalidArgument, match="top: no such field; queries, query, ids, string_ids, k,"
    ):
        read(b'{"queries": [[1]], "top": 3}')  # type: ignore[operator]


def test_large_bodies_equal_numpy() -> None:
    rows = np.random.default_rng(3).standard_normal((900, 37)).astype(np.float32)
    data = json.dumps({"k": 5, "queries": rows.astype(float).tolist(), "timeout_s": 2.5}).encode()
    assert len(data) > 4 * http_body.SMALL_BODY_BYTES
    asked = read_body(bytearray(data), 37, 1000)
    np.testing.assert_array_equal(asked.queries, rows)
    assert timeout_of(data) == asked.options.timeout_s == 2.5
    one = read_body(
        json.dumps({"query": rows.ravel().astype(float).tolist(), "k": 1}).encode(), 9, 9
    )
    np.testing.assert_array_equal(one.queries, rows.reshape(1, -1))
    with pytest.raises(LimitExceeded, match=r"queries: .*900.*at most 899"):
        read_body(data, 37, 899)
    with pytest.raises(LimitExceeded, match="ids: 70,000"):
        read_body(json.dumps({"ids": list(range(70_000)), "k": 1}).encode(), 37, 1000)
    many = read_body(json.dumps({"ids": list(range(70_000)), "k": 1}).encode(), 37, 70_000)
    assert many.options.ids == list(range(70_000))


def test_large_bodies_of_nothing_are_refused_soon() -> None:
    for data in (
        BLANKS + b"null",
        b'{"x":' + BLANKS + b"[1]}",
        BLANKS,
        b"[" * 200_000,
        b'{"queries": [[1]],' + BLANKS + b'"k": 1}',
    ):
        with pytest.raises(InvalidArgument):
            read_body(data, 2, 10)


def test_timeouts_before_the_body_is_read() -> None:
    assert timeout_of(b'{"queries": [[1]]}') == 10.0
    assert timeout_of(b'{"timeout_s": 0.25, "queries": [[1]]}') == 0.25
    assert timeout_of(b'{"timeout_s": "x"}') == 10.0
