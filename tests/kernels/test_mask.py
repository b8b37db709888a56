"""A masked scan equals a plain scan of the visible rows, and several runs equal one.

Distances and places are compared bit for bit, for every scanner, codec and metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.kernels.codec import Codec, empty_ivf, encode, flat_quantizer, train_codec
from teravec.kernels.compiled_scanner import CompiledScanner
from teravec.kernels.faiss_scanner import FaissScanner
from teravec.kernels.lists_in_memory import PLACE_BITS, ListsInMemory
from teravec.kernels.mask import Mask
from teravec.kernels.metric import Metric, normalized
from teravec.kernels.pairs import Pairs
from teravec.kernels.sketch import CANDIDATE, Candidates, SketchScanner, encode_sketches
from teravec.native import extensions as compiled
from tests.kernels.conftest import LEVELS, use

D, NQ, NPROBE = 32, 40, 6
SIZES = (0, 1, 8, 63, 300, 0, 17, 700, 64, 5)  # of each list
METRICS = [Metric.L2, Metric.IP, Metric.COSINE]
COMPILED = ["flat", "fp16", "sq8", "sq6", "sq4"]
BY_FAISS = [*COMPILED, "pq4x4", "pq8x5", "rabitq1", "rabitq4"]

Found = tuple[np.ndarray, ...]
Bits = np.ndarray
Scan = Callable[[ListsInMemory, int, int], Found]
"""A scan of lists for k results (or candidates) a query, on some threads; what it finds."""


# ---------------------------------------------------------------- lists


@dataclass(frozen=True)
class Case:
    """Lists with codes of one codec, and queries that visit some of them."""

    scanner: Any
    lists: ListsInMemory
    pairs: Pairs
    queries: np.ndarray
    code_size: int
    sign: float = 1.0  # of a radius, as a lower bound

    @property
    def n(self) -> int:
        """Number of lists, which are 0, 1, ..."""
        return len(self.lists.list_nos)

    def top_k(self, lists: ListsInMemory, k: int, threads: int) -> Found:
        """Distances and places of the k best."""
        scan = self.scanner.top_k(self.queries, k, threads)
        scan.add(lists, self.pairs.of_lists(lists.list_nos))
        distances, places = scan.result()
        return np.asarray(distances), np.asarray(places)

    def within(self, lists: ListsInMemory, k: int, threads: int) -> Found:
        """Queries, distances and places within the distance of the median query's k-th best."""
        best = self.top_k(self.lists, k, 1)[0][:, -1]
        radius = float(np.median(best[np.isfinite(best)])) if np.isfinite(best).any() else 1.0
        pairs = self.pairs.of_lists(lists.list_nos)
        rows, distances, places = self.scanner.within(self.queries, pairs, lists, radius, threads)
        assert (np.diff(rows) >= 0).all()
        order = np.lexsort((places, rows))
        return rows[order], distances[order], places[order]

    def candidates(self, lists: ListsInMemory, k: int, threads: int) -> Found:
        """Counts of candidates, and their entries, ordered."""
        found = Candidates.none(NQ, k)
        pairs = self.pairs.of_lists(lists.list_nos)
        self.scanner.scan(self.queries, lists, pairs, found, threads)
        entries = np.zeros((NQ, k), CANDIDATE)
        for i, count in enumerate(found.counts.tolist()):
            entries[i, :count] = np.sort(found.entries[i, :count], order=["estimate", "place"])
            entries["place"][i, count:] = -1
        return found.counts, entries["estimate"], entries["error"], entries["place"]

    def sketches_within(self, lists: ListsInMemory, k: int, threads: int) -> Found:
        """Queries and places whose lower bound is within the median query's k-th estimate."""
        counts, estimates, *_ = self.candidates(self.lists, k, 1)
        full = estimates[counts == k, -1]
        radius = float(np.median(full)) if len(full) else 1.0
        radius *= self.sign
        pairs = self.pairs.of_lists(lists.list_nos)
        rows, places = self.scanner.within(self.queries, lists, pairs, radius, threads)
        order = np.lexsort((places, rows))
        return rows[order], places[order]


