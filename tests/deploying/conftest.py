"""The commands of the examples, started on this machine."""

from __future__ import annotations

import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from tests.serving.certificates import Authority
from tests.serving.conftest import NLIST, QUERIES, built

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
VERSIONS = ("2026-11-20", "2026-11-27")
CALLERS, SERVERS = "a-token-of-callers-1234", "a-token-of-servers-1234"
LISTS = {"0:32768": f"0:{NLIST // 2}", "32768:": f"{NLIST // 2}:"}
"""Ranges of the examples, and of the index here."""


@pytest.fixture(scope="session")
def flags() -> set[str]:
    """Every option of ``teravec serve``."""
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    return set(re.findall(r"--[a-z][a-z-]+", shown))


@dataclass
class Site:
    """What the examples expect of a machine: versions of an index, certificates and tokens.

    Attributes
    ----------
    folder : Path
        Holds ``indexes/VERSION``, the link ``index``, and the files below.
    authority, certificate, key, servers, clients : Path
        ``servers`` and ``clients`` are files of tokens.
    """

    folder: Path
    authority: Path
    certificate: Path
    key: Path
    servers: Path
    clients: Path

    def true(self, version: str) -> tuple[np.ndarray, np.ndarray]:
        """The local index's own answers to QUERIES."""
        with teravec.open(self.folder / "indexes" / version) as local:
            return local.search(QUERIES, 10, NLIST)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    (folder / "indexes").mkdir()
    for seed, version in enumerate(VERSIONS):
        built(folder, seed=seed, calibrate=False).rename(folder / "indexes" / version)
    (folder / "index").symlink_to(Path("indexes") / VERSIONS[0])
    authority = Authority(folder)
    pem = authority.sign("server")
    tokens = {}
    for name, token in (("servers", SERVERS), ("clients", CALLERS)):
        tokens[name] = folder / f"{name}.tokens"
        tokens[name].write_text(token + "\n")
        tokens[name].chmod(0o600)
    return Site(folder, authority.path, pem.certificate, pem.key, **tokens)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    ends = [socket.socket() for _ in range(count)]
    for end in ends:
        end.bind(("127.0.0.1", 0))
    ports = [end.getsockname()[1] for end in ends]
    for end in ends:
        end.close()
    return ports


def replace(text: str, replacements: dict[str, str]) -> str:
    """Replace words, the longest first, each place once."""
    words = sorted(replacements, key=len, reverse=True)
    return re.sub(
        "|".join(rf"(?<![\w.]){re.escape(word)}(?![\w-])" for word in words),
        lambda found: replacements[found[0]],
        text,
    )


@dataclass
class Command:
    """A command of an example, started here: the same argv, with other paths, lists and ports.

    Parameters
    ----------
    name : str
    arguments : list of str
        What follows ``teravec``, as in the example.
    replacements : dict of str
        Paths and lists of the example, and those of this machine.
    environment : dict of str
        All that the process gets.
    """

    name: str
    arguments: Sequence[str]
    replacements: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self.flight_port, self.http_port = free_ports(2)

    @property
    def url(self) -> str:
        return f"grpc+tls://127.0.0.1:{self.flight_port}"

    def start(self, log: Path) -> None:
        """Start it, and wait until its process has printed where it serves."""
        ports = {}
        for option, port in (("--listen", self.flight_port), ("--http", self.http_port)):
            ports[_option(self.arguments, option)] = f"127.0.0.1:{port}"
        arguments = [replace(each, self.replacements | ports) for each in self.arguments]
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "teravec", *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **self.environment},
            )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(3)]
        assert "serving on" in lines[0], log.read_text()
        found = re.search(r"memory at most ([\d,]+) MiB", lines[2])
        assert found, lines
        self.memory_bound_bytes = int(found[1].replace(",", "")) << 20

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        """As kubelet does: without a look at the certificate."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        url = f"https://127.0.0.1:{self.http_port}{path}"
        return httpx.get(url, headers=headers, verify=context, timeout=60, trust_env=False)

    def end(self, how: int, timeout_s: float = 60) -> int:
        """End it by a signal; return its exit code."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(how)
        code = self.process.wait(timeout_s)
        self.process.stdout.close()
        self.process = None
        return code


def _option(arguments: Sequence[str], name: str) -> str:
    """The value of an option, given as ``--name=value`` or ``--name value``."""
    text = shlex.join(arguments)
    found = re.search(rf"(?<!\S){name}[= ](\S+)", text)
    assert found, (name, text)
    return found[1]


@pytest.fixture
def ends() -> Iterator[list[Command]]:
    """Commands to kill in the end."""
    commands: list[Command] = []
    yield commands
    for command in commands:
        if command.process is not None:
            command.end(9)


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [each for each in yaml.safe_load_all(path.read_text()) if each is not None]


def until(true: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
