"""The interface of an engine, which runs the tasks of a stage.

A stage plans its tasks as a pure function of manifests and headers, and hands them to an
engine. Tasks must be *idempotent*. If a worker dies, the engine runs its task again from the
beginning on another worker, and the task must leave the same files and return the same result.

Three ideas suffice:

- A **maker** is a small dataclass of plain values and paths. A worker receives it and makes
  from it the object that tasks use, such as an open source or a model. One object serves many
  tasks.
- **Work** is a function of that object and of one item. It yields the amounts done, which move
  the progress bar, and returns its result.
- A **held** value is computed or sent once, and fetched where it is used.
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
    """A recipe that is sent to a worker: a dataclass of plain values."""

    def make(self) -> M_co:
        """Open, read or compute the object that tasks use."""


class Held(Protocol[T_co]):
    """A reference to a value in this process, or in the engine's store."""

    def get(self) -> T_co:
        """Fetch the value; its arrays may be read-only."""


@dataclass(frozen=True)
class ProcessPeak:
    """The most memory that one process of a build has used.

    Parameters
    ----------
    name : str
    peak_rss_bytes : int
        Largest resident set so far, shared memory included.
    memory_bytes : int
        The limit of the process, without the interpreter and its libraries.
    """

    name: str
    peak_rss_bytes: int
    memory_bytes: int


class Actors(ABC):
    """Workers that keep their object between calls: one for each maker, in a fixed order.

    A lost actor is made again elsewhere. Its state must therefore follow from its maker and
    from the arguments of the current call.
    """

    @abstractmethod
    def each(self, work: Callable[[M, A], Steps[R]], argument: A, bar: Bar) -> list[R]:
        """Call ``work`` on every actor at once; return the results in the actors' order."""

    @abstractmethod
    def chain(
        self, work: Callable[[M, I, A, Held[R] | None], R], items: Sequence[I], argument: A
    ) -> Iterator[R]:
        """Reduce each item over the actors in their order; yield results in the items' order.

        The first actor receives None. Every other actor receives the result of the actor before
        it, directly from that worker. Different items are at different actors at the same time.
        """


class Engine(ABC):
    """Runs tasks. As a context manager, it stops its workers on leaving.

    Attributes
    ----------
    in_process : bool
        Whether this process is the only worker.
    """

    in_process = False

    @property
    @abstractmethod
    def workers(self) -> int:
        """Number of tasks that run at once."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """Processors of each worker."""

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """Each worker's share of the memory limit, in bytes."""

    @abstractmethod
    def run(
        self, maker: Maker[M], work: Callable[[M, I], Steps[R]], items: Iterable[I], bar: Bar
    ) -> Iterator[R]:
        """Call ``work`` on every item; yield results in the items' order, as they get ready.

        Raises
        ------
        TeravecError
            The first error of a task, with its type and text.
        WorkerLost
            One task lost too many workers.
        """

    @abstractmethod
    def actors(self, makers: Sequence[Maker[M]]) -> AbstractContextManager[Actors]:
        """Keep an actor for each maker while the body runs."""

    @abstractmethod
    def hold(self, value: A) -> Held[A]:
        """Store a value once, so that many calls can fetch it."""

    def peaks(self) -> list[ProcessPeak]:
        """Peak memory of each worker process so far; empty without worker processes."""
        return []

    def close(self) -> None:
        """Stop the workers."""
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
