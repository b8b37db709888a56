"""The busiest thread of a stage, also if it has ended."""

from __future__ import annotations

import threading
import time

import numpy as np

import teravec
from teravec.thread_times import ThreadTimes

BUSY_S = 0.1


def _burn(seconds: float, done: threading.Event, go: threading.Event) -> None:
    while time.thread_time() < seconds:
        pass
    done.set()
    go.wait()


def test_a_thread_that_has_ended_counts() -> None:
    times = ThreadTimes(every_s=0)
    done, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=_burn, args=(BUSY_S, done, go))
    thread.start()
    done.wait()
    times.look()
    go.set()
    thread.join()
    assert times.busiest_seconds() >= BUSY_S


def test_earlier_work_does_not_count() -> None:
    done, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=_burn, args=(BUSY_S, done, go))
    thread.start()
    done.wait()
    started = time.process_time()
    times = ThreadTimes()
    busiest = times.busiest_seconds()
    assert busiest <= time.process_time() - started + 0.005  # the two clocks tick apart
    go.set()
    thread.join()


def test_every_stage_tells_its_busiest_thread(tmp_path: object) -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
    bars = teravec.Bars(quiet=True)
    teravec.build(rows, f"{tmp_path}/index", nlist=64, progress=bars, threads=2)
    for stage in bars.summary():
        assert 0 <= stage["busiest_thread_seconds"] <= stage["cpu_seconds"] + 0.05, stage
    assert sum(stage["busiest_thread_seconds"] for stage in bars.summary()) > 0
