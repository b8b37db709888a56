"""The command line: teravec serve, and search with --server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from teravec.cli.main import app
from teravec.errors import Unavailable
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.peer import ServerPeer
from teravec.serving.wire.security import ClientSecurity, ServerSecurity
from tests.serving.certificates import Authority
from tests.serving.conftest import QUERIES, Launch, Process, url

Spawn = Callable[..., Process]


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    np.save(tmp_path / "q.npy", QUERIES[:4])
    return tmp_path / "q.npy"


def test_search_is_the_same_with_a_server(index: Path, serve: Launch, queries: Path) -> None:
    server = serve(index)
    for command, option in (("search", ["-k", 3]), ("range-search", ["--radius", 40])):
        local = run(command, index, queries, "--nprobe", 9, *option)
        remote = run(command, queries, "--server", url(server), "--nprobe", 9, *option)
        assert local[0] == remote[0] == 0, remote
        assert local[1] == remote[1] != ""
    told = run("search", queries, "--server", url(server), "--json", "--stats")
    assert json.loads(told[1])["stats"]["queries"] == 4


def test_errors_of_one_line(index: Path, queries: Path) -> None:
    for arguments, code, part in (
        (("search", index), 2, "--server"),
        (("search", index, queries, "--server", "grpc://127.0.0.1:9"), 2, "given beside --server"),
        (("search", queries, "--server", "http://127.0.0.1:9"), 2, "grpc://"),
        (("serve", index, "--lists", "0:5", "--slices", "1"), 2, "one of lists"),
        (("serve", index, "--lists", "5:99"), 2, "60"),
        (("serve", index, "--listen", "0.0.0.0:0"), 2, "--insecure"),
        (("serve", index, "--http", "0.0.0.0:0", "--listen", "127.0.0.1:0"), 2, "--insecure"),
        (("serve", index, "--listen", "here"), 2, "host:port"),
        (("serve", index, "--tls-cert", queries), 2, "together"),
        (("serve", queries.parent / "none"), 1, "no teravec index"),
        (("serve", index, "--queue", "0"), 2, "--queue is 0"),
        (("serve", index, "--max-request", "0"), 2, "--max-request is 0"),
        (("serve", index, "--max-answer", "9999GiB"), 2, "--max-answer is"),
        (("serve", index, "--drain", "nan"), 2, "--drain is nan"),
        (("serve", index, "--drain", "inf"), 2, "--drain is inf"),
        (("serve", index, "--threads", "0"), 2, "--threads is 0"),
        (("serve", index, "--batch-rows", "0"), 2, "--batch-rows is 0"),
        (("serve", index, "--engine", "ray", "--replicas", "0"), 2, "--replicas is 0"),
        (("serve", index, "--listen", "*:7400"), 2, "0.0.0.0:7400"),
        (("serve", index, "--tls-cert", queries, "--tls-key", queries), 2, "PEM"),
        (("serve", index, "--log-format", "xml"), 2, "text or json expected"),
        (("serve", index, "--allow-host", "http://a.b/"), 2, "without http://"),
    ):
        found = run(*arguments)
        assert found[0] == code, found
        assert part in found[2]
        assert found[2].startswith("teravec: ")
        assert found[2].count("\n") == 1


def test_a_server_that_is_not_trusted_is_told_soon_and_in_one_line(
    index: Path, serve: Launch, queries: Path, tmp_path: Path
) -> None:
    pem, other = Authority(tmp_path).sign("server"), Authority(tmp_path, "other")
    server = serve(index, security=ServerSecurity(pem.certificate, pem.key))
    arguments = ["search", queries, "--server", f"grpc+tls://{server.address}", "--ca", other.path]
    started = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-m", "teravec", *map(str, arguments)], capture_output=True, text=True
    )
    assert time.monotonic() - started < 60
    assert found.returncode == 1
    assert found.stderr.startswith("teravec: ")
    assert "certificate verify failed" in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_port_that_is_taken(index: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in (
            ("--listen", f"127.0.0.1:{port}"),
            ("--listen", "127.0.0.1:0", "--http", f"127.0.0.1:{port}"),
        ):
            found = run("serve", index, *options)
            assert found[0] == 2
            assert str(port) in found[2]


def test_both_ports_are_told(index: Path, spawn: Spawn) -> None:
    import httpx

    server = spawn(str(index), "--slices", "0,3", http="127.0.0.1:0")
    info = httpx.get(f"{server.http}/info").json()
    assert len(info["lists"]) == 2


def test_the_most_memory_is_told(index: Path, spawn: Spawn) -> None:
    server = spawn(str(index), "--memory", "200MiB", http="127.0.0.1:0")
    assert server.process is not None
    assert server.process.stdout is not None
    line = server.process.stdout.readline()
    assert line.startswith("memory at most 2,0")  # of which 200 MiB are asked for
    assert "--memory 200," in line


def test_a_proxy_is_not_asked_for_this_machine(
    index: Path, serve: Launch, queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(index)
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost"):
        there = f"grpc://{host}:{server.address.port}"
        assert run("search", queries, "--server", there, "-k", 1)[0] == 0


def test_a_proxy_that_is_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    peer = ServerPeer("grpc://192.0.2.1:7400", ClientSecurity())
    named = "through the proxy http://127.0.0.1:9 of the variable grpc_proxy"
    with pytest.raises(Unavailable, match=named):
        peer.tell("info", Deadline.after(3))
    peer.close()
