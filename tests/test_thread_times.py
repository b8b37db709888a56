"""The busiest thread of a stage, also if it has ended."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.kernels.metric import Metric
from teravec.kernels.nearest import ExactQuantizer
from teravec.native import extensions
from teravec.thread_times import ThreadTimes

BUSY_S = 0.1


class Burning:
    """A thread that has spent some processor time, and waits for leave to end."""

    def __init__(self) -> None:
        self._spent, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._burn)
        self._thread.start()
        self._spent.wait()

    def _burn(self) -> None:
        while time.thread_time() < BUSY_S:
            pass
        self._spent.set()
        self._leave.wait()

    def end(self) -> None:
        self._leave.set()
        self._thread.join()


def test_a_thread_that_has_ended_counts() -> None:
    with ThreadTimes(every_s=0) as times:
        burning = Burning()
        times.look()
        burning.end()
    assert times.busiest_seconds >= BUSY_S


def test_earlier_work_does_not_count() -> None:
    burning = Burning()
    started = time.process_time()
    with ThreadTimes() as times:
        pass
    assert times.busiest_seconds <= time.process_time() - started + 0.005  # the clocks tick apart
    burning.end()


@pytest.mark.skipif(extensions.pooling is None, reason="not compiled")
def test_work_that_others_may_take_does_not_count() -> None:
    random = np.random.default_rng(0)
    quantizer = ExactQuantizer(random.normal(size=(4096, 64)).astype(np.float32), Metric.L2)
    queries = random.normal(size=(20_000, 64)).astype(np.float32)
    alone = {}
    for threads in (1, 2):
        with ThreadTimes() as times:
            quantizer.search(queries, 4, threads=threads)
        alone[threads] = times.busiest_seconds
    assert alone[2] < alone[1] / 2, alone


def test_every_stage_tells_its_busiest_thread(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
    bars = teravec.Bars(quiet=True)
    teravec.build(rows, tmp_path / "index", nlist=64, progress=bars, threads=2)
    for stage in bars.summary():
        assert 0 <= stage["busiest_thread_seconds"] <= stage["cpu_seconds"] + 0.05, stage
    assert sum(stage["busiest_thread_seconds"] for stage in bars.summary()) > 0
