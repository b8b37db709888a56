"""Log lines of servers: their form, the ids of requests, the access log, and what is left out."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyarrow import flight

import teravec
from teravec.errors import AccessDenied, InvalidArgument, LimitExceeded
from teravec.serving.server.access import ACCESS_LOGGER
from teravec.serving.server.logs import JsonFormatter, RepeatFilter, TextFormatter
from teravec.serving.wire.context import CURRENT, RequestContext, request_id
from teravec.serving.wire.frames import decode, encode
from teravec.serving.wire.security import Address, ServerSecurity
from tests.serving.conftest import QUERIES, Launch, Process, addresses, url

Spawn = Callable[..., Process]
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TOKEN = "a-secret-of-more-than-16"


@pytest.fixture
def accesses() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Turns the access log on; returns what was logged, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger(ACCESS_LOGGER)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def until_logged(accesses: Callable[[], list[dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    """Lines, once there are so many: an answer may be here before its line."""
    limit = time.monotonic() + 60
    while len(accesses()) < count and time.monotonic() < limit:
        time.sleep(0.01)
    return accesses()


def formatted(formatter: logging.Formatter, message: str, *arguments: object, **more: Any) -> str:
    record = logging.LogRecord("teravec.x", logging.WARNING, "", 1, message, arguments, None)
    record.__dict__.update(more)
    return formatter.format(record)


# --- the form of lines


def test_text_lines_have_the_id_and_no_control_characters() -> None:
    line = formatted(TextFormatter(), "met %s", "a\nb\x1b[31m\u2028", request_id="id-1")
    assert line.endswith(r"WARNING teravec.x: met a\nb\x1b[31m\u2028 [id-1]")


def test_json_lines_are_one_object_each() -> None:
    line = formatted(JsonFormatter(), "met %s", "a\nb", request_id="id-1", fields={"k": 3})
    assert "\n" not in line
    content = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", content.pop("time"))
    assert content == {
        "level": "WARNING",
        "logger": "teravec.x",
        "message": "met a\nb",
        "request_id": "id-1",
        "k": 3,
    }


def test_lines_know_the_request_that_their_thread_works_for() -> None:
    with request_id("shop-17"):
        assert json.loads(formatted(JsonFormatter(), "x"))["request_id"] == "shop-17"
    assert "request_id" not in json.loads(formatted(JsonFormatter(), "x"))


def test_lines_of_a_kind_are_bounded() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    handler.addFilter(RepeatFilter(most=3, window_s=0.2))
    log = logging.getLogger("teravec.test_repeats")
    log.addHandler(handler)
    try:
        for number in range(10):
            log.warning("of one kind: %d", number)
        log.warning("of another kind")
        time.sleep(0.25)
        log.warning("of one kind: %d", 10)
    finally:
        log.removeHandler(handler)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert "left out for a minute" in lines[2]
    assert lines[4].endswith("of one kind: 10 (7 lines like this were left out before)")


# --- ids


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"request_id": "shop-17"}, True),
        ({"request_id": "x" * 128}, True),
        ({"request_id": "x" * 129}, False),
        ({"request_id": "a b"}, False),
        ({"request_id": "a\nb"}, False),
        ({"request_id": 7}, False),
        ({"request_id": "ü"}, False),
        ({"traceparent": PARENT}, True),
        ({"traceparent": PARENT.upper()}, False),
        ({"traceparent": PARENT.replace("00-", "ff-", 1)}, False),
        ({"traceparent": "00-" + "0" * 32 + PARENT[35:]}, False),
        ({"tracestate": "a=b"}, False),
        ({"traceparent": PARENT, "tracestate": "a=b"}, True),
        ({"traceparent": PARENT, "tracestate": "x" * 513}, True),
        ({}, False),
        ("shop-17", False),
        (None, False),
        ([["request_id", "x"]], False),
    ],
)
def test_what_callers_may_say(given: Any, kept: bool) -> None:
    context = RequestContext.read(given)
    assert (context is not None) == kept
    if context is not None:
        assert RequestContext.read(context.fields()) == context
        assert len(context.tracestate) <= 512
        assert context.request_id


def test_new_ids_differ() -> None:
    assert len({RequestContext.new().request_id for _ in range(1000)}) == 1000
    assert CURRENT.get() is None


def test_http_answers_carry_the_id(index: Path, serve: Launch) -> None:
    server = serve(index, http=Address("127.0.0.1", 0))
    base = f"http://{server.http_address}"
    body = {"queries": QUERIES[:1].tolist(), "k": 3, "nprobe": 4}
    named = httpx.post(f"{base}/search", json=body, headers={"X-Request-Id": "shop-17"})
    assert named.headers["x-request-id"] == "shop-17"
    strange = httpx.get(f"{base}/healthz", headers={"X-Request-Id": "a b" * 100})
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", strange.headers["x-request-id"])
    refused = httpx.post(f"{base}/search", json={"k": 1}, headers={"X-Request-Id": "shop-18"})
    assert refused.status_code == 422
    assert refused.json()["request_id"] == refused.headers["x-request-id"] == "shop-18"
    nothing = httpx.get(f"{base}/nothing", headers={"X-Request-Id": "shop-18"})
    assert nothing.headers["x-request-id"] == "shop-18"


def test_flight_errors_carry_the_id(index: Path, serve: Launch) -> None:
    server = serve(index)
    with teravec.connect(url(server)) as remote, request_id("shop-19"):
        with pytest.raises(LimitExceeded) as found:
            remote.search(QUERIES, 10, 60_000_000)
        assert "request id: shop-19" in found.value.__notes__
    with teravec.connect(url(server)) as remote, pytest.raises(LimitExceeded) as found:
        remote.search(QUERIES, 10, 60_000_000)
    assert re.search("request id: [0-9a-f]{12}-", found.value.__notes__[0])


def test_metadata_of_other_clients_is_read(
    index: Path, serve: Launch, accesses: Callable[[], list[dict[str, Any]]]
) -> None:
    server = serve(index)
    client = flight.FlightClient(f"grpc://{server.address}")
    options = flight.FlightCallOptions(headers=[(b"x-request-id", b"other-1")])
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command("search"), options)
    header = {"k": 1, "nprobe": 1, "timeout_s": 5.0, "allow_partial": False}
    writer.write_metadata(encode(header, {"queries": QUERIES[:2]}))
    assert "version" in decode(reader.read_chunk().app_metadata.to_pybytes())[0]
    writer.close()
    list(client.do_action(flight.Action("list-sizes", b""), options))
    client.close()
    lines = until_logged(accesses, 2)
    assert [line["request_id"] for line in lines] == ["other-1"] * 2
    assert [line["method"] for line in lines] == ["search", "list-sizes"]


# --- the access log


def test_a_line_a_request(
    index: Path, serve: Launch, tmp_path: Path, accesses: Callable[[], list[dict[str, Any]]]
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# name: web\n{TOKEN}\n")
    server = serve(index, http=Address("127.0.0.1", 0), security=ServerSecurity(token_file=tokens))
    base = f"http://{server.http_address}"
    own = {"authorization": f"Bearer {TOKEN}", "x-request-id": "shop-20"}
    body = {"queries": QUERIES[:3].tolist(), "k": 4, "nprobe": 4}
    assert httpx.post(f"{base}/search", json=body, headers=own).status_code == 200
    assert httpx.get(f"{base}/healthz", headers=own).status_code == 200  # not logged
    assert httpx.get(f"{base}/info/{'x' * 50}", headers=own).status_code == 404
    assert httpx.post(f"{base}/search", json=body).status_code == 401
    with teravec.connect(url(server), token=TOKEN) as remote, request_id("shop-21"):
        remote.search(QUERIES[:5], 6, 4)
        with pytest.raises(InvalidArgument):
            remote.search(QUERIES[:5], 6, recall=0.99999)
    lines = until_logged(accesses, 6)
    told = [
        {key: line.get(key) for key in ("port", "method", "outcome", "token")} for line in lines
    ]
    assert [tuple(line.values()) for line in told] == [
        ("http", "/search", "ok", "web"),
        ("http", "other", "refused", "web"),
        ("http", "/search", "refused", None),
        ("flight", "info", "ok", "web"),
        ("flight", "search", "ok", "web"),
        ("flight", "search", "invalid-argument", "web"),
    ]
    assert (lines[0]["queries"], lines[0]["k"], lines[0]["status"]) == (3, 4, 200)
    assert (lines[4]["queries"], lines[4]["k"]) == (5, 6)
    assert [lines[n]["request_id"] for n in (0, 4, 5)] == ["shop-20", "shop-21", "shop-21"]
    assert all(line["peer"].startswith("127.0.0.1:") for line in lines)
    assert all(0 <= line["seconds"] < 10 for line in lines)
    assert TOKEN not in json.dumps(lines)
    assert str(float(QUERIES[0, 0]))[:6] not in json.dumps(lines)
    assert "xxx" not in json.dumps(lines)


def test_callers_without_a_token_are_logged(
    index: Path, serve: Launch, tmp_path: Path, accesses: Callable[[], list[dict[str, Any]]]
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    server = serve(index, security=ServerSecurity(token_file=tokens))
    with pytest.raises(AccessDenied):
        teravec.connect(url(server), token="another-secret-of-16", timeout_s=2)
    line = until_logged(accesses, 1)[0]
    assert (line["outcome"], line["port"], line.get("token")) == ("access-denied", "flight", None)
    assert line["peer"].startswith("127.0.0.1:")
    assert "secret" not in json.dumps(accesses())


def test_the_id_goes_on_to_the_servers(
    index: Path, serve: Launch, accesses: Callable[[], list[dict[str, Any]]]
) -> None:
    servers = [serve(index, lists="0:30"), serve(index, lists="30:60")]
    coordinator = serve(index, servers=addresses(servers))
    with teravec.connect(url(coordinator)) as remote:
        before = len(until_logged(accesses, 1))
        with request_id("shop-22"):
            remote.search(QUERIES[:1], 5, 60)
        lines = until_logged(accesses, before + 3)[before:]
    searched = [line for line in lines if line["method"].startswith("search")]
    assert sorted(line["method"] for line in searched) == ["search", "search-lists", "search-lists"]
    assert {line["request_id"] for line in searched} == {"shop-22"}


def test_joined_requests_name_the_first(
    index: Path, serve: Launch, accesses: Callable[[], list[dict[str, Any]]]
) -> None:
    server = serve(index)

    def ask(number: int) -> None:
        with teravec.connect(url(server)) as remote, request_id(f"joined-{number}"):
            for _ in range(20):
                remote.search(QUERIES[:1], 5, 8)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    until_logged(accesses, 8 * 20)
    lines = [line for line in accesses() if line["method"] == "search"]
    joined = [line for line in lines if "batch" in line]
    assert joined
    assert all(line["batch"] != line["request_id"] for line in joined)
    assert {line["batch"] for line in joined} <= {f"joined-{number}" for number in range(8)}


def test_small_requests_that_the_port_joins_have_lines_of_their_own(
    index: Path, serve: Launch, accesses: Callable[[], list[dict[str, Any]]]
) -> None:
    server = serve(index)
    frame = encode(
        {"k": 2, "nprobe": 4, "timeout_s": 5.0, "allow_partial": False}, {"queries": QUERIES[:1]}
    )

    def ask(_: int) -> None:
        client = flight.FlightClient(f"grpc://{server.address}")
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command("search"))
        for _ in range(20):
            writer.write_metadata(frame)
            reader.read_chunk()
        writer.close()
        client.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    lines = until_logged(accesses, 8 * 20)
    assert len({line["request_id"] for line in lines}) == len(lines) == 160
    assert any("batch" in line for line in lines)
    assert all(line["peer"].startswith("127.0.0.1:") for line in lines)
    assert {(line["queries"], line["k"], line["outcome"]) for line in lines} == {(1, 2, "ok")}


def test_without_the_option_nothing_is_logged(
    index: Path, serve: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(index)
    with teravec.connect(url(server)) as remote:
        remote.search(QUERIES[:1], 5, 8)
    assert [record for record in caplog.records if record.name == ACCESS_LOGGER] == []


# --- the command


def last_lines(process: Process, how: int = signal.SIGTERM) -> list[str]:
    assert process.process is not None
    assert process.process.stdout is not None
    process.process.send_signal(how)
    return process.process.stdout.read().splitlines()


def test_serve_logs_json(index: Path, spawn: Spawn, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(index)
    server = spawn(str(link), "--log-format", "json", "--access-log", http="127.0.0.1:0")
    with teravec.connect(f"grpc://{server.address}") as remote, request_id("shop-23"):
        remote.search(QUERIES[:1], 5, 8)
    assert httpx.get(f"{server.http}/info").status_code == 200
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    time.sleep(0.7)
    link.unlink()
    server.process.send_signal(signal.SIGHUP)
    time.sleep(0.7)
    lines = [json.loads(line) for line in last_lines(server) if line.startswith("{")]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    search = [line for line in lines if line.get("method") == "search"]
    assert [line["request_id"] for line in search] == ["shop-23"]
    assert [line["status"] for line in lines if line.get("port") == "http"] == [200]
    reloads = [line for line in lines if "reload" in line["message"]]
    assert [line["level"] for line in reloads] == ["INFO", "ERROR"]
