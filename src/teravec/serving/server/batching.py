"""Joining concurrent requests into batches, in a queue of bounded length.

While one batch is searched, requests gather; the next batch takes all that ask alike. So a
request alone does not wait, and many together read each list once. After a batch of several,
the next waits a moment for as many, as their clients are about to ask again.

There are no threads here: the thread of the oldest request leads, and searches the batch for
all. A request that comes to an idle server is therefore searched without a switch of threads,
which would cost more than the search of a small one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Any

from teravec.errors import Busy, DeadlineExceeded
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer

__all__ = ["Batcher", "Job"]

_SMALL_ROWS = 64  # queries of a batch that need not wait behind a large one


class _Lane(Enum):
    """Where a batch is searched: the small one is open while the others have large batches."""

    ANY = auto()
    SMALL = auto()


@dataclass(eq=False)
class Job:
    """One request that waits.

    Parameters
    ----------
    key : hashable
        Jobs of equal keys can be joined.
    request : object
        What ``run`` is given.
    rows : int
        Queries.
    size : int
        Bytes that it holds while it waits.
    deadline : Deadline
    """

    key: Hashable
    request: Any
    rows: int
    size: int
    deadline: Deadline
    lane: _Lane | None = None  # where its thread leads a batch, once it is its turn
    result: Answer | BaseException | None = None
    changed: SimpleQueue[None] = field(default_factory=SimpleQueue)

    def finish(self, result: Answer | BaseException) -> None:
        """Set the answer or the error, and wake the thread that waits for it."""
        self.result = result
        self.changed.put(None)


Run = Callable[[Sequence[Job], Deadline], Sequence[Answer]]


class Batcher:
    """Runs jobs in batches, on their callers' threads.

    Parameters
    ----------
    run : callable
        Given jobs of one key and the last of their deadlines; returns their answers in order.
    limits : Limits
        Length of the queue and its bytes.
    batch_rows : int
        Queries joined at most; 1 joins nothing.
    workers : int
        Batches at a time. One more small batch may run while all of them are large.
    linger_s : float
        How long a batch waits for as many requests as the last one had.
    """

    def __init__(
        self,
        run: Run,
        limits: Limits,
        *,
        batch_rows: int = 1024,
        workers: int = 1,
        linger_s: float = 0.002,
    ) -> None:
        self._run, self._limits, self._batch_rows = run, limits, batch_rows
        self._linger_s, self._workers = linger_s, workers
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._held = self._held_bytes = 0
        self._free = {_Lane.ANY: workers, _Lane.SMALL: 1}
        self._large = 0  # batches under way that are large
        self._last_joined = 1
        self._lingering = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests in the queue or being answered."""
        return self._held

    def answer(self, job: Job) -> Answer:
        """Queue a job and wait for its answer.

        Raises
        ------
        Busy
            The queue is full, or closed.
        DeadlineExceeded
        """
        self._enter(job)
        try:
            while job.result is None:
                if job.lane is not None:
                    self._lead(job)
                    continue
                try:
                    job.changed.get(timeout=job.deadline.left_s)
                except Empty:
                    self._leave_queue(job)
        finally:
            with self._changed:
                self._held -= 1
                self._held_bytes -= job.size
                if self._closed:
                    self._changed.notify_all()
        if isinstance(job.result, BaseException):
            raise job.result
        return job.result

    def drain(self, timeout_s: float) -> bool:
        """Refuse new jobs, and wait until those here are answered; False if time is over."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: not self._held, timeout_s)

    def _enter(self, job: Job) -> None:
        with self._changed:
            if self._closed:
                raise Busy("the server is shutting down")
            if self._held >= self._limits.queue:
                raise Busy(f"{self._held} requests are waiting, at most {self._limits.queue}")
            if self._held and self._held_bytes + job.size > self._limits.queue_bytes:
                raise Busy(f"waiting requests hold at most {self._limits.queue_bytes:,} bytes")
            self._held += 1
            self._held_bytes += job.size
            self._queue.append(job)
            self._promote()
            if self._lingering:
                self._changed.notify_all()

    def _leave_queue(self, job: Job) -> None:
        """Give up a job whose time is over, unless its turn has just come."""
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                job.result = DeadlineExceeded("the deadline was over in the queue")
            elif job.lane is None and job.result is None:
                job.result = DeadlineExceeded("the deadline was over before the answer was there")

    def _promote(self) -> None:
        """Let the oldest jobs lead, as long as there are free lanes for them."""
        for lane, most_rows in ((_Lane.ANY, None), (_Lane.SMALL, _SMALL_ROWS)):
            while self._free[lane] and (lane is _Lane.ANY or self._large >= self._workers):
                first = next((j for j in self._queue if not most_rows or j.rows <= most_rows), None)
                if first is None:
                    break
                self._queue.remove(first)
                self._free[lane] -= 1
                first.lane = lane
                first.changed.put(None)

    def _lead(self, job: Job) -> None:
        """Search a batch that begins with this job, then let the next one lead."""
        lane, job.lane = job.lane, None
        assert lane is not None
        large = False
        try:
            with self._changed:
                batch = self._gather(job, _SMALL_ROWS if lane is _Lane.SMALL else self._batch_rows)
                large = sum(each.rows for each in batch) > _SMALL_ROWS
                self._large += large
                if large:
                    self._promote()  # the small lane may have opened
            self._search(batch)
        finally:
            with self._changed:
                self._free[lane] += 1
                self._large -= large
                self._promote()

    def _gather(self, first: Job, most_rows: int) -> list[Job]:
        """The first job, and others like it while they fit, out of the queue."""
        if self._last_joined > 1 and self._batch_rows > 1:
            self._linger(first)
        batch, rows = [first], first.rows
        for job in [j for j in self._queue if j.key == first.key]:
            if rows + job.rows <= most_rows:
                self._queue.remove(job)
                if not job.deadline.left_s:
                    job.finish(DeadlineExceeded("the deadline was over in the queue"))
                    continue
                batch.append(job)
                rows += job.rows
        self._last_joined = len(batch)
        return batch

    def _linger(self, first: Job) -> None:
        """Wait a moment for as many jobs like the first as the last batch joined."""
        until = time.monotonic() + self._linger_s
        self._lingering += 1
        while 1 + sum(job.key == first.key for job in self._queue) < self._last_joined:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                break
        self._lingering -= 1

    def _search(self, batch: list[Job]) -> None:
        """Search a batch and give everyone their part."""
        try:
            batch[0].deadline.check()
            answers = self._run(batch, max(job.deadline for job in batch))
        except BaseException as error:
            if len(batch) == 1:
                batch[0].finish(error)
            for job in batch if len(batch) > 1 else []:  # one may be at fault: each for itself
                self._search([job])
            return
        for job, answer in zip(batch, answers, strict=True):
            job.finish(answer)
