"""examples/systemd: units that systemd accepts, confined, and whose commands serve."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.memory import parse_bytes
from teravec.serving.coordinator.topology import Topology
from tests.deploying.conftest import (
    CALLERS,
    EXAMPLES,
    LISTS,
    SERVERS,
    VERSIONS,
    Command,
    Site,
    replace,
    until,
)
from tests.serving.conftest import NLIST, QUERIES

FOLDER = EXAMPLES / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
CLOSE_S = 10  # that a process takes after draining, at most
units = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


def read(unit: Path) -> configparser.ConfigParser:
    """The unit's settings; of one that is given twice, the last."""
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, comment_prefixes=("#",), delimiters=("=",)
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text().replace("\\\n", " "))
    return parser


def command_of(unit: Path) -> list[str]:
    """What follows ``teravec``."""
    program, *arguments = shlex.split(read(unit)["Service"]["ExecStart"])
    assert program == "/opt/teravec/bin/teravec"
    return arguments


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(min|s|)", text).groups()  # type: ignore[union-attr]
    return int(number) * (60 if unit == "min" else 1)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_accepts_them(tmp_path: Path) -> None:
    program = shutil.which("true")
    assert program is not None
    names = []
    for unit in UNITS:
        names.append(tmp_path / unit.name.replace("@", "@a"))
        names[-1].write_text(unit.read_text().replace("/opt/teravec/bin/teravec", program))
    done = subprocess.run(
        ["systemd-analyze", "verify", *names], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in names:
        rated = subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", "--threshold=20", name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert rated.returncode == 0, rated.stdout


@units
def test_times_and_memory_fit(unit: Path, flags: set[str]) -> None:
    service, arguments = read(unit)["Service"], command_of(unit)
    assert {a for a in arguments if a.startswith("--")} <= flags
    drain_s = float(arguments[arguments.index("--drain") + 1])
    assert seconds(service["TimeoutStopSec"]) > drain_s + CLOSE_S
    assert service["Type"] == "notify"
    assert seconds(service["WatchdogSec"]) >= 10
    assert read(unit)["Unit"]["StartLimitIntervalSec"] == "0"
    assert read(unit)["Unit"]["RequiresMountsFor"] in arguments[1]


@units
def test_units_are_confined(unit: Path) -> None:
    service = read(unit)["Service"]
    on = "NoNewPrivileges RestrictNamespaces LockPersonality ProtectKernelModules ProtectHome"
    assert all(service[name] == "yes" for name in on.split())
    assert service["CapabilityBoundingSet"] == ""
    assert service["SystemCallFilter"].startswith("@system-service")


def test_they_come_up_and_answer(site: Site, tmp_path: Path, ends: list[Command]) -> None:
    """Two instances of the server and a coordinator, with the examples' topology."""
    etc = tmp_path / "etc"
    etc.mkdir()
    for name, path in (
        ("server.crt", site.certificate),
        ("server.key", site.key),
        ("ca.crt", site.authority),
        ("tokens", site.clients),
        ("server-tokens", site.servers),
    ):
        (etc / name).symlink_to(path)
    server, coordinator = FOLDER / "teravec-server@.service", FOLDER / "teravec-coordinator.service"
    paths = {"/etc/teravec": str(etc), "/srv/teravec/index": str(site.folder / "index")}
    own = {"/etc/teravec/tokens": str(site.servers)}
    commands = {}
    for name, lists in zip("ab", LISTS, strict=True):
        arguments = [a.replace("${LISTS}", lists) for a in command_of(server)]
        commands[name] = Command(name, arguments, paths | own | LISTS)
    ends += commands.values()
    # One replica of each range is enough here.
    topology = json.loads((FOLDER / "topology.json").read_text())
    assert len(Topology.read(FOLDER / "topology.json").entries) == 4
    topology["servers"] = [each for each in topology["servers"] if "1.example" in each["address"]]
    hosts = {
        f"search-{name}1.example.org:7400": f"127.0.0.1:{command.flight_port}"
        for name, command in commands.items()
    }
    (etc / "topology.json").write_text(replace(json.dumps(topology), hosts | LISTS))
    front = Command("front", command_of(coordinator), paths | LISTS)
    ends.append(front)
    with Manager(tmp_path / "notify") as manager:
        for each in ends:
            each.environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "30000000"}
        with ThreadPoolExecutor() as starts:
            list(starts.map(lambda each: each.start(tmp_path / f"{each.name}.log"), ends))
        manager.until("READY=1", 3)
        until(lambda: front.get("/readyz", CALLERS).status_code == 200)
        with teravec.connect(front.url, token=CALLERS, ca=site.authority) as remote:
            found = remote.search(QUERIES, 10, NLIST)
            for ours, local in zip(found, site.true(VERSIONS[0]), strict=True):
                np.testing.assert_array_equal(ours, local)
        for unit, each in ((server, commands["a"]), (coordinator, front)):
            limit_bytes = parse_bytes(read(unit)["Service"]["MemoryMax"].replace("G", "GiB"))
            assert each.memory_bound_bytes <= limit_bytes <= 1.1 * each.memory_bound_bytes
        assert commands["a"].get("/readyz", SERVERS).status_code == 200
        assert all(each.end(signal.SIGTERM) == 0 for each in ends)
        manager.until("STOPPING=1", 3)


class Manager:
    """Receives what services tell systemd."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(20)

    def until(self, line: str, times: int) -> None:
        """Wait until ``line`` has come so often."""
        while times:
            times -= line in self._socket.recv(4096).decode().split("\n")

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
