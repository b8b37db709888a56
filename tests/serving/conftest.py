"""Small indexes, and servers of them in this process or in others."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import teravec
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.serving.deploy.program import Server
from tests.conftest import clustered

N, D, NLIST, SLICES = 6000, 24, 60, 6
QUERIES = clustered(40, D, seed=5)

Launch = Callable[..., Server]


def built(
    root: Path, metric: str = "l2", codec: str = "sq8", seed: int = 0, calibrate: bool = True
) -> Path:
    """An index of 6,000 vectors in 60 lists and 6 slices."""
    np.save(root / f"x{seed}.npy", clustered(N, D, seed=seed))
    out = root / f"{metric}-{codec}-{seed}"
    teravec.build(
        root / f"x{seed}.npy",
        out,
        nlist=NLIST,
        metric=metric,
        codec=codec,
        niter=3,
        slices=SLICES,
        calibrate=calibrate,
    )
    return out


@pytest.fixture(scope="session")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An index for each metric."""
    root = tmp_path_factory.mktemp("served")
    return {metric: built(root, metric) for metric in ("l2", "ip", "cosine")}


@pytest.fixture(scope="session")
def index(indexes: dict[str, Path]) -> Path:
    return indexes["l2"]


def columns_of(n: int) -> pa.Table:
    rng = np.random.default_rng(3)
    languages = np.array(["de", "en", "日本語 🗾", None], object)
    return pa.table(
        {
            "n": pa.array(np.arange(n), pa.int32()),
            "price": rng.random(n),
            "lang": pa.array(languages[rng.integers(0, 4, n)], pa.string()),
            "tags": [[f"t{j}" for j in range(i % 4)] if i % 5 else None for i in range(n)],
        }
    )


@pytest.fixture(scope="session")
def with_columns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Indexes with columns: of one stage, calibrated; of two stages; with ids that are texts."""
    root = tmp_path_factory.mktemp("filtered")
    base = clustered(N, D, seed=0)
    options: dict[str, Any] = {"nlist": NLIST, "niter": 3, "slices": 6, "columns": "all"}
    table = columns_of(N)
    teravec.build(base, root / "one", codec="sq8", attributes=table, **options)
    options["calibrate"] = False
    teravec.build(base, root / "two", codec="rabitq1+sq8", attributes=table, **options)
    texts = pa.array([f"https://e.org/ä{i}" for i in range(N)])
    whole = table.append_column("url", texts).append_column(
        "vector", pa.FixedSizeListArray.from_arrays(base.ravel(), D)
    )
    teravec.build(whole, root / "texts", codec="sq8", id_column="url", **options)
    return {name: root / name for name in ("one", "two", "texts")}


@pytest.fixture
def serve() -> Iterator[Launch]:
    """Launches servers in this process, and closes them."""
    servers: list[Server] = []

    def start(path: Path, **options: Any) -> Server:
        servers.append(launch(ServeOptions(path, **options)))
        return servers[-1]

    with contextlib.ExitStack() as stack:
        yield start
        for server in servers:
            stack.callback(server.close)


def url(server: Server) -> str:
    return f"grpc://{server.address}"


def addresses(servers: list[Server]) -> str:
    return ",".join(str(server.address) for server in servers)


@dataclass
class Process:
    """A ``teravec serve`` of its own."""

    arguments: list[str]
    process: subprocess.Popen[str] | None = None
    address: str = ""
    http: str = ""
    stopped: list[int] = field(default_factory=list)

    def start(self) -> Process:
        """Start it, or start it again at the same address."""
        arguments = list(self.arguments)
        if self.address:
            arguments[arguments.index("--listen") + 1] = self.address
        self.process = subprocess.Popen(
            [sys.executable, "-m", "teravec", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        expected = 1 if "none" in arguments else 2
        lines = [self.process.stdout.readline() for _ in range(expected)]
        found = re.search(r"://(\S+)", lines[0])
        assert found, lines
        self.address = found[1]
        if expected == 2:
            self.http = lines[1].split("console on ")[1].strip().rstrip("/")
        return self

    def end(self, how: int = signal.SIGKILL) -> int:
        """End it by a signal; return its exit code."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(how)
        code = self.process.wait(60)
        self.process.stdout.close()
        self.process = None
        self.stopped.append(code)
        return code


@pytest.fixture
def spawn() -> Iterator[Callable[..., Process]]:
    """Starts servers as processes, and kills what is left of them."""
    processes: list[Process] = []

    def start(*arguments: str, http: str = "none") -> Process:
        process = Process([*arguments, "--listen", "127.0.0.1:0", "--http", http])
        processes.append(process)
        return process.start()

    yield start
    for process in processes:
        if process.process is not None:
            process.end()
