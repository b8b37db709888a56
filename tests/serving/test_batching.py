"""The queue: joins, bounds, deadlines, draining."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from teravec.errors import Busy, DeadlineExceeded
from teravec.serving.server.batching import Batcher, Job
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer


def answer_named(name: str) -> Answer:
    return Answer(name, np.empty(0, np.uint32), np.empty(0, np.float32), np.empty(0, np.int64))


class Search:
    """A search that takes as long as it is told, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.go = threading.Event()
        self.begun = threading.Event()

    def __call__(self, jobs: Sequence[Job], deadline: Deadline) -> list[Answer]:
        self.batches.append([job.request for job in jobs])
        self.begun.set()
        self.go.wait(60)
        if any(job.request == "bad" for job in jobs):
            raise ValueError("bad")
        return [answer_named(str(j.request)) for j in jobs]


@pytest.fixture
def search() -> Search:
    return Search()


@pytest.fixture
def batcher(search: Search) -> Iterator[Batcher]:
    made = Batcher(search, Limits(queue=6, queue_bytes=1024), batch_rows=100)
    yield made
    search.go.set()
    assert made.drain(5)


def job(request: str, key: str = "k", rows: int = 1, size: int = 10, timeout_s: float = 10) -> Job:
    return Job(key, request, rows, size, Deadline.after(timeout_s))


def ask_while_busy(batcher: Batcher, search: Search, jobs: Sequence[Job]) -> list[object]:
    """Queue jobs behind one that is running; return answers and errors in order."""

    def ask(each: Job) -> object:
        try:
            return batcher.answer(each).version
        except Exception as error:
            return error

    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(ask, job("first", key="other"))
        search.begun.wait(60)
        futures = []
        for each in jobs:
            held = batcher.waiting
            futures.append(pool.submit(ask, each))
            until = time.monotonic() + 2
            while batcher.waiting == held and not futures[-1].done() and time.monotonic() < until:
                time.sleep(0.001)
        search.go.set()
        assert first.result() == "first"
        return [future.result() for future in futures]


def test_requests_alike_are_joined(batcher: Batcher, search: Search) -> None:
    jobs = [job("a"), job("b", key="x"), job("c"), job("d", rows=99)]
    assert ask_while_busy(batcher, search, jobs) == ["a", "b", "c", "d"]
    assert [b for b in search.batches if "a" in b] == [["a", "c"]]  # d would be too many rows


def test_one_bad_request_does_not_spoil_others(batcher: Batcher, search: Search) -> None:
    found = ask_while_busy(batcher, search, [job("a"), job("bad"), job("c")])
    assert [found[0], found[2]] == ["a", "c"]
    assert isinstance(found[1], ValueError)


def test_a_full_queue_says_busy_at_once(batcher: Batcher, search: Search) -> None:
    found = ask_while_busy(batcher, search, [job(str(n)) for n in range(7)])
    assert found[:5] == ["0", "1", "2", "3", "4"]
    assert all(isinstance(error, Busy) for error in found[5:])
    assert "at most 6" in str(found[5])


def test_bytes_are_bounded_too(batcher: Batcher, search: Search) -> None:
    found = ask_while_busy(batcher, search, [job("a", size=1009), job("b", size=10)])
    assert found[0] == "a"
    assert isinstance(found[1], Busy)
    assert batcher.waiting == 0


def test_deadlines_end_the_wait(batcher: Batcher, search: Search) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(batcher.answer, job("first"))
        search.begun.wait(60)
        with pytest.raises(DeadlineExceeded):
            batcher.answer(job("late", timeout_s=0.05))
        search.go.set()
        running.result()
    assert batcher.answer(job("next")).version == "next"
    assert ["late"] not in search.batches  # its turn came too late: nothing was done for it


def test_small_batches_pass_large_ones(batcher: Batcher, search: Search) -> None:
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(batcher.answer, job("large", key="l", rows=90))
        search.begun.wait(60)
        small = pool.submit(batcher.answer, job("small"))
        until = time.monotonic() + 60
        while len(search.batches) < 2 and time.monotonic() < until:
            time.sleep(0.005)
        assert search.batches == [["large"], ["small"]]
        search.go.set()
        assert [large.result().version, small.result().version] == ["large", "small"]


def test_draining(batcher: Batcher, search: Search) -> None:
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(batcher.answer, job("first"))
        search.begun.wait(60)
        assert not batcher.drain(0.02)
        with pytest.raises(Busy, match="shutting down"):
            batcher.answer(job("more"))
        search.go.set()
        assert batcher.drain(5)
        assert running.result().version == "first"