@cache
def _vectors(metric: Metric) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centroids, list numbers, vectors, some of them equal, and queries."""
    rng = np.random.default_rng(5)
    centroids = rng.standard_normal((len(SIZES), D)).astype(np.float32) * 2
    list_nos = np.repeat(np.arange(len(SIZES)), SIZES).astype(np.int32)
    vectors = centroids[list_nos] + rng.standard_normal((len(list_nos), D)).astype(np.float32)
    for list_no in range(len(SIZES)):
        mine = np.flatnonzero(list_nos == list_no)
        vectors[mine[2::5]] = vectors[mine[:1]]  # ties
    queries = vectors[rng.choice(len(vectors), NQ)] + np.float32(0.2)
    queries[::4] = vectors[np.flatnonzero(list_nos == 7)[0]]
    if metric is Metric.COSINE:
        vectors, queries = normalized(vectors), normalized(queries)
    return centroids, list_nos, vectors, queries


def _in_memory(codes: np.ndarray) -> ListsInMemory:
    """All lists, with some bytes between them."""
    sizes, parts, offsets, at, row = np.array(SIZES, np.int64), [], [], 0, 0
    for size in SIZES:
        part = codes[row : row + size].ravel()
        parts += [np.full(3, 255, np.uint8), part]
        offsets.append(at + 3)
        at, row = at + 3 + len(part), row + size
    numbers = np.arange(len(SIZES), dtype=np.int64)
    return ListsInMemory(numbers, sizes, np.array(offsets), np.concatenate(parts))


def _pairs(quantizer: Any, queries: np.ndarray) -> Pairs:
    distances, wanted = quantizer.search(queries, NPROBE)
    wanted[::5, 3:] = -1
    wanted[3::8, 0] = 7  # the longest
    wanted[3::8, 1:] = -1
    return Pairs.of(wanted, distances)


@cache
def codec_case(kind: str, name: str, metric: Metric) -> Case:
    """Codes in one stage, for Faiss's scanners ("faiss") or ours ("compiled")."""
    centroids, list_nos, vectors, queries = _vectors(metric)
    codec, quantizer = Codec.parse(name), flat_quantizer(centroids, metric)
    parameters = train_codec(codec, quantizer, metric, vectors, list_nos, 1)
    ivf: Any = empty_ivf(codec, quantizer, metric, parameters)
    codes = encode(ivf, vectors, list_nos, 1)
    pairs = _pairs(quantizer, queries)
    scanner = (
        FaissScanner(ivf, metric)
        if kind == "faiss"
        else CompiledScanner(codec, metric, centroids, parameters)
    )
    return Case(scanner, _in_memory(codes), pairs, queries, codes.shape[1])


@cache
def sketch_case(bits: int, metric: Metric) -> Case:
    """Sketches, whose candidates are scanned for."""
    centroids, list_nos, vectors, queries = _vectors(metric)
    codes = encode_sketches(vectors - centroids[list_nos], bits, 1)
    pairs = _pairs(flat_quantizer(centroids, metric), queries)
    scanner = SketchScanner(centroids, bits, metric)
    sign = -1.0 if metric.larger_is_closer else 1.0
    return Case(scanner, _in_memory(codes), pairs, queries, codes.shape[1], sign)


# ---------------------------------------------------------------- masks and runs


