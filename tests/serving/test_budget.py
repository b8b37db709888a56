"""Bytes that requests hold together."""

from __future__ import annotations

import threading
import time

import pytest

from teravec.errors import Busy
from teravec.serving.server.budget import Budget


def test_shares_fit_or_are_refused() -> None:
    budget = Budget(100)
    with budget.share() as one, budget.share() as two:
        one.hold(60)
        with pytest.raises(Busy, match=r"hold 60 bytes.*needs 41.*may hold 100"):
            two.hold(41)
        two.hold(40)
        assert budget.held_bytes == 100
        one.hold(10)
        two.hold(90)
    assert budget.held_bytes == 0
    with budget.share() as alone:
        alone.hold(1000)  # a request alone has a bound of its own
        with budget.share() as other, pytest.raises(Busy):
            other.hold(1)
    assert budget.held_bytes == 0


def test_shares_of_many_threads() -> None:
    budget, most = Budget(50), []

    def work() -> None:
        for _ in range(200):
            with budget.share() as share:
                try:
                    share.hold(20)
                except Busy:
                    continue
                most.append(budget.held_bytes)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 50
    assert budget.held_bytes == 0


def test_memory_goes_back_once_after_many_large_requests() -> None:
    trims: list[int] = []
    budget = Budget(1 << 30, release=lambda: trims.append(0), pause_s=0.05)
    for _ in range(20):
        with budget.share() as share:
            share.hold(5 << 20)
    until = time.monotonic() + 60
    while not trims and time.monotonic() < until:
        time.sleep(0.01)
    assert trims == [0]
    with budget.share() as share:
        share.hold(100)
    time.sleep(0.15)
    assert trims == [0]  # small ones leave nothing
