"""serve --engine ray: a server on each machine, back when it dies, gone with the command."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.engines.options import EngineOptions
from teravec.engines.residents import Machine
from teravec.errors import InvalidArgument
from teravec.serving.deploy.deployment import Deployment, DeploymentOptions
from teravec.serving.deploy.launch import ServeOptions
from teravec.serving.wire.security import Address
from tests.cluster.conftest import SimulatedCluster
from tests.serving.conftest import QUERIES, Launch, built, serve, url

__all__ = ["serve"]  # a fixture

RAY = EngineOptions("ray")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("deployed"))


@contextmanager
def deployed(index: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "teravec", "serve", str(index), "--engine", "ray", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON document that it prints when all servers are ready."""
    assert process.stdout is not None
    text = ""
    while not text.endswith("}\n") or "\n}" not in text:
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        text += line
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture
def notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lines that the command sends to its service manager."""
    lines: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0.2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        ended = threading.Event()

        def receive() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    lines.extend(manager.recv(4096).decode().split("\n"))

        thread = threading.Thread(target=receive)
        thread.start()
        yield lines
        ended.set()
        thread.join()


def listener(address: str) -> psutil.Process:
    """The process that listens at an address."""
    port = int(address.rpartition(":")[2])
    pids = [
        c.pid
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    ]
    return psutil.Process(pids[0])


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_server_on_each_machine(
    cluster: SimulatedCluster, index: Path, serve: Launch, tmp_path: Path, notified: list[str]
) -> None:
    topology = tmp_path / "topology.json"
    options = [
        "--address",
        cluster.address,
        "--replicas",
        "2",
        "--memory",
        "256MiB",
        "--threads",
        "1",
        "--topology",
        str(topology),
        "--json",
    ]
    with deployed(index, *options) as process:
        servers = told(process)["servers"]
        assert len(servers) == 3
        written = json.loads(topology.read_text())["servers"]
        assert written == [{"address": s["address"], "lists": s["lists"]} for s in servers]
        processes = [listener(s["address"]) for s in servers]
        assert len({p.ppid() for p in processes}) == 3  # each below another node's raylet
        coordinator = serve(index, topology=topology)
        with teravec.open(index) as local, teravec.connect(url(coordinator)) as remote:
            true = local.search(QUERIES, 10, 20)

            def check() -> None:
                found = remote.search(QUERIES, 10, 20)
                np.testing.assert_array_equal(found[1], true[1])
                np.testing.assert_array_equal(found[0], true[0])

            check()
            processes[0].kill()
            check()

            def whole() -> bool:
                check()
                states = [s["state"] for s in remote.statistics()["servers"]]
                names = json.loads(topology.read_text())["servers"]
                return states == ["live"] * 3 and names != written

            wait_until(whole)
        again = json.loads(topology.read_text())["servers"]
        assert [s["lists"] for s in again] == [s["lists"] for s in written]
        processes = [listener(s["address"]) for s in again]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert "was lost" in errors
        assert "is back at" in errors
        assert "STATUS=3 servers are ready" in notified
        assert notified.index("READY=1") < notified.index("STOPPING=1")
        assert notified.count("WATCHDOG=1") > 3
        assert not psutil.wait_procs(processes, timeout=60)[1]


def test_nothing_outlives_a_killed_command(
    cluster: SimulatedCluster, index: Path, tmp_path: Path
) -> None:
    options = [
        "--address",
        cluster.address,
        "--memory",
        "256MiB",
        "--threads",
        "1",
        "--json",
        "--topology",
        str(tmp_path / "topology.json"),
    ]
    with deployed(index, *options) as process:
        servers = told(process)["servers"]
        assert "".join(s["lists"] for s in servers).startswith("0:")
        processes = [listener(s["address"]) for s in servers]
        process.kill()
        process.communicate()
        assert not psutil.wait_procs(processes, timeout=60)[1]


def test_what_is_wrong_with_a_server_is_told(
    cluster: SimulatedCluster, index: Path, tmp_path: Path
) -> None:
    for options, part in (
        (["--replicas", "4"], "1 to 3"),
        (["--tls-cert", "none.pem", "--tls-key", "none.pem"], "none.pem"),
    ):
        with deployed(
            index,
            "--address",
            cluster.address,
            "--memory",
            "256MiB",
            "--threads",
            "1",
            "--topology",
            str(tmp_path / "t.json"),
            *options,
        ) as process:
            output, errors = process.communicate(timeout=240)
        assert process.returncode in (1, 2), errors
        assert output == ""
        lines = [s for s in errors.splitlines() if "waiting for room" not in s]  # of a slow machine
        assert len(lines) == 1
        assert part in lines[0]
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--engine", "ray", "--lists", "0:3"], "engine ray chooses lists"),
        (["--engine", "ray", "--listen", "192.0.2.1:0"], "each machine's own"),
        (["--engine", "ray", "--listen", "0.0.0.0:0"], "--insecure"),
        (["--engine", "ray", "--http", "0.0.0.0:0"], "--insecure"),
        (["--replicas", "2"], "engine ray"),
        (["--address", "x:1"], "engine ray"),
    ],
)
def test_options_that_do_not_fit(index: Path, options: list[str], part: str) -> None:
    found = CliRunner().invoke(app, ["serve", str(index), *options])
    assert found.exit_code == 2
    assert part in found.stderr
    assert found.stderr.count("\n") == 1


def test_addresses_of_several_machines(index: Path, tmp_path: Path) -> None:
    machines = [Machine("a", "one", "192.0.2.1"), Machine("b", "two", "192.0.2.2")]
    servers: Any = SimpleNamespace(
        all=[SimpleNamespace(number=n, machine=m, told=None) for n, m in enumerate(machines)]
    )
    here = ServeOptions(index)
    with pytest.raises(InvalidArgument, match=r"2 machines cannot be reached at 127\.0\.0\.1"):
        Deployment(DeploymentOptions(here, RAY, tmp_path)).assign_lists(servers)
    from teravec.serving.wire.security import ServerSecurity

    wide = ServeOptions(
        index, listen=Address("0.0.0.0", 7400), security=ServerSecurity(insecure=True)
    )
    deployment = Deployment(DeploymentOptions(wide, RAY, tmp_path))
    deployment.assign_lists(servers)
    made = [deployment.maker_of(n, m).options for n, m in enumerate(machines)]
    assert [str(o.listen) for o in made] == ["192.0.2.1:7400", "192.0.2.2:7400"]
    assert made[0].lists is not None
    assert made[1].lists == f"{made[0].lists.split(':')[1]}:"
