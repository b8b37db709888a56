"""Metrics: what exists from the start, what is counted, and that the docs list all of it."""

from __future__ import annotations

import re
import shutil
import socket
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pyarrow import flight

import teravec
from teravec.errors import TeravecError
from teravec.serving.deploy.maintenance import MaintenanceOptions
from teravec.serving.deploy.program import Server
from teravec.serving.server.loop_delay import LoopDelay
from teravec.serving.server.metrics import REASONS
from teravec.serving.wire.certificates import expiry_of
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.security import Address, ServerSecurity
from tests.serving.certificates import Authority
from tests.serving.conftest import QUERIES, Launch, addresses, built, url
from tests.serving.test_faults import until

LOCAL = Address("127.0.0.1", 0)
DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
Labels = dict[str, str]


class Samples:
    """Samples of a server at one moment."""

    def __init__(self, server: Server) -> None:
        self.text = server.service.metrics.text().decode()
        self.families = list(text_string_to_metric_families(self.text))
        self._values = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._values[(f"teravec_{name}", *sorted(labels.items()))]


def names_of(server: Server) -> set[tuple[str, tuple[str, ...]]]:
    """Each metric as the docs name it, and its labels."""
    found = set()
    for family in Samples(server).families:
        if family.name.startswith("teravec_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found.add((name, tuple(sorted(labels))))
    return found


@pytest.fixture
def secured(index: Path, serve: Launch, tmp_path: Path) -> list[Server]:
    """A server with a certificate, and its coordinator: together they have every metric."""
    pem = Authority(tmp_path).sign("server")
    server = serve(
        index,
        security=ServerSecurity(pem.certificate, pem.key),
        http=LOCAL,
        maintenance=MaintenanceOptions(60.0),
    )
    plain = serve(index)
    return [server, serve(index, servers=str(plain.address), http=LOCAL)]


def test_the_docs_list_every_metric(secured: list[Server]) -> None:
    exported = names_of(secured[0]) | names_of(secured[1])
    page = DOCS.read_text()
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `teravec_")]
    documented = {
        (name, tuple(sorted(labels.split(","))) if labels else ())
        for row in rows
        for name, labels in re.findall(r"`(teravec_\w+)(?:\{([\w,]+)\})?`", row)
        if "_disk_cache_" not in name  # only with --cache
    }
    # The coordinator has no certificate, and a gauge without samples shows no label.
    exported.discard(("teravec_certificate_expiry_timestamp_seconds", ()))
    assert documented == exported


def test_series_exist_from_the_start(secured: list[Server]) -> None:
    for server in secured:
        found = Samples(server)
        assert "_created" not in found.text
        assert found("requests_total", method="search", code="busy") == 0
        assert found("requests_total", method="refine", code="internal") == 0
        assert found("request_seconds_count", method="other") == 0
        assert found("retries_total", why="slow") == 0
        assert found("reloads_total", outcome="failed") == 0
        assert found("bytes_total", direction="gathered") == 0
        assert found("partial_answers_total") == 0
        for port in ("flight", "http"):
            assert [found("refusals_total", port=port, reason=r) for r in REASONS] == [0] * 9
        assert found("http_responses_total", status="503") == 0
        assert found("lists_read_total", source="cache") == 0
        assert found("connections", port="flight") >= 0
        assert found("connections", port="http") == 0
        assert found("queue_limit_requests") == 512
        assert found("memory_bound_bytes") > 1 << 30


def test_no_requests_make_new_series(index: Path, serve: Launch) -> None:
    server = serve(index, http=LOCAL, limits=Limits(request_bytes=4096))
    before = {line.rpartition(" ")[0] for line in Samples(server).text.splitlines()}
    base = f"http://{server.http_address}"
    client = flight.FlightClient(f"grpc://{server.address}")
    for number in range(20):
        server.service.answer_frame(f"m{number}", memoryview(bytes(5000)))
        httpx.request(f"M{number}", f"{base}/p{number}")
        httpx.post(f"{base}/search", json={f"x{number}": 1})
        answers = [each.body for each in client.do_action(flight.Action(f"a{number}", b""))]
        assert b"invalid-argument" in answers[0].to_pybytes()
    client.close()
    after = {line.rpartition(" ")[0] for line in Samples(server).text.splitlines()}
    assert after == before


def test_searches_are_counted(index: Path, serve: Launch) -> None:
    server = serve(index, memory_bytes=256 << 20)
    with teravec.connect(url(server)) as remote:
        for _ in range(3):
            remote.search(QUERIES, 5, 20)
    found = Samples(server)
    assert found("lists_read_total", source="files") > 0
    assert found("lists_read_total", source="cache") > 0
    assert found("disk_reads_total") > 0
    assert found("disk_read_bytes_total") > 1000
    assert found("codes_scanned_total") > 1000
    assert found("search_seconds_total", step="scan") > 0
    assert found("requests_total", method="search", code="ok") == 3


def test_counts_go_on_after_a_reload(index: Path, serve: Launch, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(index)
    server = serve(link, idle_s=0.05)
    with teravec.connect(url(server)) as remote:
        remote.search(QUERIES, 5, 20)
        before = Samples(server)("codes_scanned_total")
        link.unlink()
        link.symlink_to(built(tmp_path, seed=11, calibrate=False))
        server.reload()
        until(lambda: Samples(server)("index_versions") == 1)
        assert Samples(server)("codes_scanned_total") == before
        remote.search(QUERIES, 5, 20)
        assert Samples(server)("codes_scanned_total") > before
    assert Samples(server)("reloads_total", outcome="ok") == 1


def test_failed_reloads_are_counted(index: Path, serve: Launch, tmp_path: Path) -> None:
    copy, tokens = tmp_path / "copy", tmp_path / "tokens"
    shutil.copytree(index, copy)
    tokens.write_text("a-token-of-16-chars-1\n")
    server = serve(copy, security=ServerSecurity(token_file=tokens))
    (copy / "manifest.json").write_bytes(b"{}")
    server.reload()
    assert Samples(server)("reloads_total", outcome="failed") == 1
    shutil.copy(index / "manifest.json", copy)
    tokens.write_text("")  # a token file that cannot be used fails a reload too
    server.reload()
    assert Samples(server)("reloads_total", outcome="failed") == 2
    assert Samples(server)("last_reload_success") == 0


def said(address: Address | None, data: bytes) -> bytes:
    """What a port says to some bytes."""
    assert address is not None
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(data)
        return connection.recv(1000)


def test_refusals_have_reasons(index: Path, serve: Launch, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-16-chars-1\n")
    open_server = serve(index, http=LOCAL)
    closed = serve(index, http=LOCAL, security=ServerSecurity(token_file=tokens))
    base = f"http://{open_server.http_address}"
    httpx.get(f"{base}/info", headers={"host": "evil.example"})
    httpx.get(f"{base}/nothing")
    httpx.get(f"{base}/search")
    httpx.post(f"{base}/search", content=b"{")
    httpx.post(f"{base}/search", content=b"x" * (5 << 20))
    httpx.get(f"{base}/readyz")
    httpx.get(f"http://{closed.http_address}/info")
    assert b"400" in said(open_server.http_address, b"no HTTP\r\n\r\n")
    with pytest.raises(TeravecError):
        teravec.connect(url(closed), timeout_s=2)
    with teravec.connect(url(open_server)) as remote, pytest.raises(TeravecError):
        remote.search(QUERIES, 10, 60_000_000)
    said(open_server.address, b"no HTTP/2 either\r\n\r\n" + bytes(100))
    until(lambda: Samples(open_server)("refusals_total", port="flight", reason="malformed") == 1)
    found = Samples(open_server)

    def refusals(port: str) -> dict[str, float]:
        counts = {r: found("refusals_total", port=port, reason=r) for r in REASONS}
        return {reason: count for reason, count in counts.items() if count}

    assert refusals("http") == {"host": 1, "not-found": 2, "invalid": 1, "limit": 1, "malformed": 1}
    assert refusals("flight") == {"limit": 1, "malformed": 1}
    responses = {n: found("http_responses_total", status=n) for n in ("200", "404", "413", "421")}
    assert responses == {"200": 1, "404": 1, "413": 1, "421": 1}
    found = Samples(closed)
    assert refusals("http") == {"access-denied": 1}
    assert refusals("flight")["access-denied"] >= 1


def test_partial_answers_are_counted(index: Path, serve: Launch) -> None:
    server = serve(index, lists="0:30")
    coordinator = serve(index, servers=addresses([server]))
    with teravec.connect(url(coordinator)) as remote:
        assert remote.search_partial(QUERIES[:2], 5, 60)[2] > 0
    assert Samples(coordinator)("partial_answers_total") == 1
    assert Samples(coordinator)("servers", state="live") == 1
    assert Samples(coordinator)("lists_covered_ratio") == 0.5


def test_connections_are_counted(index: Path, serve: Launch) -> None:
    server = serve(index, http=LOCAL)
    with httpx.Client() as web, teravec.connect(url(server)):
        web.get(f"http://{server.http_address}/healthz")
        assert Samples(server)("connections", port="http") == 1
        assert Samples(server)("connections", port="flight") >= 1
    until(lambda: Samples(server)("connections", port="http") == 0)


def test_certificates_say_when_they_expire(index: Path, serve: Launch, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pem = authority.sign("server")
    server = serve(index, security=ServerSecurity(pem.certificate, pem.key, authority.path))
    expiry = expiry_of(pem.certificate)
    assert expiry is not None
    found = Samples(server)
    assert found("certificate_expiry_timestamp_seconds", file="tls-cert") == expiry.timestamp()
    assert found("certificate_expiry_timestamp_seconds", file="client-ca") > time.time()


def test_a_late_loop_is_seen() -> None:
    delay = LoopDelay(0.01)
    assert delay.seconds == 0
    for pause in (0.01, 0.15, 0.01):
        delay.tick()
        time.sleep(pause)
    delay.tick()
    assert 0.13 < delay.seconds < 5
    time.sleep(0.3)
    assert delay.seconds > 0.28  # a loop that hangs now
