"""The engine that runs tasks on a Ray cluster, or on a private Ray on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from teravec.engines.engine import Actors, Engine, Held, Maker, ProcessPeak, Steps
from teravec.engines.options import EngineOptions
from teravec.engines.ray_cluster import WorkerPlan, connect
from teravec.engines.worker_pool import ArgumentLost, RayHeld, Task, WorkerPool
from teravec.errors import WorkerLost
from teravec.progress import Bar

__all__ = ["RayEngine"]

A = TypeVar("A")
I = TypeVar("I")  # noqa: E741
M = TypeVar("M")
R = TypeVar("R")

_MOST_RESTARTS = 8  # restarts of one item's chain; each lost machine may cost one


class RayEngine(Engine):
    """Runs tasks in worker processes; connects to Ray at the first task.

    Parameters
    ----------
    options : EngineOptions
    threads : int, optional
        Threads of each worker. Not given: a machine's processors, divided among its workers.
    memory_bytes : int
        Memory limit of one machine, divided among its workers.
    """

    def __init__(self, options: EngineOptions, threads: int | None, memory_bytes: int) -> None:
        self._asked = options, threads, memory_bytes
        self._exit = ExitStack()
        self._keys = count()
        self._peaks: list[ProcessPeak] = []

    @cached_property
    def _connection(self) -> tuple[Any, WorkerPlan]:
        return self._exit.enter_context(connect(*self._asked))

    @property
    def _plan(self) -> WorkerPlan:
        return self._connection[1]

    @cached_property
    def _pool(self) -> WorkerPool:
        return WorkerPool(*self._connection, str(Path.cwd()))

    @property
    def workers(self) -> int:
        """Worker processes."""
        return self._plan.workers

    @property
    def threads(self) -> int:
        """Processors of a worker."""
        return self._plan.threads

    @property
    def memory_bytes(self) -> int:
        """A worker's share of the limit."""
        return self._plan.memory_bytes

    def run(
        self, maker: Maker[M], work: Callable[[M, I], Steps[R]], items: Iterable[I], bar: Bar
    ) -> Iterator[R]:
        """Work on the items, each on any idle worker."""
        waiting = list(items)
        if not waiting:
            return
        held, key = self._put(maker), next(self._keys)
        with self._using_pool([key]) as pool:
            results: dict[int, R] = {}
            submitted = 0
            for order in range(len(waiting)):
                # Stay near the oldest missing result: later results wait here, in memory.
                while submitted < min(len(waiting), order + 2 * self.workers + 1):
                    pool.submit(Task(submitted, key, held, work, (waiting[submitted],)))
                    submitted += 1
                while order not in results:
                    task, result = pool.next_done(bar)
                    results[task.order] = result
                yield results.pop(order)

    @contextmanager
    def actors(self, makers: Sequence[Maker[M]]) -> Iterator[Actors]:
        """Keep an actor for each maker."""
        held = {next(self._keys): self._put(maker) for maker in makers}
        with self._using_pool(list(held)) as pool:
            yield _RayActors(pool, held)

    @contextmanager
    def _using_pool(self, keys: list[int]) -> Iterator[WorkerPool]:
        pool = self._pool
        try:
            yield pool
        except BaseException:
            pool.abandon()
            raise
        finally:
            pool.release(keys)

    def hold(self, value: A) -> Held[A]:
        """Put a value into Ray's object store."""
        return self._put(value)

    def _put(self, value: object) -> RayHeld:
        return RayHeld(self._connection[0].put(value))

    def peaks(self) -> list[ProcessPeak]:
        """Peaks of all workers, lost ones included; still available after ``close``."""
        return self._pool.peaks() if "_pool" in self.__dict__ else self._peaks

    def close(self) -> None:
        """Stop the workers; end a private Ray."""
        try:
            if "_pool" in self.__dict__:
                self._peaks = self._pool.peaks()
                self._pool.close()
                del self.__dict__["_pool"]
        finally:
            self.__dict__.pop("_connection", None)
            self._exit.close()


class _RayActors(Actors):
    def __init__(self, pool: WorkerPool, held: dict[int, Any]) -> None:
        self._pool, self._held, self._keys = pool, held, list(held)

    def each(self, work: Callable[[M, A], Steps[R]], argument: A, bar: Bar) -> list[R]:
        self._pool.spread(self._keys)
        for order, (key, maker) in enumerate(self._held.items()):
            self._pool.submit(Task(order, key, maker, work, (argument,), pinned=True))
        results: dict[int, R] = {}
        while len(results) < len(self._held):
            task, result = self._pool.next_done(bar)
            results[task.order] = result
        return [results[order] for order in range(len(self._held))]

    def chain(
        self, work: Callable[[M, I, A, Held[R] | None], R], items: Sequence[I], argument: A
    ) -> Iterator[R]:
        chains = _Chains(self._pool, self._held, work, items, argument)
        for order in range(len(items)):
            yield chains.result(order)


class _Chains:
    """Items that move from actor to actor, several at a time."""

    def __init__(
        self,
        pool: WorkerPool,
        held: dict[int, Any],
        work: Callable[..., Any],
        items: Sequence[Any],
        argument: Any,
    ) -> None:
        self._pool, self._makers = pool, list(held.items())
        self._work, self._items, self._argument = work, items, argument
        self._positions = [0] * len(items)  # the actor that each item is at
        self._restarts = [0] * len(items)
        self._begun = 0
        self._ended: dict[int, Any] = {}

    def result(self, order: int) -> Any:
        """Wait for the last actor's result for an item; call this in the items' order."""
        while True:
            # Submit just enough items to keep every actor busy: each one fills the store.
            while self._begun < min(len(self._items), order + len(self._makers) + 2):
                self._submit(self._begun, 0, None)
                self._begun += 1
            while order not in self._ended:
                self._step()
            try:
                return self._ended.pop(order).get()
            except Exception as error:
                self._restart(order, error)

    def _submit(self, order: int, position: int, before: Any) -> None:
        self._positions[order] = position
        key, maker = self._makers[position]
        arguments = (self._items[order], self._argument, before)
        self._pool.submit(Task(order, key, maker, self._work, arguments, keep=True, pinned=True))

    def _step(self) -> None:
        try:
            task, held = self._pool.next_done(None)
        except ArgumentLost as lost:
            self._restart(lost.task.order, lost)
            return
        position = self._positions[task.order] + 1
        if position < len(self._makers):
            self._submit(task.order, position, held)
        else:
            self._ended[task.order] = held

    def _restart(self, order: int, error: BaseException) -> None:
        self._restarts[order] += 1
        if self._restarts[order] > _MOST_RESTARTS:
            raise WorkerLost(f"a sum was lost {_MOST_RESTARTS} times: {error}")
        self._submit(order, 0, None)