def random_bits(rng: np.random.Generator, share: float) -> list[Bits | None]:
    """Bits of each list: a share is visible, of some lists none or all; what follows is noise."""
    found: list[Bits | None] = []
    for size in SIZES:
        visible = rng.random(size + 64) < rng.choice([share, share, share, 0, 1])
        visible[size:] = rng.random(64) < 0.5
        used = -(-size // 8) + int(rng.integers(0, 3))
        bits = np.packbits(visible, bitorder="little")[:used]
        found.append(None if rng.random() < 0.2 else bits)
    return found


def visible_of(bits: Bits | None, size: int) -> np.ndarray:
    """Visible rows, by the description alone."""
    if bits is None:
        return np.arange(size)
    rows = np.arange(size)
    return np.asarray(rows[bits[rows // 8] >> (rows % 8) & 1 == 1])


def only_visible(case: Case, masks: Sequence[Bits | None]) -> tuple[ListsInMemory, np.ndarray]:
    """Lists of the visible rows alone, and the place of each of their codes, list by list."""
    parts, places = [], []
    for entry, bits in enumerate(masks):
        rows = visible_of(bits, SIZES[entry])
        parts.append(case.lists.codes(entry, case.code_size)[rows])
        places.append((entry << PLACE_BITS) + rows)
    sizes = np.array([len(part) for part in parts], np.int64)
    offsets = (np.cumsum(sizes) - sizes) * case.code_size
    buffer = np.concatenate(parts).ravel()
    return ListsInMemory(np.arange(case.n), sizes, offsets, buffer), np.concatenate(places)


def renamed(found: Found, lists: ListsInMemory, names: np.ndarray) -> Found:
    """What was found in some lists, by other names: of each code, entry by entry."""
    firsts = np.cumsum(lists.sizes) - lists.sizes
    entries = np.zeros(int(lists.runs.max()) + 1, np.int64)
    entries[lists.runs] = np.arange(len(lists.runs))
    places = found[-1].copy()
    held = places >= 0
    entry, row = entries[places[held] >> PLACE_BITS], places[held] & ((1 << PLACE_BITS) - 1)
    places[held] = names[firsts[entry] + row]
    return *found[:-1], places


def in_runs(
    case: Case, rng: np.random.Generator, masks: Sequence[Bits | None] | None, shuffle: bool
) -> tuple[ListsInMemory, np.ndarray]:
    """Cut each list into some runs, apart from each other; and the place of each code before."""
    list_nos, sizes, offsets, bits, names = [], [], [], [], []
    for entry, size in enumerate(SIZES):
        cuts = [0, *np.sort(rng.integers(0, size + 1, rng.integers(0, 4))).tolist(), size]
        visible = np.isin(
            np.arange(size), visible_of(None if masks is None else masks[entry], size)
        )
        for start, stop in pairwise(cuts):
            list_nos.append(entry)
            sizes.append(stop - start)
            offsets.append(int(case.lists.offsets[entry]) + start * case.code_size)
            part = visible[start:stop]
            bits.append(None if part.all() else np.packbits(part, bitorder="little"))
            names.append((entry << PLACE_BITS) + np.arange(start, stop))
    numbers = 3 + np.arange(len(list_nos), dtype=np.int64)
    if shuffle:
        rng.shuffle(numbers)
    lists = ListsInMemory(
        np.array(list_nos),
        np.array(sizes),
        np.array(offsets),
        case.lists.buffer,
        run_nos=numbers,
        allowed=None if masks is None else Mask.of(bits),
    )
    return lists, np.concatenate(names)


def assert_equal(found: Found, expected: Found) -> None:
    """Compare all arrays, bit for bit."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def check_masked(case: Case, scan: Scan, seed: int, share: float, k: int, threads: int) -> None:
    """A masked scan equals a plain one of the visible rows; so it does by parts of lists."""
    rng = np.random.default_rng(seed)
    masks = random_bits(rng, share)
    plain, names = only_visible(case, masks)
    expected = renamed(scan(plain, k, threads), plain, names)
    lists = case.lists
    masked = ListsInMemory(
        lists.list_nos, lists.sizes, lists.offsets, lists.buffer, allowed=Mask.of(masks)
    )
    assert_equal(scan(masked, k, threads), expected)


def check_runs(
    case: Case, scan: Scan, seed: int, share: float | None, k: int, threads: int
) -> None:
    """Several runs of a list are found as one is."""
    rng = np.random.default_rng(seed)
    masks = None if share is None else random_bits(rng, share)
    lists = case.lists
    whole = ListsInMemory(
        lists.list_nos,
        lists.sizes,
        lists.offsets,
        lists.buffer,
        allowed=None if masks is None else Mask.of(masks),
    )
    expected = scan(whole, k, threads)
    runs, names = in_runs(case, rng, masks, shuffle=False)
    assert_equal(renamed(scan(runs, k, threads), runs, names), expected)


# ---------------------------------------------------------------- one stage


needs_kernel = pytest.mark.skipif(compiled.scanning is None, reason="not compiled")
SCANNERS = [
    *(
        pytest.param("compiled", name, marks=needs_kernel, id=f"compiled-{name}")
        for name in COMPILED
    ),
    *(pytest.param("faiss", name, id=f"faiss-{name}") for name in BY_FAISS),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("kind", "name"), SCANNERS)
def test_top_k(kind: str, name: str, metric: Metric, threads: int) -> None:
    case = codec_case(kind, name, metric)
    for seed, share, k in [(0, 0.5, 1), (1, 0.04, 10), (2, 0.9, 100), (3, 0.3, 2000), (4, 0, 3)]:
        check_masked(case, case.top_k, seed, share, k, threads)
        check_runs(case, case.top_k, seed, None, k, threads)
        check_runs(case, case.top_k, seed, share, k, threads)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", BY_FAISS)
def test_range(name: str, metric: Metric, threads: int) -> None:
    case = codec_case("faiss", name, metric)
    for seed, share, k in [(0, 0.5, 3), (1, 0.04, 30), (2, 0.9, 100), (4, 0, 3)]:
        check_masked(case, case.within, seed, share, k, threads)
        check_runs(case, case.within, seed, None, k, threads)
        check_runs(case, case.within, seed, share, k, threads)


@needs_kernel
@pytest.mark.parametrize("level", [level for level in LEVELS if level >= 0])
@pytest.mark.parametrize("d", [7, 16, 40, 48])  # of 48, one query's codes are compared directly
@pytest.mark.parametrize("name", COMPILED)
def test_each_instruction_set(
    name: str, d: int, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One query and several, in lists that are cut by parts and by threads."""
    monkeypatch.setattr(compiled, "level", level)
    rng = np.random.default_rng([d, level])
    codec, size = Codec.parse(name), 500
    centroids = rng.standard_normal((2, d)).astype(np.float32)
    parameters = np.repeat(np.array([-3, 6], np.float32), d) if name[0] == "s" else centroids[0, :0]
    scanner = CompiledScanner(codec, Metric.L2, centroids, parameters)
    vectors = rng.standard_normal((2 * size, d)).astype(np.float32)
    list_nos = np.repeat(np.arange(2), size).astype(np.int32)
    ivf: Any = empty_ivf(codec, flat_quantizer(centroids, Metric.L2), Metric.L2, parameters)
    codes = encode(ivf, vectors, list_nos, 1)
    visible = rng.random((2, size)) < 0.4
    visible[0, 100:250], visible[1, 30:70] = False, True
    mask = Mask.of([np.packbits(rows, bitorder="little") for rows in visible])
    shown = np.flatnonzero(visible.ravel())
    numbers = np.arange(2)
    counts = visible.sum(axis=1)
    for nq in (1, 3, 40):
        queries = rng.standard_normal((nq, d)).astype(np.float32)
        pairs = Pairs.of(np.tile([1, 0], (nq, 1)), np.zeros((nq, 2), np.float32))
        plain = scanner.top_k(queries, 20, 1)
        buffer = np.ascontiguousarray(codes[shown]).ravel()
        offsets = np.array([0, counts[0]]) * codes.shape[1]
        plain.add(ListsInMemory(numbers, counts, offsets, buffer), pairs)
        distances, places = plain.result()
        firsts = np.array([0, counts[0]])
        rows = shown[firsts[places >> PLACE_BITS] + (places & ((1 << PLACE_BITS) - 1))]
        expected = rows // size << PLACE_BITS | rows % size
        for threads, step in ((1, size), (3, size), (2, 37)):
            scan = scanner.top_k(queries, 20, threads)
            for row in range(0, size, step):
                part = np.full(2, min(step, size - row))
                at = (numbers * size + row) * codes.shape[1]
                scan.add(ListsInMemory(numbers, part, at, codes.ravel(), row, None, mask), pairs)
            assert_equal(scan.result(), (distances, expected))


@pytest.mark.parametrize(("kind", "name"), SCANNERS)
def test_shuffled_numbers_of_runs(kind: str, name: str) -> None:
    """Distances are the same; among equal ones, places follow the numbers of the runs."""
    case = codec_case(kind, name, Metric.L2)
    expected = case.top_k(case.lists, 30, 1)
    runs, names = in_runs(case, np.random.default_rng(3), None, shuffle=True)
    found = renamed(case.top_k(runs, 30, 1), runs, names)
    np.testing.assert_array_equal(found[0], expected[0])
    inside = expected[0] != expected[0][:, -1:]  # what is as far as the last may be another
    for mine, theirs, sure in zip(found[1], expected[1], inside, strict=True):
        np.testing.assert_array_equal(np.sort(mine[sure]), np.sort(theirs[sure]))


def test_faiss_copies_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists that are larger than a piece are scanned piece by piece."""
    size, d = 9000, 64  # 2.2 MiB of codes
    rng = np.random.default_rng(1)
    centroids = rng.standard_normal((2, d)).astype(np.float32)
    vectors = rng.standard_normal((size, d)).astype(np.float32)
    vectors[::7] = vectors[0]
    quantizer = flat_quantizer(centroids, Metric.L2)
    ivf = empty_ivf(Codec.parse("flat"), quantizer, Metric.L2, centroids[0, :0])
    scanner = FaissScanner(ivf, Metric.L2)
    visible = rng.random(size) < 0.9
    mask = Mask.of([np.packbits(visible, bitorder="little")])
    one, zero = np.array([1]), np.array([0])
    buffer = vectors.view(np.uint8).ravel()
    masked = ListsInMemory(one, np.array([size]), zero, buffer, allowed=mask)
    shown = np.flatnonzero(visible)
    plain = ListsInMemory(one, np.array([len(shown)]), zero, vectors[shown].view(np.uint8).ravel())
    queries = vectors[[0, 1, 5]]
    pairs = Pairs.of(np.ones((3, 1), np.int64), np.zeros((3, 1), np.float32))
    for k in (1, 50, 2000):
        found = []
        for lists in (masked, plain):
            scan = scanner.top_k(queries, k, 1)
            scan.add(lists, pairs)
            found.append(scan.result())
        rows = shown[found[1][1] & ((1 << PLACE_BITS) - 1)]
        assert_equal(found[0], (found[1][0], (1 << PLACE_BITS) + rows))
    rows, distances, places = scanner.within(queries, pairs, masked, 100.0, 1)
    plain_rows, plain_distances, _ = scanner.within(queries, pairs, plain, 100.0, 1)
    np.testing.assert_array_equal(rows, plain_rows)
    np.testing.assert_array_equal(np.sort(distances), np.sort(plain_distances))
    assert visible[places & ((1 << PLACE_BITS) - 1)].all()


# ---------------------------------------------------------------- sketches


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 2])
def test_sketches(
    bits: int, metric: Metric, threads: int, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, level)
    case = sketch_case(bits, metric)
    rounds = [(1, 0.05, 30), (0, 0.5, 1), (2, 0.9, 200)]
    for seed, share, capacity in rounds if level >= 0 else rounds[:1]:
        for scan in (case.candidates, case.sketches_within):
            check_masked(case, scan, seed, share, capacity, threads)
            check_runs(case, scan, seed, None, capacity, threads)
            check_runs(case, scan, seed, share, capacity, threads)


@pytest.mark.parametrize("level", LEVELS)
def test_sketches_of_parts_of_a_list(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits are those of the whole run, wherever its part in memory begins."""
    use(monkeypatch, level)
    case = sketch_case(1, Metric.L2)
    masks = random_bits(np.random.default_rng(7), 0.3)
    list_no, mask = 7, Mask.of([masks[7]])
    expected = Candidates.none(NQ, 40)
    only = np.array([list_no])
    one = case.lists.sizes[only], case.lists.offsets[only], case.lists.buffer
    pairs = case.pairs.of_lists(only)
    case.scanner.scan(case.queries, ListsInMemory(only, *one, allowed=mask), pairs, expected, 1)
    found = Candidates.none(NQ, 40)
    for row in range(0, SIZES[list_no], 37):
        count = np.array([min(37, SIZES[list_no] - row)])
        at = case.lists.offsets[only] + row * case.code_size
        part = ListsInMemory(only, count, at, case.lists.buffer, row, None, mask)
        case.scanner.scan(case.queries, part, pairs, found, 2)
    np.testing.assert_array_equal(found.counts, expected.counts)
    for i, count in enumerate(found.counts.tolist()):
        mine, theirs = (
            np.sort(kept.entries[i, :count], order=["estimate", "place"])
            for kept in (found, expected)
        )
        np.testing.assert_array_equal(mine, theirs)


# ---------------------------------------------------------------- anything


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["compiled", "faiss"] if compiled.scanning is not None else ["faiss"]),
    name=st.sampled_from(COMPILED),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    k=st.integers(1, 300),
    threads=st.integers(1, 4),
)
def test_any_mask_and_runs(
    kind: str, name: str, metric: Metric, seed: int, share: float, k: int, threads: int
) -> None:
    case = codec_case(kind, name, metric)
    check_masked(case, case.top_k, seed, share, k, threads)
    check_runs(case, case.top_k, seed, share, k, threads)


@settings(max_examples=30, deadline=None)
@given(
    bits=st.integers(1, 2),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    capacity=st.integers(1, 300),
    threads=st.integers(1, 4),
    level=st.sampled_from(LEVELS),
)
def test_any_mask_and_runs_of_sketches(
    bits: int, metric: Metric, seed: int, share: float, capacity: int, threads: int, level: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use(patch, level)
        case = sketch_case(bits, metric)
        check_masked(case, case.candidates, seed, share, capacity, threads)
        check_runs(case, case.candidates, seed, share, capacity, threads)


# ---------------------------------------------------------------- the mask itself


def test_mask_of_runs() -> None:
    mask = Mask.of([np.array([0b101], np.uint8), None, np.array([255, 2], np.uint8), None])
    assert mask.bits.tolist() == [5, 255, 2]
    assert mask.starts.tolist() == [0, -1, 1, -1]
    assert mask.find_visible(1, 0, 3) is None
    for entry, start, stop, expected in [
        (0, 0, 3, [0, 2]),
        (0, 1, 3, [1]),
        (2, 7, 10, [0, 2]),
        (2, 0, 16, [*range(8), 9]),
        (2, 8, 9, []),
        (2, 4, 4, []),
    ]:
        rows = mask.find_visible(entry, start, stop)
        assert rows is not None
        assert rows.tolist() == expected
    with pytest.raises(ValueError, match="3 bytes of bits at byte 1 of 3"):
        mask.find_visible(2, 0, 17)
    assert Mask.of([]).bits.tolist() == Mask.of([None]).bits.tolist() == []


def test_pairs_of_lists_in_several_runs() -> None:
    pairs = Pairs.of(
        np.array([[3, 1, 0], [2, 3, -1]]), np.arange(6, dtype=np.float32).reshape(2, 3)
    )
    assert pairs.list_nos.tolist() == [0, 1, 2, 3]
    for some in ([0, 0, 2], [1, 1, 3, 3], [0, 0, 0, 3], [3, 3], [0, 1, 1, 2, 3]):
        part = pairs.of_lists(np.array(some))
        assert part.list_nos.tolist() == some
        one_by_one = [pairs.of_lists(np.array([list_no])) for list_no in some]
        assert part.counts.tolist() == [len(one.queries) for one in one_by_one]
        for column in ("queries", "distances", "nearest"):
            expected = np.concatenate([getattr(one, column) for one in one_by_one])
            np.testing.assert_array_equal(getattr(part, column), expected)
        again = part.of_lists(np.array(sorted(set(some))))
        np.testing.assert_array_equal(
            again.queries, pairs.of_lists(np.array(sorted(set(some)))).queries
        )
