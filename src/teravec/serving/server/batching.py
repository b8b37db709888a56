"""Joining concurrent requests into batches, in a queue of bounded length.

While one batch is searched, requests wait in the queue; the next batch takes all that have equal
options. A lone request does not wait, and many requests together read each list once. After a batch
of several requests, the next batch waits a moment for as many: their clients will soon ask again.
Callers take turns, by the work that they ask for (``FairQueue``).

The batcher has no threads. The oldest request's thread leads: it searches the batch for all. On an
idle server a request is therefore searched without a thread switch, which would cost more than a
small search.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Any

from teravec.errors import Busy, DeadlineExceeded
from teravec.serving.server.fairness import FairQueue, FairShares
from teravec.serving.wire.context import RequestContext
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer

__all__ = ["JOINED_RESULTS", "Batcher", "Job"]

JOINED_RESULTS = 1 << 18
"""Most results of requests that are joined: larger answers are searched alone."""

# A batch of so few queries and so little work (bytes to scan) need not wait behind large ones.
_SMALL_ROWS, _SMALL_WORK = 64, 64 << 20


class _Lane(Enum):
    """A batch's lane. The small lane is open while all normal lanes hold large batches."""

    ANY = auto()
    SMALL = auto()


@dataclass(eq=False)
class Job:
    """One waiting request.

    Parameters
    ----------
    key : hashable
        Jobs with equal keys can be joined.
    request : object
        Passed to ``run``.
    rows : int
        Number of queries.
    size : int
        Bytes in memory while the job waits.
    deadline : Deadline
    caller : str
        Its name, for fairness; empty for callers without one.
    work : int
        Bytes to scan, roughly.
    results : int
        Most results of its answer, or 0 where they are unknown.
    context : RequestContext, optional
    span : object, optional
        Of its trace.
    requests : int
        How many requests were joined to this one already.

    Attributes
    ----------
    batch : str
        Id of the request that it was joined to, for the access log.
    """

    key: Hashable
    request: Any
    rows: int
    size: int
    deadline: Deadline
    caller: str = ""
    work: int = 0
    results: int = 0
    context: RequestContext | None = None
    span: Any = None
    entered_ns: int = 0  # by the clock, if there is a span
    requests: int = 1
    batch: str = ""
    lane: _Lane | None = None  # set when the job's thread is to lead a batch
    result: Answer | BaseException | None = None
    changed: SimpleQueue[None] = field(default_factory=SimpleQueue)

    @property
    def is_small(self) -> bool:
        """Whether it need not wait behind large ones."""
        return self.rows <= _SMALL_ROWS and self.work <= _SMALL_WORK

    def __post_init__(self) -> None:
        if self.span is not None:
            self.entered_ns = time.time_ns()

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
        Takes jobs of one key and the latest of their deadlines; returns their answers in order.
    limits : Limits
        Length and bytes of the queue.
    batch_rows : int
        Most queries in a batch; 1 joins nothing.
    workers : int
        Batches at a time. While all of them are large, one small batch may run in addition.
    linger_s : float
        Longest wait of a batch for as many requests as the last one had.
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
        self._queue: FairQueue[Job] = FairQueue()
        self._shares = FairShares(limits.queue)
        self._held = self._held_bytes = 0
        self._free = {_Lane.ANY: workers, _Lane.SMALL: 1}
        self._large = 0  # large batches under way
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
                self._held -= job.requests
                self._held_bytes -= job.size
                self._shares.add(job.caller, -job.requests)
                if self._closed:
                    self._changed.notify_all()
        if isinstance(job.result, BaseException):
            raise job.result
        return job.result

    def drain(self, timeout_s: float) -> bool:
        """Refuse new jobs and wait for the others; False if the time runs out first."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: not self._held, timeout_s)

    def _enter(self, job: Job) -> None:
        with self._changed:
            if self._closed:
                raise Busy("the server is shutting down")
            if self._held + job.requests > self._limits.queue:
                raise Busy(f"{self._held} requests are waiting, at most {self._limits.queue}")
            if not self._shares.may_take(job.caller, job.requests, self._held):
                raise Busy(
                    f"{self._held} requests are waiting, and yours are as many as one token may "
                    f"have of {self._limits.queue}"
                )
            if self._held and self._held_bytes + job.size > self._limits.queue_bytes:
                raise Busy(f"waiting requests hold at most {self._limits.queue_bytes:,} bytes")
            self._held += job.requests
            self._held_bytes += job.size
            self._shares.add(job.caller, job.requests)
            self._queue.append(job)
            self._promote()
            if self._lingering:
                self._changed.notify_all()

    def _leave_queue(self, job: Job) -> None:
        """Give up a job past its deadline, unless its thread has just been chosen to lead."""
        with self._changed:
            if self._queue.give_up(job):
                job.result = DeadlineExceeded("the deadline was over in the queue")
            elif job.lane is None and job.result is None:
                job.result = DeadlineExceeded("the deadline was over before the answer was found")

    def _promote(self) -> None:
        """Let the next jobs lead while lanes are free."""
        for lane in _Lane:
            any_lane = lane is _Lane.ANY
            while self._free[lane] and (any_lane or self._large >= self._workers):
                first = next((job for job in self._queue if any_lane or job.is_small), None)
                if first is None:
                    break
                self._queue.take(first)
                self._free[lane] -= 1
                first.lane = lane
                first.changed.put(None)

    def _lead(self, job: Job) -> None:
        """Search the batch that begins with this job, then let the next job lead."""
        lane, job.lane = job.lane, None
        assert lane is not None
        large = False
        try:
            with self._changed:
                batch = self._gather(job, small=lane is _Lane.SMALL)
                large = _is_large(batch)
                self._large += large
                if large:
                    self._promote()  # the small lane may be open now
            self._search(batch)
        finally:
            with self._changed:
                self._free[lane] += 1
                self._large -= large
                self._promote()

    def _gather(self, first: Job, *, small: bool) -> list[Job]:
        """Take others with the first job's key from the queue while they fit, callers in turn."""
        if self._last_joined > 1 and self._batch_rows > 1:
            self._linger(first)
        most_rows = min(self._batch_rows, _SMALL_ROWS) if small else self._batch_rows
        batch, rows, work, results = [first], first.rows, first.work, first.results
        for job in [j for j in self._queue if j.key == first.key]:
            if rows + job.rows > most_rows or (small and work + job.work > _SMALL_WORK):
                continue
            if results + job.results > JOINED_RESULTS:
                continue
            self._queue.take(job)
            if not job.deadline.left_s:
                job.finish(DeadlineExceeded("the deadline was over in the queue"))
                continue
            batch.append(job)
            rows, work, results = rows + job.rows, work + job.work, results + job.results
        # Requests that come joined are waited for where they are joined.
        self._last_joined = len(batch) if first.requests == 1 else 1
        return batch

    def _linger(self, first: Job) -> None:
        """Wait a moment for as many jobs with this key as the last batch joined."""
        until = time.monotonic() + self._linger_s
        self._lingering += 1
        while 1 + sum(job.key == first.key for job in self._queue) < self._last_joined:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                break
        self._lingering -= 1

    def _search(self, batch: list[Job]) -> None:
        """Search a batch and hand each job its answer."""
        try:
            batch[0].deadline.check()
            answers = self._run(batch, max(job.deadline for job in batch))
        except BaseException as error:
            if len(batch) == 1:
                batch[0].finish(error)
            for job in batch if len(batch) > 1 else []:  # one may be at fault: search each alone
                self._search([job])
            return
        for job, answer in zip(batch, answers, strict=True):
            job.finish(answer)


def _is_large(batch: Sequence[Job]) -> bool:
    """Whether small jobs need not wait for this batch."""
    rows = work = 0
    for job in batch:
        rows, work = rows + job.rows, work + job.work
    return rows > _SMALL_ROWS or work > _SMALL_WORK
