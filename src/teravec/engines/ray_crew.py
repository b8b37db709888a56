"""The worker processes of a Ray cluster, and the tasks that they are at.

Ray could restart actors and retry tasks by itself. We do it, because a task that goes to
any worker that is free needs no particular one back, because retries are then counted per
task, and because what an actor kept is made again where there is room for it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any

from teravec.engines.engine import ProcessPeak
from teravec.engines.ray_cluster import Room
from teravec.engines.worker import Done, Failed, Progressed, Worker, WorkerInfo, raise_failure
from teravec.errors import WorkerLost
from teravec.progress import Bar

__all__ = ["ArgumentLost", "Crew", "RayHeld", "Task", "one_line"]

log = logging.getLogger(__name__)

_MOST_LOSSES = 4  # workers that one task may lose: a task that kills its worker must end
_PATIENCE_S = 10.0  # since one last came, for a new worker, before an actor moves in with another
_WAIT_S = 1.0
_WARN_S = 30.0  # without one worker, until the user is told what is waited for


@dataclass(frozen=True)
class RayHeld:
    """A value in the object store, that is fetched where it is used."""

    ref: Any

    def get(self) -> Any:
        """Fetch it; its arrays are read-only views of the store."""
        import ray  # here: it must not be imported before ``ray_cluster`` does

        return ray.get(self.ref)


@dataclass(eq=False)
class Task:
    """One call of ``Worker.perform``.

    Parameters
    ----------
    order : int
        What the caller knows it by.
    key, maker, work, arguments, keep
        As ``Worker.perform`` has them.
    pinned : bool
        It goes where ``key`` was made before.
    """

    order: int
    key: int
    maker: RayHeld
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    keep: bool = False
    pinned: bool = False
    losses: int = field(default=0, init=False)
    advanced: int = field(default=0, init=False)


@dataclass(eq=False)
class _Seat:
    """A worker process, from when it is asked for; ``info`` when it is there."""

    number: int
    actor: Any
    hello: Any
    info: WorkerInfo | None = None
    peak_rss_bytes: int = 0
    calls: dict[Any, Task] = field(default_factory=dict)  # by their streams, in order
    keys: set[int] = field(default_factory=set)  # of the actors that live here

    @property
    def name(self) -> str:
        where = f" on {self.info.host} (pid {self.info.pid})" if self.info else ""
        return f"worker {self.number}{where}"


class Crew:
    """Workers, as many as there is to be, some of which may be lost at any time.

    Parameters
    ----------
    ray : module
        Connected.
    room : Room
    directory : str
        Where relative paths begin.
    """

    def __init__(self, ray: Any, room: Room, directory: str) -> None:
        self._ray, self._room, self._directory = ray, room, directory
        self._seats: list[_Seat] = []
        self._gone: list[_Seat] = []
        self._waiting: deque[Task] = deque()
        self._homeless: dict[int, float] = {}  # keys of actors without a worker, since when
        self._lost_at_start = 0
        self._last_greeted = time.monotonic()
        self._without_since = time.monotonic()
        self._hire()

    # ------------------------------------------------------------------ tasks

    def submit(self, task: Task) -> None:
        """Do a task when its worker, or any, is free."""
        self._waiting.append(task)

    def next_done(self, bar: Bar | None) -> tuple[Task, Any]:
        """Wait for one of the submitted tasks, and return it with its result.

        With ``keep``, the result is a ``RayHeld``.

        Raises
        ------
        TeravecError
            What the task raised.
        WorkerLost
        """
        while True:
            self._hire()
            self._place()
            for stream in self._ready():
                seat = next(
                    (s for s in self._seats if stream in s.calls or stream == s.hello), None
                )
                if seat is None:
                    continue  # it was lost with another of its streams
                if stream == seat.hello:
                    self._greet(seat)
                elif (result := self._hear(seat, stream, bar)) is not None:
                    return result

    def _ready(self) -> list[Any]:
        streams = [stream for seat in self._seats for stream in seat.calls]
        hellos = [seat.hello for seat in self._seats if seat.info is None]
        ready, _ = self._ray.wait(
            streams + hellos, num_returns=1, timeout=_WAIT_S, fetch_local=False
        )
        self._tell_of_waiting()
        return list(ready)

    def _hear(self, seat: _Seat, stream: Any, bar: Bar | None) -> tuple[Task, Any] | None:
        """Take a message; a result ends the task."""
        task = seat.calls[stream]
        try:
            message = self._ray.get(next(stream))
            if isinstance(message, Done) and message.kept:
                kept = RayHeld(next(stream))
        except (self._ray.exceptions.RayError, StopIteration) as error:
            self._lose(seat, error, bar)
            return None
        seat.peak_rss_bytes = max(seat.peak_rss_bytes, message.peak_rss_bytes)
        if isinstance(message, Progressed):
            task.advanced += message.amount
            if bar is not None:
                bar.advance(message.amount)
            return None
        del seat.calls[stream]
        if isinstance(message, Failed):
            self._fail(task, message, seat)
        return task, kept if message.kept else message.result

    def _fail(self, task: Task, failed: Failed, seat: _Seat) -> None:
        """Raise what the task raised; of Ray's own errors, that its arguments were lost."""
        kind = getattr(self._ray.exceptions, failed.kind, None)
        if isinstance(kind, type) and issubclass(kind, self._ray.exceptions.RayError):
            raise ArgumentLost(task, f"a value was lost with its machine: {failed.text}")
        raise_failure(failed, seat.name)

    def _place(self) -> None:
        """Give waiting tasks to workers."""
        later: deque[Task] = deque()
        while self._waiting:
            task = self._waiting.popleft()
            seat = self._home(task.key) if task.pinned else self._free()
            if seat is None:
                later.append(task)
            else:
                self._call(seat, task)
        self._waiting = later

    def _free(self) -> _Seat | None:
        return next((s for s in self._seats if s.info is not None and not s.calls), None)

    def _home(self, key: int) -> _Seat | None:
        """Where an actor lives; a new home if it has none and there is room."""
        for seat in self._seats:
            if key in seat.keys:
                return seat
        since = self._homeless.setdefault(key, time.monotonic())
        here = [seat for seat in self._seats if seat.info is not None]
        best = min(here, key=lambda seat: len(seat.keys), default=None)
        if best is None:
            return None
        waited_s = time.monotonic() - max(since, self._last_greeted)
        hoping = len(here) < len(self._seats) and waited_s < _PATIENCE_S
        if best.keys and hoping:
            return None
        best.keys.add(key)
        del self._homeless[key]
        return best

    def _call(self, seat: _Seat, task: Task) -> None:
        stream = seat.actor.perform.options(num_returns="streaming").remote(
            task.key, task.maker, task.work, task.arguments, task.keep
        )
        seat.calls[stream] = task

    # ------------------------------------------------------------------ workers

    @cached_property
    def _kind(self) -> Any:
        """What makes a worker; milliseconds to describe, so it is kept."""
        return self._ray.remote(Worker).options(
            num_cpus=self._room.threads,
            num_gpus=self._room.gpus,
            memory=self._room.memory_bytes,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )

    def _hire(self) -> None:
        """Ask for the workers that are missing."""
        while len(self._seats) < self._room.workers:
            actor = self._kind.remote(self._directory, version("teravec"))
            number = len(self._seats) + len(self._gone)
            self._seats.append(_Seat(number, actor, actor.hello.remote()))

    def _greet(self, seat: _Seat) -> None:
        try:
            hello = self._ray.get(seat.hello)
        except self._ray.exceptions.RayError as error:
            self._lost_at_start += 1
            if self._lost_at_start > _MOST_LOSSES * self._room.workers:
                raise WorkerLost(f"workers die as they start: {one_line(error)}") from None
            self._lose(seat, error, None)
            return
        if isinstance(hello, Failed):
            raise_failure(hello, seat.name)
        seat.info, seat.peak_rss_bytes = hello, hello.peak_rss_bytes
        self._last_greeted = time.monotonic()
        self._lost_at_start = 0  # in a row
        log.info("%s is there", seat.name)

    def _lose(self, seat: _Seat, error: BaseException, bar: Bar | None) -> None:
        """Forget a worker that died; its tasks wait for another."""
        log.warning("%s was lost; its part is done again", seat.name)
        log.info("%s: %s", seat.name, one_line(error))
        self._dismiss(seat)
        for place, task in enumerate(seat.calls.values()):
            if bar is not None:
                bar.advance(-task.advanced)
            task.advanced = 0
            task.losses += place == 0  # the others had not begun
            if task.losses >= _MOST_LOSSES:
                raise WorkerLost(
                    f"a task lost its worker {task.losses} times, the last time {seat.name}: "
                    f"{one_line(error)}; were they out of memory?"
                )
        self._waiting.extendleft(reversed(seat.calls.values()))
        seat.calls = {}

    def _dismiss(self, seat: _Seat) -> None:
        self._seats.remove(seat)
        self._gone.append(seat)
        self._ray.kill(seat.actor)

    def _tell_of_waiting(self) -> None:
        now = time.monotonic()
        if any(seat.info is not None for seat in self._seats):
            self._without_since = now
        elif now - self._without_since > _WARN_S:
            self._without_since = now
            log.warning("waiting for room in the Ray cluster for %s", self._room)

    # ------------------------------------------------------------------ actors

    def spread(self, keys: Iterable[int]) -> None:
        """Move actors that share a worker to workers that have none."""
        wanted = set(keys)
        for idle in (s for s in self._seats if s.info is not None and not s.keys & wanted):
            fullest = max(self._seats, key=lambda seat: len(seat.keys & wanted))
            if len(fullest.keys & wanted) > 1:
                key = max(fullest.keys & wanted)
                fullest.keys.discard(key)
                fullest.actor.release.remote([key])
                idle.keys.add(key)

    def release(self, keys: Iterable[int]) -> None:
        """Let workers forget what they made under these keys."""
        released = list(keys)
        for seat in self._seats:
            seat.keys.difference_update(released)
            seat.actor.release.remote(released)
        for key in released:
            self._homeless.pop(key, None)

    def abandon(self) -> None:
        """Give up all tasks: workers at work are dismissed."""
        self._waiting.clear()
        for seat in [seat for seat in self._seats if seat.calls]:
            seat.calls = {}
            self._dismiss(seat)

    def peaks(self) -> list[ProcessPeak]:
        """The most memory of every worker that there ever was."""
        seats = sorted([*self._seats, *self._gone], key=lambda seat: seat.number)
        return [
            ProcessPeak(seat.name, seat.peak_rss_bytes, self._room.memory_bytes)
            for seat in seats
            if seat.info is not None
        ]

    def close(self) -> None:
        """Dismiss all."""
        for seat in list(self._seats):
            self._dismiss(seat)


class ArgumentLost(WorkerLost):
    """A held value that a task needs was lost with the machine that it lay on."""

    def __init__(self, task: Task, text: str) -> None:
        super().__init__(text)
        self.task = task


def one_line(error: BaseException) -> str:
    """What matters of one of Ray's errors, which are pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = next((line for line in lines if "exit detail" in line or "dead because" in line), None)
    text = cause or (lines[0] if lines else type(error).__name__)
    return text.partition(" Some common causes")[0][:300]
