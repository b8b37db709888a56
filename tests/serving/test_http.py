"""The HTTP port: health, metrics, JSON search, and what it refuses."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import teravec
from teravec.serving.deploy.program import Server
from teravec.serving.server.port_times import PortTimes
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import METHODS
from teravec.serving.wire.security import Address, ServerSecurity
from tests.serving.conftest import NLIST, QUERIES, Launch, N, addresses
from tests.serving.test_faults import until

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
    web: httpx.Client, index: Path, serve: Launch
) -> None:
    body = {"queries": np.tile(QUERIES, (9, 1)).astype(float).tolist(), "k": 5000, "nprobe": NLIST}
    whole = web.post("/search", json=body, timeout=60)
    assert len(whole.content) > 10 << 20  # more than the system buffers
    hurried = serve(index, http=LOCAL, times=PortTimes(progress_s=0.3))
    base = f"http://{hurried.http_address}"
    with httpx.stream("POST", f"{base}/search", json=body, timeout=60) as answer:
        until(lambda: hurried.service.budget.held_bytes == 0)
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
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
    assert web.get("/nothing").json()["error"] == "not-found"
    headers = web.get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]


def test_a_coordinator_is_not_ready_without_its_servers(index: Path, serve: Launch) -> None:
    server = serve(index, lists="0:30")
    coordinator = serve(index, servers=addresses([server]), http=LOCAL)
    answer = httpx.get(f"http://{coordinator.http_address}/readyz")
    assert answer.status_code == 503
    assert "50.00 % of the lists" in answer.text
    body = {
        "queries": QUERIES[:1].astype(float).tolist(),
        "k": 5,
        "nprobe": NLIST,
        "allow_partial": True,
    }
    partial = httpx.post(f"http://{coordinator.http_address}/search", json=body).json()
    assert 0.2 < partial["missing"] < 0.8


def test_info_and_openapi(web: httpx.Client) -> None:
    info = web.get("/info").json()
    assert sum(bin["vectors"] for bin in info["histogram"]) == N
    schema = web.get("/openapi.json").json()
    assert "/search" in schema["paths"]
    assert json.dumps(schema)


@pytest.mark.parametrize(
    "kind", [None, "application/x-www-form-urlencoded", "text/plain", "application/octet-stream"]
)
def test_a_body_of_any_content_type_is_json(web: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = json.dumps({"query": QUERIES[0].astype(float).tolist(), "k": 2}).encode()
    answer = web.post("/search", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["results"]) == 1
    wrong = web.post("/search", content=b"k=1&queries=2", headers=headers)
    assert wrong.status_code == 422
    for part in ("content-type: application/json", '[[24 numbers]], "k": 10}'):
        assert part in wrong.json()["message"]
    packed = web.post("/search", content=body, headers={**headers, "content-encoding": "gzip"})
    assert "uncompressed" in packed.json()["message"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/info", "/", "/statistics"])
def test_head_is_get_without_a_body(web: httpx.Client, path: str) -> None:
    head, get = web.head(path), web.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_methods_that_are_not_taken_are_told(web: httpx.Client) -> None:
    answer = web.get("/search")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {
        "error": "method-not-allowed",
        "message": "GET found; /search takes POST",
    }
    assert web.delete("/healthz").json()["message"] == "DELETE found; /healthz takes GET"


def test_large_bodies_and_answers_equal_small_ones(web: httpx.Client) -> None:
    queries = np.tile(QUERIES, (10, 1)).astype(float).tolist()  # more than 64 KiB of JSON
    large = web.post("/search", json={"queries": queries, "k": 50, "nprobe": 9}, timeout=30)
    assert large.headers["transfer-encoding"] == "chunked"
    small = web.post("/search", json={"queries": queries[:40], "k": 50, "nprobe": 9})
    assert "content-length" in small.headers
    assert large.json()["results"] == small.json()["results"] * 10
    none = web.post("/search", json={"queries": queries[:2], "radius": -1.0, "nprobe": 1}).json()
    assert none["results"] == [{"ids": [], "distances": []}] * 2


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Searches wait for this event."""
    from teravec.serving.server.local import LocalLists

    search, go = LocalLists.search, threading.Event()

    def wait(*arguments: Any) -> Any:
        go.wait(120)
        return search(*arguments)

    monkeypatch.setattr(LocalLists, "search", wait)
    yield go
    go.set()


def test_probes_answer_while_all_threads_search(
    index: Path, serve: Launch, held: threading.Event
) -> None:
    server = serve(index, http=LOCAL, limits=Limits(queue=44))
    base = f"http://{server.http_address}"
    body = {"queries": QUERIES[:1].astype(float).tolist(), "k": 3, "timeout_s": 60}
    with ThreadPoolExecutor(44) as pool:
        asked = [
            pool.submit(httpx.post, f"{base}/search", json=body, timeout=90) for _ in range(44)
        ]
        until = time.monotonic() + 60
        while server.service.statistics()["waiting"] < 44 and time.monotonic() < until:
            time.sleep(0.02)
        for path in ("/healthz", "/readyz", "/metrics", "/info"):
            started = time.perf_counter()
            assert httpx.get(base + path, timeout=50).status_code == 200
            assert time.perf_counter() - started < 50  # not the searches' minute
        started = time.perf_counter()
        busy = httpx.post(f"{base}/search", json=body, timeout=50)
        assert (busy.status_code, busy.json()["error"]) == (503, "busy")
        assert busy.headers["retry-after"] == "1"
        assert time.perf_counter() - started < 50
        held.set()
        assert {each.result().status_code for each in asked} == {200}


