"""The engine on a cluster: order, errors as they were raised, retries with a bound, actors."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from teravec.engines.engine import Steps
from teravec.engines.options import EngineOptions
from teravec.engines.ray_engine import RayEngine
from teravec.errors import InvalidArgument, WorkerLost
from teravec.progress import NoBar
from tests.cluster.conftest import WORKERS, Harmful, SimulatedCluster, all_workers
from tests.engines.engine_suite import (
    Counting,
    Echo,
    EngineSuite,
    NumberMaker,
    append,
    square,
    tell,
)

Int64 = npt.NDArray[np.int64]


class TestRayEngine(EngineSuite):
    """All that both engines promise."""


def stumble(word: str, item: int) -> Steps[None]:
    yield 1
    raise ZeroDivisionError("a bug")


def test_bug_in_a_task_is_one_line(engine: RayEngine) -> None:
    with pytest.raises(WorkerLost, match="ZeroDivisionError: a bug") as caught:
        list(engine.run(Echo(), stumble, [0], NoBar()))
    assert len(str(caught.value).splitlines()) == 1


def die(word: str, path: Path) -> Steps[None]:
    with path.open("a") as file:
        file.write("x")
    yield 1
    os.kill(os.getpid(), signal.SIGKILL)


def test_task_that_kills_its_workers_ends(engine: RayEngine, tmp_path: Path) -> None:
    bar = Counting()
    with pytest.raises(WorkerLost, match="lost its worker 4 times"):
        list(engine.run(Echo(), die, [tmp_path / "tries"], bar))
    assert (tmp_path / "tries").read_text() == "xxxx"
    assert bar.done == 0  # what was lost is not counted as done


def test_killed_worker_costs_its_task_only(engine: RayEngine) -> None:
    harm = Harmful("squares", all_workers(engine)[0])
    with harm.stage("squares", 0, "") as bar:
        found = list(engine.run(Echo(), square, range(12), bar))
    assert harm.harmed
    assert found == [i * i for i in range(12)]
    assert harm.done == sum(range(12))


@pytest.mark.parametrize("harm", ["a worker", "a node"])
def test_lost_actors_are_made_again(
    engine: RayEngine, cluster: SimulatedCluster, tmp_path: Path, harm: str
) -> None:
    pid = all_workers(engine)[0]
    with engine.actors([NumberMaker(i, tmp_path) for i in range(1, 4)]) as actors:
        assert actors.each(tell, 10, NoBar()) == [10, 20, 30]
        sums = actors.chain(append, list(range(9)), 10)
        assert int(next(sums)[-1]) == 123
        if harm == "a worker":
            os.kill(pid, signal.SIGKILL)
        else:
            cluster.remove_node()
        assert [int(s[-1]) for s in sums] == [i * 1000 + 123 for i in range(1, 9)]
        assert actors.each(tell, 10, NoBar()) == [10, 20, 30]
    if harm == "a node":
        cluster.add_node()


def test_more_workers_than_there_is_room_for(cluster: SimulatedCluster, tmp_path: Path) -> None:
    """Nine processors for twelve: those that are there do the work of the others."""
    options = EngineOptions("ray", 12, cluster.address)
    with RayEngine(options, 1, 600 << 20) as crowded:
        assert list(crowded.run(Echo(), square, range(8), NoBar())) == [i * i for i in range(8)]


def test_room_is_checked(cluster: SimulatedCluster) -> None:
    for threads, memory in ((64, 1 << 20), (1, 1 << 42)):
        with (
            RayEngine(EngineOptions("ray", 1, cluster.address), threads, memory) as engine,
            pytest.raises(InvalidArgument, match="fits on no machine"),
        ):
            list(engine.run(Echo(), square, [1], NoBar()))


def test_peaks_of_every_process(engine: RayEngine) -> None:
    all_workers(engine)
    peaks = engine.peaks()
    assert len(peaks) >= WORKERS  # and those that were lost
    for peak in peaks:
        assert peak.name.startswith("worker ")
        assert 10 << 20 < peak.peak_rss_bytes < peak.memory_bytes + (300 << 20)
