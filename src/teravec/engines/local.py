"""The default engine: it runs tasks one after another in this process, each on all threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from teravec.engines.engine import Actors, Engine, Held, Maker, Steps
from teravec.progress import Bar

__all__ = ["LocalEngine"]

A = TypeVar("A")
I = TypeVar("I")  # noqa: E741
M = TypeVar("M")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class _LocalValue(Generic[T]):
    value: T

    def get(self) -> T:
        return self.value


class LocalEngine(Engine):
    """Runs tasks in this process.

    Parameters
    ----------
    threads : int
        Threads of a task.
    memory_bytes : int
        The whole limit.
    """

    in_process = True

    def __init__(self, threads: int, memory_bytes: int) -> None:
        self._threads, self._memory_bytes = threads, memory_bytes

    @property
    def workers(self) -> int:
        """One worker: this process."""
        return 1

    @property
    def threads(self) -> int:
        """Threads of a task."""
        return self._threads

    @property
    def memory_bytes(self) -> int:
        """The whole limit."""
        return self._memory_bytes

    def run(
        self, maker: Maker[M], work: Callable[[M, I], Steps[R]], items: Iterable[I], bar: Bar
    ) -> Iterator[R]:
        """Work on the items one by one; the maker is called at the first item."""
        made: M | None = None
        for item in items:
            made = maker.make() if made is None else made
            yield _finish(work(made, item), bar)

    @contextmanager
    def actors(self, makers: Sequence[Maker[M]]) -> Iterator[Actors]:
        """Make one object from every maker, and keep them all."""
        yield _LocalActors([maker.make() for maker in makers])

    def hold(self, value: A) -> Held[A]:
        """Wrap the value itself; nothing is copied."""
        return _LocalValue(value)


class _LocalActors(Actors):
    def __init__(self, made: list[Any]) -> None:
        self._made = made

    def each(self, work: Callable[[M, A], Steps[R]], argument: A, bar: Bar) -> list[R]:
        return [_finish(work(made, argument), bar) for made in self._made]

    def chain(
        self, work: Callable[[M, I, A, Held[R] | None], R], items: Sequence[I], argument: A
    ) -> Iterator[R]:
        for item in items:
            result = work(self._made[0], item, argument, None)
            for made in self._made[1:]:
                result = work(made, item, argument, _LocalValue(result))
            yield result


def _finish(steps: Steps[R], bar: Bar) -> R:
    # Close the generator here, not in the garbage collector: after an interrupt its cleanup
    # must run at once, so that no file stays half written.
    with closing(steps):
        while True:
            try:
                bar.advance(next(steps))
            except StopIteration as end:
                result: R = end.value
                return result
