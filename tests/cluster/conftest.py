"""A Ray cluster of three nodes on this machine, for the whole session; and ways to harm it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from teravec.engines.engine import Steps
from teravec.engines.options import EngineOptions
from teravec.engines.ray_engine import RayEngine
from teravec.progress import Bar, NoBar, NoProgress
from tests.engines.engine_suite import Echo

MEMORY = 600 << 20
WORKERS = 3
NODE = {"num_cpus": 3, "memory": 2 << 30, "object_store_memory": 100 << 20}
SETTINGS = {
    # Otherwise each node starts three Python processes, whether a test needs them or not.
    "prestart_worker_first_driver": False,
    "enable_metrics_collection": False,
    # Quick to notice what is lost.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


@dataclass(frozen=True)
class SimulatedCluster:
    """Nodes that are processes of this machine; the first one is ours and stays."""

    cluster: Any

    @property
    def address(self) -> str:
        """What ``--address`` takes."""
        return str(self.cluster.address)

    def remove_node(self, node: Any = None) -> None:
        """Kill a node, not the first one, with everything on it."""
        node = node or next(iter(self.cluster.worker_nodes))
        self.cluster.remove_node(node, allow_graceful=False)

    def node_of(self, pid: int) -> Any:
        """The node that a worker process lives on; None for the first one."""
        parent = psutil.Process(pid).ppid()
        for node in self.cluster.worker_nodes:
            if any(p.process.pid == parent for p in node.all_processes["raylet"]):
                return node
        return None

    def add_node(self) -> None:
        """Bring a node."""
        self.cluster.add_node(**NODE)


@pytest.fixture(scope="package")
def cluster() -> Iterator[SimulatedCluster]:
    """Three nodes, to which this process is connected."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'teravec[ray]'")
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # by default Ray writes to the home
    simulated = SimulatedCluster(
        Cluster(
            initialize_head=True,
            head_node_args={**NODE, "_system_config": SETTINGS, "include_dashboard": False},
        )
    )
    simulated.add_node()
    simulated.add_node()
    ray.init(address=simulated.address, log_to_driver=False, logging_level="ERROR")
    yield simulated
    ray.shutdown()
    simulated.cluster.shutdown()


@pytest.fixture(scope="package")
def engine(cluster: SimulatedCluster) -> Iterator[RayEngine]:
    """Three workers of one thread, one on each node; what a test kills comes again."""
    with RayEngine(EngineOptions("ray", WORKERS, cluster.address), 1, MEMORY) as opened:
        yield opened


def own_pid(word: str, item: int) -> Steps[int]:
    """Work that says where it is done."""
    time.sleep(0.05)
    yield 1
    return os.getpid()


def all_workers(engine: RayEngine) -> list[int]:
    """Wait until every worker is there; their process ids."""
    pids: set[int] = set()
    while len(pids) < engine.workers:
        pids = set(engine.run(Echo(), own_pid, range(2 * engine.workers), NoBar()))
    return sorted(pids)


class Harmful(NoProgress):
    """Progress that stops a worker as a stage begins, and harms it when others advance.

    A stopped process has a task in hand and does not end it: so the harm always comes in the
    middle of a task, however short tasks are.
    """

    def __init__(self, stage: str, pid: int, harm: Callable[[], None] | None = None) -> None:
        self.stage_name, self.pid = stage, pid
        self.harm = harm or (lambda: os.kill(pid, signal.SIGKILL))
        self.done = 0
        self.total = 0
        self.harmed = False

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Bar]:
        if (
            name.partition(",")[0] != self.stage_name or self.total
        ):  # a stage of several rounds is harmed in one
            yield NoBar()
            return
        os.kill(self.pid, signal.SIGSTOP)
        self.total = total
        yield self

    def advance(self, amount: int) -> None:
        """Count, and harm once."""
        self.done += amount
        if amount > 0 and not self.harmed:
            self.harmed = True
            self.harm()
