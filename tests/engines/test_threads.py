"""Ordered maps over threads: order, the bound in flight, errors at their turn, no thread left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.engines.threads import ahead, on_threads, once, ordered_map


def own_threads() -> set[threading.Thread]:
    """Threads of ours but those in C, which stay."""
    threads = threading.enumerate()
    return {t for t in threads if t.name.startswith("teravec") and "helper" not in t.name}


BEFORE = set[threading.Thread]()
"""Threads that earlier tests of other parts left, as timers of servers."""


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    BEFORE.update(own_threads())
    yield
    assert not own_threads() - BEFORE


class Items:
    """A source that counts what was taken, and knows whether it was closed."""

    def __init__(self, n: int, fail_at: int | None = None) -> None:
        self.n, self.fail_at, self.taken, self.closed = n, fail_at, 0, False

    def __iter__(self) -> Iterator[int]:
        try:
            for i in range(self.n):
                if i == self.fail_at:
                    raise KeyError(i)
                self.taken += 1
                yield i
        finally:
            self.closed = True


@settings(max_examples=30, deadline=None)
@given(
    delays=st.lists(st.integers(0, 3), max_size=12),
    threads=st.integers(1, 4),
    in_flight=st.none() | st.integers(1, 6),
)
def test_order_and_bound(delays: list[int], threads: int, in_flight: int | None) -> None:
    items, running, most = Items(len(delays)), 0, 0
    lock = threading.Lock()

    def work(i: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(delays[i] / 2000)
        with lock:
            running -= 1
        return -i

    found: list[int] = []
    for result in ordered_map(work, items, threads=threads, in_flight=in_flight):
        # The one just yielded was in flight until now.
        assert items.taken - len(found) <= (in_flight or threads + 1)
        found.append(result)
    assert found == [-i for i in range(len(delays))]
    assert most <= threads


def test_work_runs_at_once() -> None:
    """Two calls that wait for each other end only if they run on two threads."""
    barrier = threading.Barrier(2, timeout=60)
    list(ordered_map(lambda _: barrier.wait(), range(4), threads=2))


def test_exception_comes_at_its_items_turn() -> None:
    def work(i: int) -> int:
        if i == 3:
            raise KeyError(i)
        return i

    items = Items(1000)
    found: list[int] = []
    with pytest.raises(KeyError):
        found.extend(ordered_map(work, items, threads=2))
    assert found == [0, 1, 2]
    assert items.taken <= 3 + 3
    assert items.closed


MAPS: list[Callable[[Iterable[int]], Iterator[int]]] = [
    partial(ordered_map, lambda i: i, threads=2),
    ahead,
    partial(ahead, depth=3),
]


@pytest.mark.parametrize("over", MAPS, ids=["ordered_map", "ahead", "ahead3"])
def test_closing_early_stops_the_source(over: Callable[[Iterator[int]], Iterator[int]]) -> None:
    items = Items(1000)
    source = iter(items)  # held here, so that only closing ends it
    results = over(source)
    assert [next(results), next(results)] == [0, 1]
    results.close()  # type: ignore[attr-defined]
    taken = items.taken
    assert taken <= 2 + 4
    assert items.closed
    assert not own_threads() - BEFORE
    time.sleep(0.01)
    assert items.taken == taken


@pytest.mark.parametrize("over", MAPS, ids=["ordered_map", "ahead", "ahead3"])
def test_error_of_the_source_is_raised(over: Callable[[Items], Iterator[int]]) -> None:
    items = Items(10, fail_at=5)
    found: list[int] = []
    with pytest.raises(KeyError):
        found.extend(over(items))
    assert found == list(range(len(found)))
    assert items.closed


@pytest.mark.parametrize("over", MAPS, ids=["ordered_map", "ahead", "ahead3"])
@pytest.mark.parametrize("n", [0, 1, 2, 20])
def test_all_come_in_order(over: Callable[[Items], Iterator[int]], n: int) -> None:
    assert list(over(Items(n))) == list(range(n))


def test_ahead_takes_no_more_than_its_depth() -> None:
    for depth in (1, 3):
        items = Items(50)
        for used, _ in enumerate(ahead(items, depth), start=1):
            time.sleep(0.001)
            assert items.taken <= used + depth


def test_ahead_overlaps_reading_and_computing() -> None:
    """The next item is read while this one is in use."""
    reading = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        reading.set()
        yield 1

    results = ahead(source())
    assert next(results) == 0
    assert reading.wait(60)
    assert list(results) == [1]


def test_once_makes_one_value_for_all_threads() -> None:
    made: list[int] = []

    def make() -> list[int]:
        time.sleep(0.01)
        made.append(1)
        return made

    get = once(make)
    assert not made
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: get(), range(8)))
    assert made == [1]
    assert all(result is made for result in results)


def test_threads_help_with_short_tasks() -> None:
    done, threads, barrier = [], set(), threading.Barrier(2, timeout=60)

    def work(i: int) -> None:
        if i < 2:
            barrier.wait()  # ends only if two threads are here at once
        threads.add(threading.get_ident())
        done.append(i)

    on_threads(work, range(100), threads=3)
    assert sorted(done) == list(range(100))
    assert 2 <= len(threads) <= 3


def test_helping_may_be_nested_and_needs_no_helper() -> None:
    """More calls wait inside of each other than there are helpers."""
    done = []

    def work(depth: int) -> None:
        if depth:
            on_threads(work, [depth - 1, depth - 1], threads=2)
        else:
            done.append(depth)

    on_threads(work, [8, 8], threads=2)
    assert len(done) == 2**9


def test_after_an_exception_nothing_more_is_begun() -> None:
    begun = []

    def work(i: int) -> None:
        begun.append(i)
        if i == 3:
            raise ValueError("three")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="three"):
        on_threads(work, range(1000), threads=2)
    assert len(begun) < 500


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_helpers_of_its_own() -> None:
    on_threads(lambda _: None, range(8), threads=3)
    child = os.fork()
    if child == 0:
        barrier = threading.Barrier(2, timeout=60)
        try:
            on_threads(lambda _: barrier.wait(), range(2), threads=2)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
