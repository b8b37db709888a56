"""What every engine must do: inherit ``EngineSuite``, and give it an engine."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from teravec.engines.engine import Engine, Held, Steps
from teravec.errors import CorruptFile, InvalidSource, StorageError
from teravec.progress import NoBar

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Echo:
    """Makes nothing of note."""

    word: str = ""

    def make(self) -> str:
        return self.word


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


ERRORS = {
    "corrupt": (CorruptFile("x.lists: codes of list 3"), CorruptFile, "x.lists: codes of list 3"),
    "source": (InvalidSource("x.fbin: row 123"), InvalidSource, "x.fbin: row 123"),
    "storage": (StorageError("x: no space"), StorageError, "x: no space"),
    "memory": (MemoryError("of numpy"), MemoryError, "of numpy"),
}


def fail(word: str, case: str) -> Steps[None]:
    yield 1
    raise ERRORS[case][0]


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


def add_up(word: str, held: Held[Int64]) -> Steps[int]:
    yield 0
    return int(held.get().sum())


class EngineSuite:
    """Inherited by the tests of each engine, whose module has a fixture ``engine``."""

    def test_results_in_order_and_progress(self, engine: Engine) -> None:
        bar = Counting()
        found = list(engine.run(Echo(), square, range(20), bar))
        assert found == [i * i for i in range(20)]
        assert bar.done == sum(range(20))
        assert list(engine.run(Echo(), square, [], bar)) == []

    @pytest.mark.parametrize("case", ERRORS)
    def test_errors_arrive_as_they_were_raised(self, engine: Engine, case: str) -> None:
        _, kind, text = ERRORS[case]
        with pytest.raises(kind) as caught:
            list(engine.run(Echo(), fail, [case], NoBar()))
        assert type(caught.value) is kind
        assert str(caught.value) == text
        assert list(engine.run(Echo(), square, range(3), NoBar())) == [0, 1, 4]  # of use still

    def test_actors_and_chains(self, engine: Engine, tmp_path: Path) -> None:
        bar = Counting()
        with engine.actors([NumberMaker(i, tmp_path) for i in range(1, 4)]) as actors:
            assert actors.each(tell, 10, bar) == [10, 20, 30]
            assert actors.each(tell, 2, bar) == [2, 4, 6]
            sums = list(actors.chain(append, [5, 6, 7, 8, 9, 10, 11], 10))
        assert [int(s[-1]) for s in sums] == [i * 1000 + 123 for i in range(5, 12)]
        assert bar.done == 6
        assert len(list(tmp_path.iterdir())) == 3  # made once each

    def test_held_values_are_fetched_where_they_are_used(self, engine: Engine) -> None:
        held = engine.hold(np.arange(300_000))
        [total] = engine.run(Echo(), add_up, [held], NoBar())
        assert total == 300_000 * 299_999 // 2
