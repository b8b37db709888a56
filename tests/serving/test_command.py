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
from teravec.serving.security import ServerSecurity
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
    assert time.monotonic() - started < 30
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
