"""A Ray of our own on this machine: what it prints, where it listens, and how it is interrupted."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from teravec.engines import opening
from teravec.engines.opening import open_engine
from teravec.engines.options import EngineOptions
from teravec.errors import InvalidArgument
from tests.conftest import clustered, write_fbin
from tests.faults.conftest import tree

OPTIONS = [
    "--nlist",
    "300",
    "--niter",
    "3",
    "--sample",
    "20000",
    "--shards",
    "4",
    "--slices",
    "3",
    "--keep-shards",
    "--memory",
    "600MiB",
]
RAY = ["--engine", "ray", "--workers", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40,000 vectors of 32 dimensions."""
    return write_fbin(tmp_path_factory.mktemp("local-ray") / "x.fbin", clustered(40_000, 32))


@contextmanager
def teravec(*arguments: object, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a process, with a home of its own."""
    environment = {**os.environ, "HOME": str(home)}
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):  # of a cluster that other tests have
        environment.pop(name, None)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    process = subprocess.Popen(
        [sys.executable, "-m", "teravec", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The process and all that came of it."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses that processes listen on."""
    found = set()
    for process in processes:
        try:
            connections = process.net_connections("inet")
        except psutil.Error:
            continue  # it has ended
        found |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return found


def ray_folders(processes: list[psutil.Process]) -> set[Path]:
    """Where Ray keeps its sessions."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            options = [a.partition("=") for a in process.cmdline() if a.startswith("--temp_dir=")]
            found |= {Path(value) for _, _, value in options}
    return found


def ray_scripts(processes: list[psutil.Process]) -> set[str]:
    """Names of the files of Ray that Python processes run."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            paths = [Path(word) for word in process.cmdline() if word.endswith(".py")]
            found |= {path.name for path in paths if "ray" in path.parts}
    return found


def wait_for_end(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


def test_build_on_a_ray_of_our_own(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with teravec("build", source, "--out", tmp_path / "local", *OPTIONS, "-q", home=tmp_path) as p:
        assert p.wait(timeout=240) == 0
    arguments = ["build", source, "--out", tmp_path / "ray", *OPTIONS, *RAY, "--json"]
    addresses: set[str] = set()
    processes: dict[int, psutil.Process] = {}
    folders: set[Path] = set()
    scripts: set[str] = set()
    home = tmp_path / "home"
    home.mkdir()
    with teravec(*arguments, home=home) as process:
        while process.poll() is None:
            now = family(process)
            addresses |= listening(now)
            folders |= ray_folders(now)
            scripts |= ray_scripts(now)
            processes |= {p.pid: p for p in now}
            time.sleep(0.1)
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert errors == ""
    told = json.loads(output)  # and nothing else on standard output
    assert len(told["workers"]) == 2
    for worker in told["workers"]:
        assert worker["peak_rss_bytes"] < worker["memory_bytes"] + (300 << 20)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    assert addresses  # they do listen
    for address in addresses:
        parsed = ipaddress.ip_address(address)
        mapped = getattr(parsed, "ipv4_mapped", None)
        assert (mapped or parsed).is_loopback, addresses
    assert list(home.iterdir()) == []  # no token, no settings
    wait_for_end([p for pid, p in processes.items() if pid != process.pid])
    assert [folder.name.startswith("teravec-ray-") for folder in folders] == [True]
    assert not any(folder.exists() for folder in folders)
    assert scripts <= {"default_worker.py", "agent.py", "main.py"}  # no dashboard, no monitors


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt(source: Path, tmp_path: Path, sent: signal.Signals) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "i"
    arguments = ["build", source, "--out", out, *OPTIONS, *RAY, "-q"]
    with teravec(*arguments, home=tmp_path) as process:
        while not (out / "shards").exists():
            assert process.poll() is None
            time.sleep(0.001)
        processes = family(process)[1:]
        process.send_signal(sent)
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    lines = [s for s in errors.splitlines() if "waiting for room" not in s]  # of a slow machine
    assert len(lines) == 1
    assert "run the same command again to continue" in errors
    assert output == ""
    wait_for_end(processes)
    with teravec("build", source, "--out", out, *OPTIONS, "-q", home=tmp_path) as process:
        assert process.wait(timeout=240) == 0


def test_nothing_imports_ray_before_it_is_needed() -> None:
    code = "import sys, teravec, teravec.cli.main, teravec.engines.ray_engine; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "ray" not in result.stdout.split()
    assert "teravec.engines.worker_pool" in result.stdout.split()


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    with pytest.raises(InvalidArgument, match=r"pip install 'teravec\[ray\]'"):
        open_engine(EngineOptions("ray"), None, 1 << 30)
    assert open_engine(EngineOptions(), 3, 1 << 30).threads == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "dask"}, "'dask'; local or ray"),
        ({"workers": 2}, "engine ray"),
        ({"address": "x:1"}, "engine ray"),
        ({"name": "ray", "workers": 0}, "workers is 0"),
    ],
)
def test_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        EngineOptions(**options)  # type: ignore[arg-type]


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    source = write_fbin(tmp_path / "x.fbin", clustered(500, 4))
    arguments = ["build", source, "--out", tmp_path / "i", "--nlist", "4", "-q"]
    with teravec(*arguments, "--engine", "ray", "--address", "127.0.0.1:1", home=tmp_path) as p:
        output, errors = p.communicate(timeout=240)
    assert p.returncode == 2, errors
    assert len(errors.splitlines()) == 1
    assert "no Ray cluster answers at '127.0.0.1:1'" in errors
    assert output == ""
