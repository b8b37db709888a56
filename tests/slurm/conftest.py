"""A real Slurm on this host: a controller and four nodes, started and stopped by the tests."""

from __future__ import annotations

import getpass
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NODES = 4
WANTED = "TERAVEC_TEST_SLURM"  # set by make test-slurm, which installs Slurm first

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/log/ctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=20
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName=n[0-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] \
CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n[0-{last}] Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm; its commands find it by ``SLURM_CONF``."""

    folder: Path

    def state(self, job: str) -> str:
        """State of a job, as COMPLETED."""
        shown = subprocess.run(
            ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
        )
        return shown.stdout.split("JobState=")[1].split()[0]

    def finished(self, job: str, seconds: float = 240) -> str:
        """Wait for a job's end; return its state."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        wait_until(
            lambda: self.state(job) in over, seconds, lambda: f"job {job} is {self.state(job)}"
        )
        return self.state(job)


def wait_until(happened: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Poll until something happened; fail the test, and say why, where it does not in time."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(otherwise())
        time.sleep(0.3)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Slurm with four nodes of two processors."""
    if not os.environ.get(WANTED):
        pytest.skip("make test-slurm installs Slurm and runs this")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "log", *(f"spool/n{i}" for i in range(NODES))):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(_configuration(folder))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    options = {
        "socket": "munge.sock",
        "key-file": "munge.key",
        "pid-file": "munged.pid",
        "log-file": "log/munged.log",
        "seed-file": "munged.seed",
    }
    munged = ["munged", "--foreground", "--force"]
    munged += [f"--{name}={folder / file}" for name, file in options.items()]
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv(
            "SLURM_CONF", environment["SLURM_CONF"]
        )
        stack.enter_context(_daemon(munged, folder, environment))
        wait_until((folder / "munge.sock").exists, 10, lambda: "munged did not start")
        stack.enter_context(_daemon(["slurmctld", "-D"], folder, environment))
        for i in range(NODES):
            stack.enter_context(_daemon(["slurmd", "-D", "-N", f"n{i}"], folder, environment))
        wait_until(_all_idle, 60, lambda: "the nodes did not become idle")
        yield Slurm(folder)
        subprocess.run(["scancel", "--me"], check=False)
        wait_until(_all_idle, 60, lambda: "the nodes did not become idle again")


def _configuration(folder: Path) -> str:
    ports = _free_ports(NODES + 1)
    return _CONF.format(
        host=platform.node(),
        user=getpass.getuser(),
        folder=folder,
        last=NODES - 1,
        port=ports[0],
        first_port=ports[1],
        last_port=ports[-1],
    )


def _free_ports(count: int) -> range:
    """Consecutive ports that nobody listens on."""
    for first in range(26800, 30000, count):
        ports = range(first, first + count)
        try:
            with ExitStack() as stack:
                for port in ports:
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        return ports
    raise RuntimeError("no free ports")


def _all_idle() -> bool:
    shown = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True, check=False
    )
    return shown.stdout.split() == ["idle"] * NODES


@contextmanager
def _daemon(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    program = shutil.which(command[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        pytest.fail(f"{command[0]} is not installed; make test-slurm does that")
    log = (folder / "log" / f"{'-'.join(command)[:20].replace('/', '_')}.out").open("w")
    process = subprocess.Popen(
        [program, *command[1:]], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
