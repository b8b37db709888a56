"""Killing a build at any instant: a rerun finishes it, with the bytes of an undisturbed one."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import clustered, write_fbin

# Imports once, then forks a child for each build: a child starts in milliseconds, so that
# many kills fall into the work and not into the imports.
_SERVER = """
import os, sys, time
import teravec, teravec.api
for line in sys.stdin:
    stage, data, out, life = line.split()
    pid = os.fork()
    if pid == 0:
        try:
            if stage == "build":
                teravec.build(data, out, nlist=300, codec="sq8", niter=6, shards=4, slices=3,
                              sample=20000)
            elif stage == "shard":
                teravec.shard(data, out)
            elif stage == "merge":
                teravec.merge(out)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if float(life) >= 0:
        time.sleep(float(life))
        os.kill(pid, 9)  # until it is waited for, the child's number is its own
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Builder:
    """Runs stages in children that can be killed."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )  # fmt: skip

    def run(self, stage: str, data: Path, out: Path, kill_after_s: float | None = None) -> int:
        """Run a stage to its end, or kill it; return its exit code."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        life = -1 if kill_after_s is None else kill_after_s
        self._server.stdin.write(f"{stage} {data} {out} {life}\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    started = Builder()
    yield started
    started.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kill") / "x.fbin"
    return write_fbin(path, clustered(60_000, 32))


def digest(root: Path) -> dict[str, str]:
    """Checksum of every file below root, by name."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(builder: Builder, source: Path) -> tuple[dict[str, str], float]:
    """Checksums of an undisturbed build, and how long it took."""
    out = source.with_name("undisturbed")
    started = time.monotonic()
    assert builder.run("build", source, out) == 0
    return digest(out), time.monotonic() - started


@pytest.mark.parametrize("seed", range(4))
def test_killed_builds_end_in_the_same_bytes(
    seed: int, builder: Builder, source: Path, undisturbed: tuple[dict[str, str], float],
    tmp_path: Path,
) -> None:  # fmt: skip
    expected, seconds = undisturbed
    rng, kills = random.Random(seed), 0
    for _ in range(30):
        # Short lives: a build that gets nowhere in its life would never end.
        code = builder.run("build", source, tmp_path / "i", rng.uniform(0.01, seconds * 0.2))
        kills += code == -signal.SIGKILL
        if code == 0:
            break
        assert code == -signal.SIGKILL
    else:
        assert builder.run("build", source, tmp_path / "i") == 0
    assert kills >= 4
    assert digest(tmp_path / "i") == expected


@pytest.mark.parametrize("stage", ["shard", "merge"])
def test_killed_stages_end_in_the_same_bytes(
    stage: str, builder: Builder, source: Path, undisturbed: tuple[dict[str, str], float],
    tmp_path: Path,
) -> None:  # fmt: skip
    import teravec
    from teravec.training.options import TrainOptions
    from teravec.training.record import LayoutOptions

    out = tmp_path / "i"
    teravec.train(
        source, out, options=TrainOptions(nlist=300, niter=6, sample=20000),
        layout=LayoutOptions(4, 3),
    )  # fmt: skip
    if stage == "merge":
        assert builder.run("shard", source, out) == 0
    rng = random.Random(7)
    for life in range(25):
        if builder.run(stage, source, out, rng.uniform(0.0, 0.02 + 0.01 * life)) == 0:
            break
    else:
        assert builder.run(stage, source, out) == 0
    if stage == "shard":
        assert builder.run("merge", source, out) == 0
    assert digest(out) == undisturbed[0]


def test_interrupt_leaves_a_resumable_build(
    source: Path, undisturbed: tuple[dict[str, str], float], builder: Builder, tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "teravec", "build", str(source), "--out", str(tmp_path / "i"),
        "--nlist", "300", "--niter", "6", "--shards", "4", "--slices", "3", "--sample", "20000",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "i" / "training" / "kmeans.json").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same again to continue" in errors
    assert "Traceback" not in errors
    assert builder.run("build", source, tmp_path / "i") == 0
    assert digest(tmp_path / "i") == undisturbed[0]


def test_a_finished_build_stays_as_it_is(
    builder: Builder, source: Path, undisturbed: tuple[dict[str, str], float]
) -> None:
    out = source.with_name("undisturbed")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert builder.run("build", source, out) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    assert np.all([name in digest(out) for name in ("manifest.json", "build.json")])
