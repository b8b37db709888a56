"""Jobs under a real Slurm: a build on several nodes, its continuation, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped, unused-ignore]
import pytest

import teravec
from tests.conftest import clustered
from tests.slurm.conftest import Slurm, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        find_spec("ray") is None or "engine" not in signature(teravec.build).parameters,
        reason="Ray is not installed, or this release has no engine for it",
    ),
]

ALLOCATION = ["--nodes", "3", "--time", "10", "--cpus", "2", "--memory", "1500", "--store", "100MB"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a job is submitted from, with data in it."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", clustered(30_000, 16))
    return tmp_path


def submitted(*command: str) -> str:
    """Write and submit a job; return its number."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "teravec",
            "slurm",
            *ALLOCATION,
            "--submit",
            "--json",
            "--",
            *command,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["job"])


def of_job(job: str) -> list[str]:
    """Command lines of processes that belong to a job, by the environment that Slurm gave them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_JOB_ID") == job:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


def check_nothing_left(job: str) -> None:
    wait_until(lambda: not of_job(job), 60, lambda: f"left behind: {of_job(job)}")


def log_of(folder: Path, job: str) -> str:
    path = folder / f"teravec-{job}.log"
    return path.read_text() if path.exists() else ""


def test_a_build_on_three_nodes(slurm: Slurm, folder: Path) -> None:
    job = submitted("build", "x.npy", "--out", "index", "--nlist", "64", "--shards", "6", "--json")
    assert slurm.finished(job) == "COMPLETED", log_of(folder, job)
    check_nothing_left(job)
    here = teravec.build(folder / "x.npy", folder / "here", nlist=64, shards=6)
    with teravec.open(folder / "index") as index:
        assert index.manifest.ntotal == 30_000
        assert index.manifest.model == here.model
        _, ids = index.search(clustered(30_000, 16)[:20], 1, 64)
    assert (ids[:, 0] == np.arange(20)).all()
    assert [e.checksum for e in teravec.merge(folder / "index").slices] == [
        e.checksum for e in here.slices
    ]
    assert "RAY_AUTH_TOKEN" not in log_of(folder, job)


def test_a_cancelled_job_leaves_nothing_and_continues(slurm: Slurm, folder: Path) -> None:
    np.save("x.npy", clustered(200_000, 32))
    build = ("build", "x.npy", "--out", "index", "--nlist", "256", "--niter", "60", "--shards", "4")
    job = submitted(*build)
    checkpoint = folder / "index/training/kmeans.json"
    wait_until(checkpoint.exists, 300, lambda: f"no checkpoint: {log_of(folder, job)}")
    subprocess.run(["scancel", "--signal=TERM", "--batch", job], check=True)
    assert slurm.finished(job) == "FAILED", log_of(folder, job)
    check_nothing_left(job)
    assert not (folder / "index/manifest.json").exists()
    assert checkpoint.exists()
    again = submitted(*build)
    assert slurm.finished(again, 400) == "COMPLETED", log_of(folder, again)
    check_nothing_left(again)
    teravec.verify(folder / "index")


def test_a_failing_command_fails_the_job(slurm: Slurm, folder: Path) -> None:
    job = submitted("build", "none.npy", "--out", "index")
    assert slurm.finished(job) == "FAILED"
    check_nothing_left(job)
    log = log_of(folder, job)
    assert "none.npy" in log
    # A machine so busy that Ray's start was tried again has Ray's own traceback in the log.
    assert "Traceback" not in log or "attempt" in log


def test_servers_on_three_nodes(slurm: Slurm, folder: Path) -> None:
    teravec.build(folder / "x.npy", folder / "index", nlist=64, niter=3)
    job = submitted("serve", "index", "--memory", "300MiB", "--replicas", "2")
    topology = folder / "topology.json"
    wait_until(topology.exists, 200, lambda: f"no topology: {log_of(folder, job)}")
    servers = json.loads(topology.read_text())["servers"]
    assert len({server["address"] for server in servers}) == 3
    coordinator = [
        sys.executable,
        "-m",
        "teravec",
        "serve",
        "index",
        "--topology",
        str(topology),
        "--listen",
        "127.0.0.1:0",
        "--http",
        "none",
    ]
    with subprocess.Popen(coordinator, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            queries = clustered(30_000, 16)[:20]
            with teravec.open(folder / "index") as local, teravec.connect(url) as remote:
                found, true = remote.search(queries, 10, 16), local.search(queries, 10, 16)
        finally:
            process.kill()
    np.testing.assert_array_equal(found[1], true[1])
    np.testing.assert_array_equal(found[0], true[0])
    subprocess.run(["scancel", "--signal=TERM", "--batch", job], check=True)
    assert slurm.finished(job) == "FAILED", log_of(folder, job)  # ended by a signal
    check_nothing_left(job)
    assert "3 servers are ready" in log_of(folder, job)
