"""Ordered parallel maps over threads, with a bounded number of items in flight.

NumPy, Faiss and our kernels release the interpreter lock: threads suffice on one machine.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from teravec.native.pool import shared

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["ahead", "on_threads", "once", "ordered_map"]

_MOST_HELPERS = 64


def once(make: Callable[[], T]) -> Callable[[], T]:
    """Return a function that calls ``make`` at its first call only, and then returns that value.

    Any thread may call it.
    """
    lock = threading.Lock()
    made: list[T] = []

    def get() -> T:
        with lock:
            if not made:
                made.append(make())
        return made[0]

    return get


class _Helpers:
    """Threads that live as long as the process; started at the first use, again after a fork."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Start without threads: a forked child has none of its parent's."""
        self.pool = once(
            lambda: ThreadPoolExecutor(_MOST_HELPERS, thread_name_prefix="teravec-helper")
        )


_helpers = _Helpers()


def on_threads(function: Callable[[T], object], items: Sequence[T], *, threads: int) -> None:
    """Call ``function(item)`` for every item, in any order, on this thread and on helpers.

    Meant for short tasks. The whole process shares the helpers, and they stay: starting a thread
    takes longer than many a search. Calls may be nested, because the calling thread works as well
    and needs no free helper.

    Parameters
    ----------
    function : callable
        Thread-safe. After an exception no more items start, and the exception is raised.
    items : sequence
    threads : int
        Threads to run on, the calling thread included.
    """
    waiting = deque(items)

    def work() -> None:
        try:
            while True:
                try:
                    item = waiting.popleft()
                except IndexError:
                    return
                function(item)
        finally:
            waiting.clear()  # after an exception no other thread may start another item

    count = min(threads, len(waiting)) - 1
    run = shared(work) if count > 0 else work
    helping = [_helpers.pool().submit(run) for _ in range(count)]
    try:
        run()
    finally:
        begun = [future for future in helping if not future.cancel()]
        wait(begun)
    for future in begun:
        future.result()


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, in_flight: int | None = None
) -> Iterator[R]:
    """Yield ``function(item)`` in the items' order, computing on several threads.

    Parameters
    ----------
    function : callable
        Thread-safe; its exception is raised at that item's turn.
    items : iterable
        Consumed lazily: never more than ``in_flight`` results are pending.
    threads : int
        Threads to run on.
    in_flight : int, optional
        Most items read from the iterable and not yet yielded. Times the size of an item, this
        bounds memory. Not given: ``threads + 1``.
    """
    limit = in_flight or threads + 1
    pending: deque[Future[R]] = deque()
    source = iter(items)
    function = shared(function) if threads > 1 else function
    with ThreadPoolExecutor(threads, thread_name_prefix="teravec") as pool:
        try:
            for item in source:
                pending.append(pool.submit(function, item))
                if len(pending) >= limit:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            close = getattr(source, "close", None)
            if close is not None:
                close()


def ahead(items: Iterable[T], depth: int = 1) -> Generator[T, None, None]:
    """Yield the items while a thread produces the next ``depth``, so reading overlaps computing."""
    source = iter(items)
    done = object()

    def take(_: int) -> T | object:
        return next(source, done)

    with ThreadPoolExecutor(1, thread_name_prefix="teravec-ahead") as pool:
        pending = deque(pool.submit(take, i) for i in range(depth))
        try:
            while True:
                item = pending.popleft().result()
                if item is done:
                    return
                pending.append(pool.submit(take, 0))
                yield item  # type: ignore[misc]
        finally:
            for future in pending:
                future.cancel()
            pool.shutdown(wait=True)
            close = getattr(source, "close", None)
            if close is not None:
                close()
