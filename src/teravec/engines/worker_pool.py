"""The worker processes of a Ray cluster, and the tasks that they run.

Ray could restart actors and retry tasks by itself. We do both ourselves, for three reasons.
A task may go to any idle worker, and need not wait for a particular one to come back. Retries
are counted per task. The object of a lost actor is made again wherever there is room.
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
from teravec.engines.ray_cluster import WorkerPlan
from teravec.engines.worker import Done, Failed, Progressed, Worker, WorkerInfo, raise_failure
from teravec.errors import WorkerLost
from teravec.progress import Bar

__all__ = ["ArgumentLost", "RayHeld", "Task", "WorkerPool", "one_line"]

log = logging.getLogger(__name__)

_MOST_LOSSES = 4  # workers that one task may lose: some tasks kill every worker
_PATIENCE_S = 10.0  # wait for one more worker before two actors share one
_WAIT_S = 1.0
_WARN_S = 30.0  # time without any worker before a warning


@dataclass(frozen=True)
class RayHeld:
    """A value in Ray's object store, fetched where it is used."""

    ref: Any

    def get(self) -> Any:
        """Fetch the value; its arrays are read-only views of the store."""
        import ray  # only here: ``ray_cluster`` must be the first to import Ray

        return ray.get(self.ref)


@dataclass(eq=False)
class Task:
    """One call of ``Worker.perform``.

    Parameters
    ----------
    order : int
        The caller's number of the task.
    key, maker, work, arguments, keep
        As in ``Worker.perform``.
    pinned : bool
        Whether the task must run on the worker that has the object of ``key``.
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
class _Slot:
    """A slot for one worker process; ``info`` is None until the process has started."""

    number: int
    actor: Any
    hello: Any
    info: WorkerInfo | None = None
    peak_rss_bytes: int = 0
    calls: dict[Any, Task] = field(default_factory=dict)  # by stream of messages, in order
    keys: set[int] = field(default_factory=set)  # keys of the actors that live here

    @property
    def name(self) -> str:
        where = f" on {self.info.host} (pid {self.info.pid})" if self.info else ""
        return f"worker {self.number}{where}"


class WorkerPool:
    """A fixed number of workers; a worker that is lost is replaced.

    Parameters
    ----------
    ray : module
        Ray, connected.
    plan : WorkerPlan
    directory : str
        Directory that relative paths start from.
    """

    def __init__(self, ray: Any, plan: WorkerPlan, directory: str) -> None:
        self._ray, self._plan, self._directory = ray, plan, directory
        self._slots: list[_Slot] = []
        self._ended: list[_Slot] = []
        self._waiting: deque[Task] = deque()
        self._unplaced: dict[int, float] = {}  # actors without a worker: key, and since when
        self._lost_at_start = 0
        self._last_registered = time.monotonic()
        self._empty_since = time.monotonic()
        self._start_missing()

    # ------------------------------------------------------------------ tasks

    def submit(self, task: Task) -> None:
        """Queue a task for its own worker, or for any idle worker."""
        self._waiting.append(task)

    def next_done(self, bar: Bar | None) -> tuple[Task, Any]:
        """Wait until one submitted task is done; return it with its result.

        With ``keep``, the result is a ``RayHeld``.

        Raises
        ------
        TeravecError
            The task's own error.
        WorkerLost
        """
        while True:
            self._start_missing()
            self._assign_tasks()
            for stream in self._ready():
                slot = next(
                    (s for s in self._slots if stream in s.calls or stream == s.hello), None
                )
                if slot is None:
                    continue  # another stream has already shown that this worker is lost
                if stream == slot.hello:
                    self._register(slot)
                elif (result := self._receive(slot, stream, bar)) is not None:
                    return result

    def _ready(self) -> list[Any]:
        streams = [stream for slot in self._slots for stream in slot.calls]
        starting = [slot.hello for slot in self._slots if slot.info is None]
        ready, _ = self._ray.wait(
            streams + starting, num_returns=1, timeout=_WAIT_S, fetch_local=False
        )
        self._warn_while_waiting()
        return list(ready)

    def _receive(self, slot: _Slot, stream: Any, bar: Bar | None) -> tuple[Task, Any] | None:
        """Receive one message; return the task and its result if the task is done."""
        task = slot.calls[stream]
        try:
            message = self._ray.get(next(stream))
            if isinstance(message, Done) and message.kept:
                kept = RayHeld(next(stream))
        except (self._ray.exceptions.RayError, StopIteration) as error:
            self._drop_lost(slot, error, bar)
            return None
        slot.peak_rss_bytes = max(slot.peak_rss_bytes, message.peak_rss_bytes)
        if isinstance(message, Progressed):
            task.advanced += message.amount
            if bar is not None:
                bar.advance(message.amount)
            return None
        del slot.calls[stream]
        if isinstance(message, Failed):
            self._raise(task, message, slot)
        return task, kept if message.kept else message.result

    def _raise(self, task: Task, failed: Failed, slot: _Slot) -> None:
        """Raise the task's error; one of Ray's own errors means that its arguments were lost."""
        kind = getattr(self._ray.exceptions, failed.kind, None)
        if isinstance(kind, type) and issubclass(kind, self._ray.exceptions.RayError):
            raise ArgumentLost(task, f"a value was lost with its machine: {failed.text}")
        raise_failure(failed, slot.name)

    def _assign_tasks(self) -> None:
        """Send waiting tasks to workers."""
        later: deque[Task] = deque()
        while self._waiting:
            task = self._waiting.popleft()
            slot = self._slot_of(task.key) if task.pinned else self._idle_slot()
            if slot is None:
                later.append(task)
            else:
                self._call(slot, task)
        self._waiting = later

    def _idle_slot(self) -> _Slot | None:
        return next((s for s in self._slots if s.info is not None and not s.calls), None)

    def _slot_of(self, key: int) -> _Slot | None:
        """Find the slot of an actor; give it one if it has none and a worker is available."""
        for slot in self._slots:
            if key in slot.keys:
                return slot
        since = self._unplaced.setdefault(key, time.monotonic())
        here = [slot for slot in self._slots if slot.info is not None]
        best = min(here, key=lambda slot: len(slot.keys), default=None)
        if best is None:
            return None
        waited_s = time.monotonic() - max(since, self._last_registered)
        may_come = len(here) < len(self._slots) and waited_s < _PATIENCE_S
        if best.keys and may_come:
            return None
        best.keys.add(key)
        del self._unplaced[key]
        return best

    def _call(self, slot: _Slot, task: Task) -> None:
        stream = slot.actor.perform.options(num_returns="streaming").remote(
            task.key, task.maker, task.work, task.arguments, task.keep
        )
        slot.calls[stream] = task

    # ------------------------------------------------------------------ workers

    @cached_property
    def _actor_class(self) -> Any:
        """Ray's class of our workers. Describing it takes milliseconds, so it is cached."""
        return self._ray.remote(Worker).options(
            num_cpus=self._plan.threads,
            num_gpus=self._plan.gpus,
            memory=self._plan.memory_bytes,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )

    def _start_missing(self) -> None:
        """Start workers until the pool is full."""
        while len(self._slots) < self._plan.workers:
            actor = self._actor_class.remote(self._directory, version("teravec"))
            number = len(self._slots) + len(self._ended)
            self._slots.append(_Slot(number, actor, actor.hello.remote()))

    def _register(self, slot: _Slot) -> None:
        try:
            hello = self._ray.get(slot.hello)
        except self._ray.exceptions.RayError as error:
            self._lost_at_start += 1
            if self._lost_at_start > _MOST_LOSSES * self._plan.workers:
                raise WorkerLost(f"workers die as they start: {one_line(error)}") from None
            self._drop_lost(slot, error, None)
            return
        if isinstance(hello, Failed):
            raise_failure(hello, slot.name)
        slot.info, slot.peak_rss_bytes = hello, hello.peak_rss_bytes
        self._last_registered = time.monotonic()
        self._lost_at_start = 0  # counts losses in a row
        log.info("%s has started", slot.name)

    def _drop_lost(self, slot: _Slot, error: BaseException, bar: Bar | None) -> None:
        """Drop a worker that died, and queue its tasks again."""
        log.warning("%s was lost; its part is done again", slot.name)
        log.info("%s: %s", slot.name, one_line(error))
        self._stop(slot)
        for position, task in enumerate(slot.calls.values()):
            if bar is not None:
                bar.advance(-task.advanced)
            task.advanced = 0
            task.losses += position == 0  # only the first one had started
            if task.losses >= _MOST_LOSSES:
                raise WorkerLost(
                    f"a task lost its worker {task.losses} times, the last time {slot.name}: "
                    f"{one_line(error)}; were they out of memory?"
                )
        self._waiting.extendleft(reversed(slot.calls.values()))
        slot.calls = {}

    def _stop(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        self._ended.append(slot)
        self._ray.kill(slot.actor)

    def _warn_while_waiting(self) -> None:
        now = time.monotonic()
        if any(slot.info is not None for slot in self._slots):
            self._empty_since = now
        elif now - self._empty_since > _WARN_S:
            self._empty_since = now
            log.warning("waiting for room in the Ray cluster for %s", self._plan)

    # ------------------------------------------------------------------ actors

    def spread(self, keys: Iterable[int]) -> None:
        """Move actors that share a worker to workers that have none."""
        moving = set(keys)
        for idle in (s for s in self._slots if s.info is not None and not s.keys & moving):
            fullest = max(self._slots, key=lambda slot: len(slot.keys & moving))
            if len(fullest.keys & moving) > 1:
                key = max(fullest.keys & moving)
                fullest.keys.discard(key)
                fullest.actor.release.remote([key])
                idle.keys.add(key)

    def release(self, keys: Iterable[int]) -> None:
        """Let the workers drop the objects of these keys."""
        released = list(keys)
        for slot in self._slots:
            slot.keys.difference_update(released)
            slot.actor.release.remote(released)
        for key in released:
            self._unplaced.pop(key, None)

    def abandon(self) -> None:
        """Give up all tasks, and stop the workers that are busy."""
        self._waiting.clear()
        for slot in [slot for slot in self._slots if slot.calls]:
            slot.calls = {}
            self._stop(slot)

    def peaks(self) -> list[ProcessPeak]:
        """Peak memory of all workers, lost ones included."""
        slots = sorted([*self._slots, *self._ended], key=lambda slot: slot.number)
        return [
            ProcessPeak(slot.name, slot.peak_rss_bytes, self._plan.memory_bytes)
            for slot in slots
            if slot.info is not None
        ]

    def close(self) -> None:
        """Stop all workers."""
        for slot in list(self._slots):
            self._stop(slot)


class ArgumentLost(WorkerLost):
    """A held value that a task needs was lost together with its machine."""

    def __init__(self, task: Task, text: str) -> None:
        super().__init__(text)
        self.task = task


def one_line(error: BaseException) -> str:
    """The essential line of one of Ray's errors, which are pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = next((line for line in lines if "exit detail" in line or "dead because" in line), None)
    text = cause or (lines[0] if lines else type(error).__name__)
    return text.partition(" Some common causes")[0][:300]