def test_deadlines_begin_with_the_header(index: Path, serve: Launch, held: threading.Event) -> None:
    server = serve(index, http=LOCAL)
    asked = {"query": QUERIES[0].astype(float).tolist(), "k": 3, "timeout_s": 2}
    body = json.dumps(asked).encode()
    with connected(server) as late:
        late.sendall(head(len(body)) + body[:40])
        time.sleep(2.1)
        late.sendall(body[40:])
        started = time.perf_counter()
        assert b" 504 " in late.recv(400)
        assert time.perf_counter() - started < 1.9  # it was not searched for another 2 s


def test_bodies_count_before_they_are_read(index: Path, serve: Launch) -> None:
    server = serve(index, http=LOCAL, limits=Limits(queue_bytes=5 << 20))
    base = f"http://{server.http_address}"
    body = {"query": QUERIES[0].astype(float).tolist(), "k": 3}
    with connected(server) as slow, connected(server) as more:
        slow.sendall(head(4 << 20))
        until = time.monotonic() + 60
        while not server.service.budget.held_bytes and time.monotonic() < until:
            time.sleep(0.01)
        assert server.service.budget.held_bytes == 4 << 20
        more.sendall(head(2 << 20))
        assert b" 503 " in more.recv(400)  # before a byte of the body
        assert httpx.post(f"{base}/search", json=body).status_code == 200
    until = time.monotonic() + 60
    while server.service.budget.held_bytes and time.monotonic() < until:
        time.sleep(0.01)
    assert server.service.budget.held_bytes == 0


def test_kept_alive_requests_take_no_40_ms(web: httpx.Client) -> None:
    body = json.dumps({"query": QUERIES[0].astype(float).tolist(), "k": 3, "nprobe": 2})

    def seconds() -> float:
        started = time.perf_counter()
        web.post("/search", content=body)
        return time.perf_counter() - started

    assert any(seconds() < 0.03 for _ in range(300))


def head(length: int, host: str = "localhost") -> bytes:
    return (f"POST /search HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n").encode()


def connected(server: Server) -> socket.socket:
    assert server.http_address is not None
    made = socket.create_connection((server.http_address.host, server.http_address.port), 60)
    made.settimeout(60)
    return made


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:7480", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("192.0.2.7", 421),
        ("", 421),
        ("[::2]", 421),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("localhost.", 200),
        ("127.0.0.1:80", 200),
        ("127.1.2.3", 200),
        ("[::1]:7480", 200),
        ("db.example.org:7480", 200),
    ],
)
def test_names_that_a_page_may_have_bound_anew(
    index: Path, serve: Launch, host: str, status: int
) -> None:
    security = ServerSecurity(allow_hosts=("db.example.org",))
    server = serve(index, http=LOCAL, security=security)
    with httpx.Client(base_url=f"http://{server.http_address}") as web:
        for path in ("/", "/info", "/healthz"):
            answer = web.get(path, headers={"host": host})
            assert answer.status_code == status, path
        body = {"query": QUERIES[0].astype(float).tolist(), "k": 3}
        assert web.post("/search", json=body, headers={"host": host}).status_code == status
        if status == 421:
            assert "--allow-host" in answer.json()["message"]


def test_pages_of_others_may_not_ask(index: Path, serve: Launch, tmp_path: Path) -> None:
    server = serve(index, http=LOCAL)
    body = {"query": QUERIES[0].astype(float).tolist(), "k": 3}
    url = f"http://{server.http_address}/search"
    for origin, status in (
        ("http://evil.example", 403),
        ("null", 403),
        (f"http://{server.http_address}", 200),
    ):
        answer = httpx.post(url, json=body, headers={"origin": origin})
        assert answer.status_code == status
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-tests-1234")
    guarded = serve(index, http=LOCAL, security=ServerSecurity(token_file=tokens))
    answer = httpx.get(
        f"http://{guarded.http_address}/info",
        headers={"host": "any.example", "authorization": "Bearer a-token-of-tests-1234"},
    )
    assert answer.status_code == 200  # the token tells who asks


def test_methods_of_callers_make_no_time_series(index: Path, serve: Launch) -> None:
    server = serve(index, http=LOCAL, limits=Limits(request_bytes=4096))
    for name in ("search", "refine", "no-such", "x" * 30, "a b\n", ""):
        for size in (10, 5000):
            server.service.answer_frame(name, memoryview(bytes(size)))
    text = httpx.get(f"http://{server.http_address}/metrics").text
    methods = set(re.findall(r'method="([^"]*)"', text))
    assert methods == {*METHODS, "other"}
