"""Scans of lists with hidden rows, by the share of their rows that is visible.

    python -m benchmarks.masked [--rounds 5]

Codes are random, and one thread scans. Every figure is CPU time as a share of the same scan without
a mask, and in brackets that of lists that hold the visible rows only. All take turns; medians over
rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import measure
from teravec.kernels.codec import Codec, empty_ivf, flat_quantizer
from teravec.kernels.compiled_scanner import CompiledScanner
from teravec.kernels.faiss_scanner import FaissScanner
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.kernels.mask import Mask
from teravec.kernels.metric import Metric
from teravec.kernels.pairs import Pairs
from teravec.kernels.sketch import Candidates, SketchScanner, encode_sketches

NLIST, SIZE, D, K, CANDIDATES = 16, 2000, 96, 10, 100
SHARES = (1.0, 0.99, 0.5, 0.1, 0.01, 0.0)
LEAST_S = 0.05  # of one measurement

Run = Callable[[np.ndarray, Pairs, ListsInMemory], object]


@dataclass(frozen=True)
class Kind:
    """A scanner and random codes (NLIST, SIZE, code_size)."""

    name: str
    codes: np.ndarray
    run: Run


def kinds(rng: np.random.Generator, centroids: np.ndarray) -> list[Kind]:
    """Make one of each scanner."""
    quantizer = flat_quantizer(centroids, Metric.L2)
    product = rng.standard_normal(256 * D).astype(np.float32)
    scanners: dict[str, Any] = {
        "pq12, by Faiss": FaissScanner(
            empty_ivf(Codec.parse("pq12"), quantizer, Metric.L2, product), Metric.L2
        ),
        "sq8": CompiledScanner(
            Codec.parse("sq8"), Metric.L2, centroids, np.repeat(np.array([-3, 6], np.float32), D)
        ),
    }

    def top_k(scanner: Any) -> Run:
        def run(queries: np.ndarray, pairs: Pairs, lists: ListsInMemory) -> object:
            scan = scanner.top_k(queries, K, 1)
            scan.add(lists, pairs)
            return scan.result()

        return run

    sketches = SketchScanner(centroids, 1, Metric.L2)

    def candidates(queries: np.ndarray, pairs: Pairs, lists: ListsInMemory) -> object:
        found = Candidates.none(len(queries), CANDIDATES)
        sketches.scan(queries, lists, pairs, found, 1)
        return found

    vectors = rng.standard_normal((NLIST * SIZE, D)).astype(np.float32)
    codes = encode_sketches(vectors, 1, 1).reshape(NLIST, SIZE, -1)
    found = [Kind("sketches of 1 bit", codes, candidates)]
    for (name, scanner), size in zip(scanners.items(), (12, D), strict=True):
        codes = rng.integers(0, 256, (NLIST, SIZE, size), np.uint8)
        found.append(Kind(name, codes, top_k(scanner)))
    return found


def lists_of(codes: np.ndarray, visible: np.ndarray) -> tuple[ListsInMemory, ListsInMemory]:
    """Lists with some rows hidden, and lists without those rows."""
    numbers, size, counts = np.arange(NLIST), codes.shape[2], visible.sum(axis=1)
    bits = [np.packbits(rows, bitorder="little") for rows in visible]
    masked = ListsInMemory(
        numbers, np.full(NLIST, SIZE), numbers * SIZE * size, codes.ravel(), allowed=Mask.of(bits)
    )
    offsets = (np.cumsum(counts) - counts) * size
    return masked, ListsInMemory(numbers, counts, offsets, codes[visible].ravel())


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one call, of as many as fill a while."""
    run()
    calls, started, end = 0, time.process_time(), time.perf_counter() + LEAST_S
    while not calls or time.perf_counter() < end:
        run()
        calls += 1
    return (time.process_time() - started) / calls


def row_of(kind: Kind, nq: int, rounds: int, rng: np.random.Generator) -> list[str]:
    """Measure one kind of scan for some queries at a time."""
    queries = rng.standard_normal((nq, D)).astype(np.float32)
    wanted = np.stack([rng.permutation(NLIST) for _ in range(nq)])
    pairs = Pairs.of(wanted, rng.random((nq, NLIST), np.float32))
    cases: dict[str, ListsInMemory] = {}
    for share in SHARES:
        masked, plain = lists_of(kind.codes, rng.random((NLIST, SIZE)) < share)
        cases |= {f"{share} masked": masked, f"{share} plain": plain}
        cases["all"] = replace(masked, allowed=None)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, lists in cases.items():
            seconds[name].append(cpu_seconds(lambda held=lists: kind.run(queries, pairs, held)))  # type: ignore[misc]
    found = {name: statistics.median(several) for name, several in seconds.items()}
    shares = (
        f"{found[f'{s} masked'] / found['all']:.2f} ({found[f'{s} plain'] / found['all']:.2f})"
        for s in SHARES
    )
    return [kind.name, f"{nq}", f"{1e6 * found['all']:,.0f}", *shares]


def main() -> None:
    """Measure all kinds, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds, rng = parser.parse_args().rounds, np.random.default_rng(0)
    centroids = rng.standard_normal((NLIST, D)).astype(np.float32)
    rows = [row_of(kind, nq, rounds, rng) for kind in kinds(rng, centroids) for nq in (1, 64)]
    head = ["codes", "queries", "all rows, us", *(f"{100 * share:g} %" for share in SHARES)]
    section = (
        f"### Scans with hidden rows: {NLIST * SIZE:,} x {D} in {NLIST} lists\n\nCPU time by the "
        "share of rows that is visible, over that of a scan without a mask. In brackets: of lists "
        f"that hold the visible rows only. One thread, medians of {rounds} rounds.\n\n"
        + measure.table(head, rows)
        + "\n\nMade by `python -m benchmarks.masked`."
    )
    print(section)
    measure.write_section("masked", section)


if __name__ == "__main__":
    main()
