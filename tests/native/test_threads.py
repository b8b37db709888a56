"""Threads of the compiled kernels: results of many callers at once, forks, and rest afterwards."""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from teravec.kernels.codec import Codec
from teravec.kernels.compiled_scanner import CompiledScanner
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.kernels.metric import Metric
from teravec.kernels.nearest import ExactQuantizer
from teravec.kernels.pairs import Pairs
from teravec.kernels.sketch import Candidates, SketchScanner, encode_sketches
from teravec.native import extensions as compiled

pytestmark = pytest.mark.skipif(compiled.scanning is None, reason="not compiled")

D, SIZE, NLIST, THREADS = 64, 4000, 4, 4


class Kernels:
    """What shares work out, on lists that are large enough for it."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        vectors = rng.standard_normal((NLIST * SIZE, D), np.float32)
        numbers = np.arange(NLIST, dtype=np.int64)
        codes = rng.integers(0, 256, (NLIST * SIZE, D), dtype=np.uint8)
        sketches = encode_sketches(vectors, 2, threads=1)
        sizes = np.full(NLIST, SIZE, np.int64)
        self.codes = ListsInMemory(numbers, sizes, numbers * SIZE * D, codes.ravel())
        offsets = numbers * SIZE * sketches.shape[1]
        self.sketches = ListsInMemory(numbers, sizes, offsets, sketches.ravel())
        zeros, parameters = (
            np.zeros((NLIST, D), np.float32),
            np.repeat(np.array([-3, 6], np.float32), D),
        )
        self.scanner = CompiledScanner(Codec.parse("sq8"), Metric.L2, zeros, parameters)
        self.sketch_scanner = SketchScanner(zeros, 2, Metric.L2)
        self.quantizer = ExactQuantizer(vectors, Metric.L2)
        self.queries = vectors[::1000] + np.float32(0.1)

    def found(self, threads: int, start: int, stop: int) -> list[np.ndarray]:
        """Results of some queries, by every kernel."""
        queries = self.queries[start:stop]
        wanted = np.tile(np.arange(NLIST), (len(queries), 1))
        pairs = Pairs.of(wanted, np.ones(wanted.shape, np.float32))
        scan = self.scanner.top_k(queries, 20, threads)
        scan.add(self.codes, pairs)
        candidates = Candidates.none(len(queries), 100)
        self.sketch_scanner.scan(queries, self.sketches, pairs, candidates, threads)
        kept = np.sort(candidates.entries, order=["estimate", "place"], axis=1)
        return [*scan.result(), kept, *self.quantizer.search(queries, 30, threads=threads)]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels()


def _same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


RANGES = [(0, 1), (1, 2), (2, 5), (5, 16)]


@pytest.mark.parametrize("threads", [2, 3, 9, 100])
def test_results_do_not_depend_on_threads(kernels: Kernels, threads: int) -> None:
    for start, stop in RANGES:
        assert _same(kernels.found(threads, start, stop), kernels.found(1, start, stop))


def test_many_callers_at_once(kernels: Kernels) -> None:
    expected = {part: kernels.found(1, *part) for part in RANGES}
    wrong: list[tuple[int, int]] = []

    def call(number: int) -> None:
        for turn in range(60):
            part = RANGES[(number + turn) % 4]
            if not _same(kernels.found(1 + turn % THREADS, *part), expected[part]):
                wrong.append(part)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_child_begins_anew(kernels: Kernels) -> None:
    """Forked while other threads are at work: the child has helpers of its own."""
    expected = kernels.found(1, 0, 1)
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            kernels.found(THREADS, 0, 1)

    others = [threading.Thread(target=go_on) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for _ in range(10):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
                child = os.fork()
            if not child:
                right = all(_same(kernels.found(THREADS, 0, 1), expected) for _ in range(20))
                os._exit(0 if right else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        over.set()
        for other in others:
            other.join()


def test_helpers_rest_and_are_few(kernels: Kernels) -> None:
    for _ in range(5):
        kernels.found(THREADS, 0, 1)
    time.sleep(0.3)  # they look on for a moment, as do those of other libraries
    tasks = len(list(Path("/proc/self/task").iterdir()))
    used = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - used < 0.1
    for _ in range(5):
        kernels.found(THREADS, 0, 1)
    assert len(list(Path("/proc/self/task").iterdir())) == tasks
