"""The engine on a cluster: order, errors as they were raised, retries with a bound, actors."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from teravec.engines.engine import Engine, Held, Steps
from teravec.engines.local import LocalEngine
from teravec.engines.options import EngineOptions
from teravec.engines.ray_engine import RayEngine
from teravec.errors import CorruptFile, InvalidArgument, InvalidSource, StorageError, WorkerLost
from teravec.progress import NoBar
from tests.cluster.conftest import WORKERS, Echo, Harmful, SimulatedCluster, all_workers

Int64 = npt.NDArray[np.int64]


def square(word: str, item: int) -> Steps[int]:
    time.sleep(0.02 * (item % 3))  # so that they do not end in their order
    yield item
    return item * item


class Counting:
    """A bar that counts."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount


@pytest.fixture(params=["local", "ray"])
def either(request: pytest.FixtureRequest) -> Engine:
    """What both engines promise."""
    if request.param == "local":
        return LocalEngine(1, 1 << 30)
    ray: RayEngine = request.getfixturevalue("engine")
    return ray


def test_results_in_order_and_progress(either: Engine) -> None:
    bar = Counting()
    found = list(either.run(Echo(), square, range(20), bar))
    assert found == [i * i for i in range(20)]
    assert bar.done == sum(range(20))
    assert list(either.run(Echo(), square, [], bar)) == []


ERRORS = {
    "corrupt": (CorruptFile("x.lists: codes of list 3"), CorruptFile, "x.lists: codes of list 3"),
    "source": (InvalidSource("x.fbin: row 123"), InvalidSource, "x.fbin: row 123"),
    "storage": (StorageError("x: no space"), StorageError, "x: no space"),
    "memory": (MemoryError("of numpy"), MemoryError, "of numpy"),
}


def fail(word: str, case: str) -> Steps[None]:
    yield 1
    raise ERRORS[case][0]


@pytest.mark.parametrize("case", ERRORS)
def test_errors_arrive_as_they_were_raised(either: Engine, case: str) -> None:
    _, kind, text = ERRORS[case]
    with pytest.raises(kind) as caught:
        list(either.run(Echo(), fail, [case], NoBar()))
    assert type(caught.value) is kind
    assert str(caught.value) == text
    assert list(either.run(Echo(), square, range(3), NoBar())) == [0, 1, 4]  # of use still


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


@dataclass(frozen=True)
class NumberMaker:
    """Makes a list with a number, and notes that it did."""

    number: int
    notes: Path

    def make(self) -> list[int]:
        (self.notes / f"{self.number}-{os.getpid()}").touch()
        return [self.number]


def tell(made: list[int], argument: int) -> Steps[int]:
    yield 1
    return made[0] * argument


def append(made: list[int], item: int, argument: int, before: Held[Int64] | None) -> Int64:
    base = np.full(200_000, item) if before is None else before.get()
    return base * argument + made[0]


def test_actors_and_chains(either: Engine, tmp_path: Path) -> None:
    bar = Counting()
    with either.actors([NumberMaker(i, tmp_path) for i in range(1, 4)]) as actors:
        assert actors.each(tell, 10, bar) == [10, 20, 30]
        assert actors.each(tell, 2, bar) == [2, 4, 6]
        sums = list(actors.chain(append, [5, 6, 7, 8, 9, 10, 11], 10))
    assert [int(s[-1]) for s in sums] == [i * 1000 + 123 for i in range(5, 12)]
    assert bar.done == 6
    assert len(list(tmp_path.iterdir())) == 3  # made once each


def test_held_values_are_fetched_where_they_are_used(either: Engine) -> None:
    held = either.hold(np.arange(300_000))
    [total] = either.run(Echo(), add_up, [held], NoBar())
    assert total == 300_000 * 299_999 // 2


def add_up(word: str, held: Held[Int64]) -> Steps[int]:
    yield 0
    return int(held.get().sum())


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
