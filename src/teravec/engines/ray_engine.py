"""The engine that runs tasks on a Ray cluster, or on a Ray of its own on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from teravec.engines.engine import Actors, Engine, Held, Maker, ProcessPeak, Steps
from teravec.engines.options import EngineOptions
from teravec.engines.ray_cluster import Room, connected
from teravec.engines.ray_crew import ArgumentLost, Crew, RayHeld, Task
from teravec.errors import WorkerLost
from teravec.progress import Bar

__all__ = ["RayEngine"]

A = TypeVar("A")
I = TypeVar("I")  # noqa: E741
M = TypeVar("M")
R = TypeVar("R")

_MOST_RESTARTS = 8  # of one item's chain, as each loss of a machine may cost one


class RayEngine(Engine):
    """Runs tasks in worker processes; connects when the first one comes.

    Parameters
    ----------
    options : EngineOptions
    threads : int, optional
        Of each worker. Not given: a machine's processors, shared by its workers.
    memory_bytes : int
        Limit of one machine, shared by its workers.
    """

    def __init__(self, options: EngineOptions, threads: int | None, memory_bytes: int) -> None:
        self._asked = options, threads, memory_bytes
        self._exit = ExitStack()
        self._keys = count()
        self._peaks: list[ProcessPeak] = []

    @cached_property
    def _connection(self) -> tuple[Any, Room]:
        return self._exit.enter_context(connected(*self._asked))

    @property
    def _room(self) -> Room:
        return self._connection[1]

    @cached_property
    def _crew(self) -> Crew:
        return Crew(*self._connection, str(Path.cwd()))

    @property
    def workers(self) -> int:
        """Worker processes."""
        return self._room.workers

    @property
    def threads(self) -> int:
        """Processors of a worker."""
        return self._room.threads

    @property
    def memory_bytes(self) -> int:
        """A worker's share of the limit."""
        return self._room.memory_bytes

    def run(
        self, maker: Maker[M], work: Callable[[M, I], Steps[R]], items: Iterable[I], bar: Bar
    ) -> Iterator[R]:
        """Work on the items, each on a worker that is free."""
        waiting = list(items)
        if not waiting:
            return
        held, key = self._put(maker), next(self._keys)
        with self._working([key]) as crew:
            results: dict[int, R] = {}
            submitted = 0
            for order in range(len(waiting)):
                # Never far ahead of the oldest result: later ones wait here, in memory.
                while submitted < min(len(waiting), order + 2 * self.workers + 1):
                    crew.submit(Task(submitted, key, held, work, (waiting[submitted],)))
                    submitted += 1
                while order not in results:
                    task, result = crew.next_done(bar)
                    results[task.order] = result
                yield results.pop(order)

    @contextmanager
    def actors(self, makers: Sequence[Maker[M]]) -> Iterator[Actors]:
        """Keep an actor for each maker."""
        held = {next(self._keys): self._put(maker) for maker in makers}
        with self._working(list(held)) as crew:
            yield _RayActors(crew, held)

    @contextmanager
    def _working(self, keys: list[int]) -> Iterator[Crew]:
        crew = self._crew
        try:
            yield crew
        except BaseException:
            crew.abandon()
            raise
        finally:
            crew.release(keys)

    def hold(self, value: A) -> Held[A]:
        """Put a value into the object store."""
        return self._put(value)

    def _put(self, value: object) -> RayHeld:
        return RayHeld(self._connection[0].put(value))

    def peaks(self) -> list[ProcessPeak]:
        """Of every worker that there ever was, also after ``close``."""
        return self._crew.peaks() if "_crew" in self.__dict__ else self._peaks

    def close(self) -> None:
        """Dismiss the workers; end a Ray of our own."""
        try:
            if "_crew" in self.__dict__:
                self._peaks = self._crew.peaks()
                self._crew.close()
                del self.__dict__["_crew"]
        finally:
            self.__dict__.pop("_connection", None)
            self._exit.close()


class _RayActors(Actors):
    def __init__(self, crew: Crew, held: dict[int, Any]) -> None:
        self._crew, self._held, self._keys = crew, held, list(held)

    def each(self, work: Callable[[M, A], Steps[R]], argument: A, bar: Bar) -> list[R]:
        self._crew.spread(self._keys)
        for order, (key, maker) in enumerate(self._held.items()):
            self._crew.submit(Task(order, key, maker, work, (argument,), pinned=True))
        results: dict[int, R] = {}
        while len(results) < len(self._held):
            task, result = self._crew.next_done(bar)
            results[task.order] = result
        return [results[order] for order in range(len(self._held))]

    def chain(
        self, work: Callable[[M, I, A, Held[R] | None], R], items: Sequence[I], argument: A
    ) -> Iterator[R]:
        chains = _Chains(self._crew, self._held, work, items, argument)
        for order in range(len(items)):
            yield chains.result(order)


class _Chains:
    """Items on their way along the actors."""

    def __init__(
        self,
        crew: Crew,
        held: dict[int, Any],
        work: Callable[..., Any],
        items: Sequence[Any],
        argument: Any,
    ) -> None:
        self._crew, self._makers = crew, list(held.items())
        self._work, self._items, self._argument = work, items, argument
        self._places = [0] * len(items)  # the actor that each item is at
        self._restarts = [0] * len(items)
        self._begun = 0
        self._ended: dict[int, Any] = {}

    def result(self, order: int) -> Any:
        """What the last actor returned for an item; called in the items' order."""
        while True:
            # As many on their way as keep every actor busy; each is a value in the store.
            while self._begun < min(len(self._items), order + len(self._makers) + 2):
                self._submit(self._begun, 0, None)
                self._begun += 1
            while order not in self._ended:
                self._step()
            try:
                return self._ended.pop(order).get()
            except Exception as error:
                self._restart(order, error)

    def _submit(self, order: int, place: int, before: Any) -> None:
        self._places[order] = place
        key, maker = self._makers[place]
        arguments = (self._items[order], self._argument, before)
        self._crew.submit(Task(order, key, maker, self._work, arguments, keep=True, pinned=True))

    def _step(self) -> None:
        try:
            task, held = self._crew.next_done(None)
        except ArgumentLost as lost:
            self._restart(lost.task.order, lost)
            return
        place = self._places[task.order] + 1
        if place < len(self._makers):
            self._submit(task.order, place, held)
        else:
            self._ended[task.order] = held

    def _restart(self, order: int, error: BaseException) -> None:
        self._restarts[order] += 1
        if self._restarts[order] > _MOST_RESTARTS:
            raise WorkerLost(f"a sum was lost {_MOST_RESTARTS} times: {error}")
        self._submit(order, 0, None)
