"""Eight processes change one index at once, some are killed: each version is what it must be."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import teravec
from tests.conftest import LONG
from tests.writing import races

WORKERS, STEPS, KILLS = 8, 3, 2
ROOT = Path(__file__).parents[2]


def start(path: Path, log: Path, seed: int, worker: int, steps: int) -> subprocess.Popen[bytes]:
    numbers = [str(seed), str(worker), str(steps)]
    command = [sys.executable, "-m", "tests.writing.races", str(path), str(log), *numbers]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


@pytest.mark.parametrize("seed", [1, 2, 3] if LONG else [1])
def test_eight_writers(tmp_path: Path, seed: int) -> None:
    path, rng = tmp_path / "index", np.random.default_rng(seed)
    races.make(path)
    logs = [tmp_path / f"{worker}.log" for worker in range(WORKERS)]
    running = {worker: start(path, log, seed, worker, STEPS) for worker, log in enumerate(logs)}
    kills = KILLS
    while running:
        time.sleep(0.02)
        for worker, process in list(running.items()):
            at_work = logs[worker].exists() and logs[worker].stat().st_size > 0
            if kills and at_work and process.poll() is None and rng.random() < 0.05:
                process.kill()
                process.communicate()
                kills -= 1
                running[worker] = start(path, logs[worker], seed, worker, STEPS)
            elif process.poll() is not None:
                error = process.communicate()[1]
                assert process.returncode == 0, error.decode()
                del running[worker]
    state = races.check_versions(path, logs, seed)
    assert state
    teravec.verify(path)
    teravec.vacuum(path, older_than="0s")
    with teravec.open(path) as index:
        assert races.held(index) == state
    compacted = teravec.compact(path, full=True)
    teravec.vacuum(path, older_than="0s")
    with teravec.open(path) as index:
        assert races.held(index) == state
    named = {entry.file for entry in (compacted or teravec.versions(path)[-1]).segments}
    found = {str(p.relative_to(path)) for p in (path / "segments").glob("*.lists")}
    assert found <= named
