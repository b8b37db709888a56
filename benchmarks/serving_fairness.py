"""A small client beside a flood: with the flood's token, and with a token of its own.

``python -m benchmarks.serving_fairness`` builds an index of random vectors, takes about two
minutes, and writes its section to benchmarks/results. The server and the flood are processes of
their own. Settings alternate.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import teravec
from benchmarks import measure, records
from teravec.errors import Busy, TeravecError

_N, _D, _QUEUE = 200_000, 64, 64
_FLOODERS, _FLOOD_ROWS, _FLOOD_K, _FLOOD_NPROBE = 64, 1024, 100, 64
_RUNS, _RUN_S = 3, 12.0
_FLOOD, _SMALL = "token-of-the-flood", "token-of-the-small"


@contextmanager
def server(index: Path, tokens: Path) -> Iterator[str]:
    """Serve the index; yield the server's URL."""
    command = [sys.executable, "-m", "teravec", "serve", str(index), "--listen", "127.0.0.1:0"]
    options = ["--http", "none", "--token-file", str(tokens), "--queue", str(_QUEUE)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split("serving on ")[1].strip()
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def flood(url: str) -> Iterator[None]:
    """Flood the server from another process."""
    command = [sys.executable, "-m", "benchmarks.serving_fairness", url]
    with subprocess.Popen(command, cwd=records.ROOT) as process:
        time.sleep(3.0)  # until its connections are open
        try:
            yield
        finally:
            process.kill()


def keep_asking(url: str) -> None:
    """Ask for as much as the server takes, until the process is killed."""
    queries = np.random.default_rng(2).standard_normal((_FLOOD_ROWS, _D), np.float32)

    def ask() -> None:
        with teravec.connect(url, token=_FLOOD) as remote:
            while True:
                with contextlib.suppress(TeravecError):
                    remote.search(queries, _FLOOD_K, _FLOOD_NPROBE, timeout_s=30)

    for _ in range(_FLOODERS):
        threading.Thread(target=ask).start()


def small_searches(url: str, token: str, rows: int) -> tuple[list[float], int]:
    """Times of searches of some queries, one after another, and how many were refused."""
    times, refused = [], 0
    queries = np.random.default_rng(3).standard_normal((rows, _D), np.float32)
    with teravec.connect(url, token=token) as remote:
        until = time.perf_counter() + _RUN_S
        while (began := time.perf_counter()) < until:
            try:
                remote.search(queries, 10, 16, timeout_s=20)
            except Busy:
                refused += 1
            times.append(time.perf_counter() - began)
    return times, refused


def main() -> None:
    """Measure all settings in turn, and write the section."""
    settings = {
        (rows, name): token
        for rows in (1, 200)
        for name, token in (("the flood's", _FLOOD), ("its own", _SMALL))
    }
    times: dict[tuple[int, str], list[float]] = {setting: [] for setting in settings}
    refused = dict.fromkeys(settings, 0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tokens").write_text(f"{_FLOOD}\n{_SMALL}\n")
        (root / "tokens").chmod(0o600)
        np.save(root / "x.npy", np.random.default_rng(1).standard_normal((_N, _D), np.float32))
        teravec.build(root / "x.npy", root / "index", nlist=512, codec="sq8", calibrate=False)
        for _ in range(_RUNS):
            for setting, token in settings.items():
                with server(root / "index", root / "tokens") as url, flood(url):
                    found, count = small_searches(url, token, setting[0])
                times[setting] += found
                refused[setting] += count
    rows = []
    for (queries, name), found in times.items():
        p50, p99 = (float(np.quantile(found, q)) for q in (0.5, 0.99))
        cells = [f"{1e3 * each:,.0f}" for each in (p50, p99, max(found))]
        rows.append([str(queries), name, str(len(found)), *cells, str(refused[queries, name])])
    head = ["queries of a search", "token", "searches", "p50 ms", "p99", "most", "refused"]
    text = (
        f"{_N:,} x {_D} random vectors, sq8, 512 lists; --queue {_QUEUE}. The flood: {_FLOODERS} "
        f"clients, each with {_FLOOD_ROWS:,} queries, k {_FLOOD_K}, nprobe {_FLOOD_NPROBE} at a "
        "time. The small client: k 10, nprobe 16, one search after another.\n\n"
    )
    section = f"### serving: fairness\n\n{text}{measure.table(head, rows)}"
    print(section)
    measure.write_section("serving fairness", section)


if __name__ == "__main__":
    keep_asking(sys.argv[1]) if len(sys.argv) > 1 else main()
