"""POST /search in Arrow's IPC stream format: the same results, and the same bounds."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

import teravec
from teravec.serving.http.arrow import ARROW_TYPE, arrow_pieces
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer
from teravec.serving.wire.security import Address
from tests.conftest import clustered
from tests.serving.conftest import NLIST, QUERIES, D, Launch, N
from tests.serving.test_faults import until

LOCAL = Address("127.0.0.1", 0)
HEADERS = {"content-type": ARROW_TYPE}


def column(queries: Any, kind: str = "fixed", dtype: Any = np.float32) -> Any:
    values = pa.array(np.asarray(queries, dtype).ravel())
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, queries.shape[1])
    offsets = pa.array(np.arange(len(queries) + 1, dtype=np.int32) * queries.shape[1])
    return pa.ListArray.from_arrays(offsets, values)


def stream(*columns: Any, options: Any = None, batches: int = 1) -> bytes:
    sink = pa.BufferOutputStream()
    names = [f"c{n}" for n in range(len(columns))]
    batch = pa.record_batch(list(columns), names=names)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    return bytes(sink.getvalue())


@pytest.fixture
def web(index: Path, serve: Launch) -> Iterator[httpx.Client]:
    server = serve(index, http=LOCAL)
    with httpx.Client(base_url=f"http://{server.http_address}", headers=HEADERS) as client:
        yield client
    until(lambda: server.service.budget.held_bytes == 0)


def table_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == ARROW_TYPE
    return pa.ipc.open_stream(answer.content).read_all()


@pytest.mark.parametrize("kind", ["fixed", "list"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_results_are_the_local_ones(kind: str, dtype: Any, web: httpx.Client, index: Path) -> None:
    queries = QUERIES.astype(dtype)
    found = table_of(web.post("/search?k=7&nprobe=9", content=stream(column(queries, kind, dtype))))
    with teravec.open(index) as local:
        distances, ids = local.search(queries.astype(np.float32), 7, 9)
    assert found.schema.names == ["query", "rank", "id", "distance"]
    assert found["query"].to_pylist() == np.repeat(np.arange(len(queries)), 7).tolist()
    assert found["rank"].to_pylist() == list(range(7)) * len(queries)
    np.testing.assert_array_equal(found["id"].to_numpy(), ids.ravel())
    np.testing.assert_array_equal(found["distance"].to_numpy(), distances.ravel())
    assert set(found.schema.metadata) == {b"version", b"number", b"missing", b"seconds"}
    assert float(found.schema.metadata[b"missing"]) == 0.0


def test_a_large_answer_comes_in_pieces(web: httpx.Client, index: Path) -> None:
    queries = clustered(40, D, seed=9)
    found = table_of(web.post(f"/search?k={N}&nprobe={NLIST}", content=stream(column(queries))))
    with teravec.open(index) as local:
        distances, ids = local.search(queries, N, NLIST)
    np.testing.assert_array_equal(found["id"].to_numpy(), ids.ravel())
    np.testing.assert_array_equal(found["distance"].to_numpy(), distances.ravel())
    np.testing.assert_array_equal(found["rank"].to_numpy(), np.tile(np.arange(N), 40))
    assert found["id"].num_chunks > 5


def test_within_a_radius_some_queries_have_nothing(web: httpx.Client, index: Path) -> None:
    queries = np.concatenate([QUERIES[:3], np.full((2, D), 1e6, np.float32), QUERIES[3:5]])
    with teravec.open(index) as local:
        radius = float(local.search(queries[:1], 50, NLIST)[0][0, -1])
        lims, distances, ids = local.range_search(queries, radius, NLIST)
    url = f"/search?radius={radius!r}&nprobe={NLIST}"
    found = table_of(web.post(url, content=stream(column(queries), batches=1)))
    assert found["query"].to_pylist() == np.repeat(np.arange(7), np.diff(lims)).tolist()
    np.testing.assert_array_equal(found["id"].to_numpy(), ids)
    np.testing.assert_array_equal(found["distance"].to_numpy(), distances)


def test_several_batches_are_one_request(web: httpx.Client) -> None:
    found = table_of(web.post("/search?k=1", content=stream(column(QUERIES[:5]), batches=3)))
    assert found["query"].to_pylist() == list(range(15))
    assert found["id"].to_pylist()[:5] == found["id"].to_pylist()[5:10]


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_refused_unread(codec: str, web: httpx.Client) -> None:
    body = stream(
        column(np.zeros((15_000, D), np.float32)), options=pa.ipc.IpcWriteOptions(compression=codec)
    )
    assert len(body) < 50_000
    answer = web.post("/search?k=1", content=body)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid-argument")
    assert "compressed" in answer.json()["message"]


NULLS = pa.array([[1.0] * D, None], pa.list_(pa.float32(), D))
INNER_NULLS = pa.array([[1.0] * (D - 1) + [None]], pa.list_(pa.float32(), D))
RAGGED = pa.array([[1.0] * D, [1.0]], pa.list_(pa.float32()))
WRONG = {
    "nothing": (b"", "no Arrow IPC stream"),
    "text": (b"hello, hello", "no Arrow IPC stream"),
    "json": (b'{"queries": [[1]]}', "no Arrow IPC stream"),
    "two columns": (stream(column(QUERIES), column(QUERIES)), "2 columns"),
    "numbers": (stream(pa.array([1.0, 2.0])), "column of double"),
    "whole numbers": (stream(pa.array([[1, 2]])), "list<item: int64>"),
    "texts": (stream(pa.array(["a"]).dictionary_encode()), "one schema and record batches"),
    "null": (stream(NULLS), "null"),
    "a null number": (stream(INNER_NULLS), "null"),
    "ragged": (stream(RAGGED), "one length"),
    "no rows": (stream(column(QUERIES[:0])), "no query"),
    "no numbers": (stream(pa.array([[], []], pa.list_(pa.float32()))), "no numbers"),
    "NaN": (stream(column(np.full((1, D), np.nan, np.float32))), "NaN"),
    "another d": (stream(column(QUERIES[:, :5])), f"(nq, {D}) expected"),
    "cut": (stream(column(QUERIES))[:-200], "cut off"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bodies(name: str, web: httpx.Client) -> None:
    body, why = WRONG[name]
    answer = web.post("/search?k=3", content=body)
    assert answer.status_code == 422, answer.text
    assert why in answer.json()["message"]


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ("k=0", "k: "),
        ("k=x", "k: "),
        ("k=3&k=4", "each once"),
        ("size=3", "'size' found"),
        ("ids=3", "'ids' found"),
        ("k=3&radius=2", "k or radius"),
        ("radius=inf", "radius: "),
        ("k=3&timeout_s=-1", "timeout_s: "),
        ("k=3&allow_partial=perhaps", "allow_partial: "),
        ("k", "parameters cannot be read"),
        ("", "k or radius"),
    ],
)
def test_wrong_parameters(parameters: str, why: str, web: httpx.Client) -> None:
    answer = web.post(f"/search?{parameters}", content=stream(column(QUERIES)))
    assert answer.status_code == 422, answer.text
    assert why in answer.json()["message"]


def test_bounds(index: Path, serve: Launch) -> None:
    limits = Limits(queries=50, k=100, request_bytes=8000)
    server = serve(index, http=LOCAL, limits=limits)
    with httpx.Client(base_url=f"http://{server.http_address}", headers=HEADERS) as web:
        for url, body, why in (
            ("/search?k=3", stream(column(np.zeros((51, 1), np.float32))), "queries: 51"),
            ("/search?k=101", stream(column(QUERIES)), "k: 101"),
            ("/search?k=3", bytes(8001), "request bytes: 8,001"),
        ):
            answer = web.post(url, content=body)
            assert (answer.status_code, answer.json()["error"]) == (413, "limit-exceeded")
            assert why in answer.json()["message"]


def test_damaged_bodies_are_refused_or_answered(web: httpx.Client) -> None:
    """Whatever a stranger changes: an answer or an error that says why, and never a failure."""
    dice, whole = random.Random(3), stream(column(QUERIES[:4]))
    for _ in range(300):
        body = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(body) - 8)
            value = dice.choice([0, 1, 255, 1 << 31, (1 << 62) + 5, dice.getrandbits(64)])
            struct.pack_into("<Q", body, at, value) if dice.random() < 0.5 else body.__setitem__(
                at, value & 255
            )
        answer = web.post("/search?k=3&nprobe=2", content=bytes(body))
        assert answer.status_code in (200, 413, 422), (bytes(body), answer.text)


def test_pieces_join_to_one_stream() -> None:
    counts = np.array([0, 5, 0, 40_000, 3, 0], np.uint32)
    total = int(counts.sum())
    answer = Answer("v", counts, np.arange(total, dtype=np.float32), np.arange(total))
    pieces = list(arrow_pieces(answer, 0.5))
    assert len(pieces) > 2
    found = pa.ipc.open_stream(b"".join(pieces)).read_all()
    assert found["query"].to_pylist() == np.repeat(np.arange(6), counts).tolist()
    ranks = np.concatenate([np.arange(count) for count in counts])
    assert found["rank"].to_pylist() == ranks.tolist()
    nothing = Answer("v", counts[:1], answer.distances[:0], answer.ids[:0], 1.0)
    assert pa.ipc.open_stream(b"".join(arrow_pieces(nothing, 0.5))).read_all().num_rows == 0
