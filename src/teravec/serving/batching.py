"""Joining concurrent requests into batches, in a queue of bounded length.

While one batch is searched, requests gather; the next batch takes all that ask alike. So a
request alone does not wait, and many together read each list once. After a batch of several,
the next waits a moment for as many, as their clients are about to ask again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any

from teravec.errors import Busy, DeadlineExceeded
from teravec.serving.deadline import Deadline
from teravec.serving.limits import Limits
from teravec.serving.protocol import Answer

__all__ = ["Batcher", "Job"]

_SMALL_ROWS = 64  # queries of a batch that need not wait behind a large one


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
    answer: Future[Answer] = field(default_factory=Future)


Run = Callable[[Sequence[Job], Deadline], Sequence[Answer]]


class Batcher:
    """Runs jobs in batches on a few threads.

    Parameters
    ----------
    run : callable
        Given jobs of one key and the last of their deadlines; returns their answers in order.
    limits : Limits
        Length of the queue and its bytes.
    batch_rows : int
        Queries joined at most; 1 joins nothing.
    workers : int
        Batches at a time. One more thread takes small batches while all have large ones.
    linger_s : float
        How long a batch waits for as many requests as the last one had.
    """

    def __init__(
        self, run: Run, limits: Limits, *, batch_rows: int = 1024, workers: int = 1,
        linger_s: float = 0.002,
    ) -> None:  # fmt: skip
        self._run, self._limits, self._batch_rows = run, limits, batch_rows
        self._linger_s, self._workers = linger_s, workers
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._held = self._held_bytes = 0
        self._large = 0  # workers busy with a large batch
        self._last_joined = 1
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(n == workers,), name="teravec-batch")
            for n in range(workers + 1)
        ]
        for thread in self._threads:
            thread.start()

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
            self._changed.notify_all()
        try:
            return job.answer.result(timeout=job.deadline.left_s)
        except FutureTimeout:
            job.answer.cancel()  # not begun: it is dropped when its turn comes
            raise DeadlineExceeded("the request's deadline was over before its answer") from None
        finally:
            with self._changed:
                self._held -= 1
                self._held_bytes -= job.size
                self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new jobs, and wait until those here are answered; False if time is over."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._held, timeout_s)

    def close(self) -> None:
        """Refuse new jobs, answer those here, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, small: bool) -> None:
        while batch := self._take(small):
            large = sum(job.rows for job in batch) > _SMALL_ROWS
            with self._changed:
                self._large += large
                self._changed.notify_all()
            try:
                self._answer(batch)
            finally:
                with self._changed:
                    self._large -= large

    def _take(self, small: bool) -> list[Job]:
        """The oldest job that may run and those like it; empty when closed."""
        with self._changed:
            while not self._closed or self._queue:
                first = next((job for job in self._queue if not small or self._is_spare(job)), None)
                if first is None:
                    if self._closed and small:
                        break
                    self._changed.wait()
                    continue
                if self._last_joined > 1 and self._batch_rows > 1:
                    self._linger(first)
                if batch := self._joined(first, _SMALL_ROWS if small else self._batch_rows):
                    self._last_joined = len(batch)
                    return batch
            return []

    def _is_spare(self, job: Job) -> bool:
        return self._large >= self._workers and job.rows <= _SMALL_ROWS

    def _linger(self, first: Job) -> None:
        """Wait a moment for as many jobs like the first as the last batch joined."""
        until = time.monotonic() + self._linger_s
        while sum(job.key == first.key for job in self._queue) < self._last_joined:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _joined(self, first: Job, most_rows: int) -> list[Job]:
        """Take the first job, and others like it while they fit, out of the queue."""
        batch: list[Job] = []
        kept: deque[Job] = deque()
        rows = 0
        for job in self._queue:
            fits = not batch or rows + job.rows <= most_rows
            if job.answer.cancelled():
                continue
            if job.key != first.key or not fits:
                kept.append(job)
            elif not job.deadline.left_s:
                job.answer.set_exception(DeadlineExceeded("the deadline was over in the queue"))
            elif job.answer.set_running_or_notify_cancel():
                batch.append(job)
                rows += job.rows
        self._queue = kept
        return batch

    def _answer(self, batch: list[Job]) -> None:
        try:
            answers = self._run(batch, max(job.deadline for job in batch))
        except BaseException as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for job in batch:  # one of them may be at fault: each for itself
                self._answer([job])
            return
        for job, answer in zip(batch, answers, strict=True):
            job.answer.set_result(answer)
