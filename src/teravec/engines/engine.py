"""Where the tasks of a stage run: the interface that every engine has.

A stage plans its tasks as a pure function of manifests and headers, and hands them to an
engine. What an engine runs must be *idempotent*: a task whose worker died is run again from
its beginning, on another worker, and must leave the same files and give the same result.

Three ideas suffice:

- a **maker** is a small dataclass of plain values and paths that a worker receives, and
  makes what it works with from: it opens a source, reads a model. Once for many tasks.
- **work** is a function of what was made and of one item. It yields the amounts done, which
  move the progress bar, and returns its result.
- a **held** value was computed or sent once and is fetched where it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

from teravec.progress import Bar

__all__ = ["Actors", "Engine", "Held", "Maker", "ProcessPeak", "Steps"]

A = TypeVar("A")
I = TypeVar("I")  # noqa: E741
M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)

Steps = Generator[int, None, R]
"""Work in progress: yields amounts done, returns the result."""


class Maker(Protocol[M_co]):
    """Makes, in a worker, what tasks work with. A dataclass of plain values: it is sent."""

    def make(self) -> M_co:
        """Open, read or compute it."""


class Held(Protocol[T_co]):
    """A value that lies where it was made, or in the engine's store."""

    def get(self) -> T_co:
        """Fetch it; arrays in it may be read-only."""


@dataclass(frozen=True)
class ProcessPeak:
    """The most memory that a process of a build had.

    Parameters
    ----------
    name : str
    peak_rss_bytes : int
        Largest resident set so far, shared memory included.
    memory_bytes : int
        What it was declared to use, beside the interpreter and its libraries.
    """

    name: str
    peak_rss_bytes: int
    memory_bytes: int


class Actors(ABC):
    """Workers that keep what they made, one for each maker, in a fixed order.

    A lost actor is made again elsewhere, so what it keeps must follow from its maker and from
    the arguments of the call at hand.
    """

    @abstractmethod
    def each(self, work: Callable[[M, A], Steps[R]], argument: A, bar: Bar) -> list[R]:
        """Work on every actor at once; results in their order."""

    @abstractmethod
    def chain(
        self, work: Callable[[M, I, A, Held[R] | None], R], items: Sequence[I], argument: A
    ) -> Iterator[R]:
        """Reduce each item over the actors in their order; results in the items' order.

        The first actor gets None, each next one what the one before it returned, directly
        from there. Different items are at different actors at the same time.
        """


class Engine(ABC):
    """Runs tasks. A context manager: leaving it lets the workers go.

    Attributes
    ----------
    in_process : bool
        There is one worker, and it is this process.
    """

    in_process = False

    @property
    @abstractmethod
    def workers(self) -> int:
        """Tasks that run at once."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """Processors of each worker."""

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """Memory of each worker, in bytes: its share of the limit."""

    @abstractmethod
    def run(
        self, maker: Maker[M], work: Callable[[M, I], Steps[R]], items: Iterable[I], bar: Bar
    ) -> Iterator[R]:
        """Work on every item; yield results in the items' order, as they are ready.

        Raises
        ------
        TeravecError
            What a task raised, once, as it raised it.
        WorkerLost
            The workers of one task died again and again.
        """

    @abstractmethod
    def actors(self, makers: Sequence[Maker[M]]) -> AbstractContextManager[Actors]:
        """Keep an actor for each maker while the body runs."""

    @abstractmethod
    def hold(self, value: A) -> Held[A]:
        """Keep a value for many calls to fetch."""

    def peaks(self) -> list[ProcessPeak]:
        """What each worker process used at most, so far; empty where there is none."""
        return []

    def close(self) -> None:
        """Let the workers go."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
