"""The HTTP port: health, metrics, JSON search, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

import teravec
from teravec.serving import http_guard
from teravec.serving.limits import Limits
from teravec.serving.security import Address
from tests.serving.conftest import NLIST, QUERIES, Launch, N, addresses

LOCAL = Address("127.0.0.1", 0)


@pytest.fixture
def web(index: Path, serve: Launch) -> Iterator[httpx.Client]:
    server = serve(index, http=LOCAL, vectors=str(index.parent / "x0.npy"))
    with httpx.Client(base_url=f"http://{server.http_address}") as client:
        yield client


def test_search_by_vectors(web: httpx.Client, index: Path) -> None:
    body = {"queries": QUERIES.astype(float).tolist(), "k": 5, "nprobe": 9}
    answer = web.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    with teravec.open(index) as local:
        D, ids = local.search(QUERIES, 5, 9)
    results = answer.json()["results"]
    assert [r["ids"] for r in results] == ids.tolist()
    np.testing.assert_array_equal(np.array([r["distances"] for r in results], np.float32), D)
    assert answer.json()["missing"] == 0


def test_search_by_ids_and_radius(web: httpx.Client) -> None:
    nearest = web.post("/search", json={"ids": [17, 4711], "k": 3, "nprobe": NLIST}).json()
    assert [r["ids"][0] for r in nearest["results"]] == [17, 4711]
    near = web.post("/search", json={"ids": [17], "radius": 30.0, "nprobe": NLIST}).json()
    assert near["results"][0]["ids"][0] == 17
    assert max(near["results"][0]["distances"]) < 30
    gone = web.post("/search", json={"ids": [N], "k": 3, "nprobe": 1})
    assert gone.status_code == 422
    assert "5,999" in gone.json()["message"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "queries or ids"),
        ({"queries": [[1.0] * 24], "nprobe": 1}, "k or radius"),
        ({"queries": [[1.0] * 24], "k": 1, "nprobe": 1, "recall": 0.5}, "one expected"),
        ({"queries": [[1.0] * 23], "k": 1, "nprobe": 1}, "24"),
        ({"queries": [[1.0] * 24, [1.0]], "k": 1, "nprobe": 1}, "one length"),
        ({"queries": [[1e300] * 24], "k": 1, "nprobe": 1}, "infinite"),
        ({"queries": [[1.0] * 24], "radius": 1e39, "nprobe": 1}, "finite number of float32"),
        ({"queries": [["1"] * 24], "k": 1, "nprobe": 1}, "number"),
        ({"queries": [[1.0] * 24], "k": 1, "nprobe": 1, "pickle": 1}, "pickle"),
        ({"queries": [[1.0] * 24], "k": 1 << 70, "nprobe": 1}, "k"),
    ],
)
def test_bad_bodies(web: httpx.Client, body: dict, part: str) -> None:
    answer = web.post("/search", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"] == "invalid-argument"
    assert part in answer.json()["message"]
    assert "Traceback" not in answer.text


def test_bounds(index: Path, serve: Launch) -> None:
    server = serve(index, http=LOCAL, limits=Limits(k=3, json_bytes=2000))
    base = f"http://{server.http_address}"
    body = {"queries": [[1.0] * 24], "k": 4, "nprobe": 1}
    answer = httpx.post(f"{base}/search", json=body)
    assert (answer.status_code, answer.json()["error"]) == (413, "limit-exceeded")
    assert "at most 3" in answer.json()["message"]
    large = httpx.post(f"{base}/search", content=b" " * 3000)
    assert large.status_code == 413
    streamed = httpx.post(f"{base}/search", content=iter([b" " * 900] * 3))
    assert streamed.status_code == 413


def test_an_answer_is_not_kept_for_a_client_that_does_not_read(
    web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"queries": np.tile(QUERIES, (9, 1)).astype(float).tolist(), "k": 5000, "nprobe": NLIST}
    whole = web.post("/search", json=body, timeout=60)
    assert len(whole.content) > 10 << 20  # more than the system buffers
    monkeypatch.setattr(http_guard, "_PIECE_S", 0.3)
    with web.stream("POST", "/search", json=body, timeout=60) as answer:
        time.sleep(2)
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message"):
            answer.read()


def test_probes_and_metrics(web: httpx.Client) -> None:
    assert web.get("/healthz").text == "ok\n"
    assert web.get("/readyz").status_code == 200
    web.post("/search", json={"queries": QUERIES[:3].astype(float).tolist(), "k": 1, "nprobe": 1})
    text = web.get("/metrics").text
    assert 'teravec_queries_total{method="search"} 3.0' in text
    assert "process_resident_memory_bytes" in text
    recent = web.get("/statistics").json()["recent"]
    assert recent["requests"] == 1
    assert recent["p99_s"] > 0
    assert web.get("/nothing").json()["error"] == "invalid-argument"
    headers = web.get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]


def test_a_coordinator_is_not_ready_without_its_servers(index: Path, serve: Launch) -> None:
    server = serve(index, lists="0:30")
    coordinator = serve(index, servers=addresses([server]), http=LOCAL)
    answer = httpx.get(f"http://{coordinator.http_address}/readyz")
    assert answer.status_code == 503
    assert "50.00 % of the lists" in answer.text
    body = {"queries": QUERIES[:1].astype(float).tolist(), "k": 5, "nprobe": NLIST,
            "allow_partial": True}  # fmt: skip
    partial = httpx.post(f"http://{coordinator.http_address}/search", json=body).json()
    assert 0.2 < partial["missing"] < 0.8


def test_info_and_openapi(web: httpx.Client) -> None:
    info = web.get("/info").json()
    assert sum(bin["vectors"] for bin in info["histogram"]) == N
    schema = web.get("/openapi.json").json()
    assert "/search" in schema["paths"]
    assert json.dumps(schema)
