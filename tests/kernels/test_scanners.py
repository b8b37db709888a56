"""The compiled scanner finds what Faiss's finds, at every level, however the work is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from teravec.kernels.codec import Codec, empty_ivf, encode, flat_quantizer, train_codec
from teravec.kernels.compiled_scanner import CompiledScanner
from teravec.kernels.faiss_scanner import FaissScanner
from teravec.kernels.lists_in_memory import PLACE_BITS, ListsInMemory
from teravec.kernels.metric import Metric
from teravec.kernels.pairs import Pairs
from teravec.native import extensions as compiled
from tests.kernels.conftest import LEVELS

pytestmark = pytest.mark.skipif(compiled.scanning is None, reason="not compiled")

NLIST, N, NQ, NPROBE = 12, 900, 50, 7
CODECS = ["flat", "fp16", "sq8", "sq6", "sq4"]


@dataclass
class Case:
    """Lists of one codec, queries, and the lists that each wants."""

    lists: ListsInMemory
    pairs: Pairs
    queries: np.ndarray
    ours: CompiledScanner
    faiss: FaissScanner


def _case(d: int, codec_name: str, metric: Metric) -> Case:
    rng = np.random.default_rng([d, len(codec_name)])
    centroids = rng.standard_normal((NLIST, d)).astype(np.float32) * 3
    list_nos = np.sort(rng.integers(0, NLIST - 2, N)).astype(np.int32)  # the last two are empty
    vectors = centroids[list_nos] + rng.standard_normal((N, d)).astype(np.float32)
    queries = vectors[rng.choice(N, NQ, False)] + np.float32(0.3)
    codec = Codec.parse(codec_name)
    quantizer = flat_quantizer(centroids, metric)
    parameters = train_codec(codec, quantizer, metric, vectors, list_nos, 1)
    ivf: Any = empty_ivf(codec, quantizer, metric, parameters)
    codes = encode(ivf, vectors, list_nos, 1)
    sizes = np.bincount(list_nos, minlength=NLIST).astype(np.int64)
    offsets = (np.cumsum(sizes) - sizes) * codes.shape[1]
    lists = ListsInMemory(np.arange(NLIST), sizes, offsets, codes.ravel())
    distances, wanted = quantizer.search(queries, NPROBE)
    wanted[::5, 3:] = -1
    ours = CompiledScanner(codec, metric, centroids, parameters)
    return Case(lists, Pairs.of(wanted, distances), queries, ours, FaissScanner(ivf, metric))


def _found(scanner: Any, case: Case, k: int, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    scan = scanner.top_k(case.queries, k, threads)
    wanted = case.pairs.list_nos
    lists = case.lists
    scan.add(
        ListsInMemory(wanted, lists.sizes[wanted], lists.offsets[wanted], lists.buffer), case.pairs
    )
    distances, places = scan.result()
    return np.asarray(distances), np.asarray(places)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("d", [1, 5, 16, 23, 96])
@pytest.mark.parametrize("level", [level for level in LEVELS if level >= 0])
def test_finds_what_faiss_finds(
    monkeypatch: pytest.MonkeyPatch, level: int, d: int, codec: str, metric: Metric
) -> None:
    monkeypatch.setattr(compiled, "level", level)
    case = _case(d, codec, metric)
    for k in (1, 10, 400):
        distances, places = _found(case.ours, case, k)
        expected, expected_places = _found(case.faiss, case, k)
        scale = float(np.abs(case.queries).max()) ** 2 * d
        np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-6 * scale)
        np.testing.assert_array_equal(places == -1, expected_places == -1)
        if d > 5:  # below, many distances are equal but for rounding
            assert (places != expected_places).mean() < 0.02


@pytest.mark.parametrize("level", [level for level in LEVELS if level >= 0])
@pytest.mark.parametrize("d", [16, 40, 48])  # of 48, one query's codes are compared directly
@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize("codec", CODECS)
def test_a_result_depends_on_query_and_code_alone(
    codec: str, metric: Metric, d: int, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on threads, on the batch, nor on how lists are cut into parts and chunks."""
    monkeypatch.setattr(compiled, "level", level)
    case = _case(d, codec, metric)
    expected = _found(case.ours, case, 9)
    for threads in (2, 5):
        case_threads = _found(case.ours, case, 9, threads)
        for one, other in zip(expected, case_threads, strict=True):
            np.testing.assert_array_equal(one, other)
    wanted, code_size = case.pairs.list_nos, case.ours.decoding.code_size
    scan = case.ours.top_k(case.queries, 9, 2)
    for list_no in wanted.tolist():
        only = np.array([list_no])
        size, offset = int(case.lists.sizes[list_no]), int(case.lists.offsets[list_no])
        for row in range(0, size, 17):
            count = np.array([min(17, size - row)])
            at = np.array([offset + row * code_size])
            part = ListsInMemory(only, count, at, case.lists.buffer, row_start=row)
            scan.add(part, case.pairs.of_lists(only))
    for one, chunked in zip(expected, scan.result(), strict=True):
        np.testing.assert_array_equal(one, chunked)
    for number in range(0, NQ, 7):
        mine = np.where(case.pairs.queries == number)[0]
        list_nos = np.repeat(wanted, case.pairs.counts)[mine]
        alone = Pairs.of(list_nos[None], case.pairs.distances[mine][None])
        one_query = Case(
            case.lists, alone, case.queries[number : number + 1], case.ours, case.faiss
        )
        distances, places = _found(case.ours, one_query, 9)
        np.testing.assert_array_equal(distances[0], expected[0][number])
        np.testing.assert_array_equal(places[0], expected[1][number])


@pytest.mark.parametrize("nq", [1, 20])
def test_a_large_scan_is_shared_among_threads(nq: int) -> None:
    """Lists are cut, and what each thread keeps put together; the places of ties among it."""
    rng, d, size = np.random.default_rng(nq), 64, 20000
    codes = rng.integers(0, 256, (size, d), dtype=np.uint8)
    codes[::3] = codes[0]  # as far from a query
    lists = ListsInMemory(
        np.arange(3),
        np.array([size // 2, 0, size // 2]),
        np.array([0, 0, size // 2 * d]),
        codes.ravel(),
    )
    centroids, parameters = (
        np.zeros((3, d), np.float32),
        np.repeat(np.array([0, 255], np.float32), d),
    )
    scanner = CompiledScanner(Codec.parse("sq8"), Metric.L2, centroids, parameters)
    queries = codes[:nq] + np.float32(0.5)
    pairs = Pairs.of(np.tile([2, 0, 1], (nq, 1)), np.zeros((nq, 3), np.float32))
    found = []
    for threads in (1, 2, 3, 7):
        scan = scanner.top_k(queries, 50, threads)
        scan.add(lists, pairs)
        found.append(scan.result())
    assert (found[0][0][0] == 0).all()
    assert (np.diff(found[0][1]) > 0)[0].all()
    for other in found[1:]:
        np.testing.assert_array_equal(found[0][0], other[0])
        np.testing.assert_array_equal(found[0][1], other[1])


def test_every_half_precision_number_is_read_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline's own conversion: all finite float16 values, subnormal ones among them."""
    monkeypatch.setattr(compiled, "level", 0)
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    scanner = CompiledScanner(
        Codec.parse("fp16"), Metric.IP, np.zeros((1, 1), np.float32), np.empty(0, np.float32)
    )
    scan = scanner.top_k(np.ones((1, 1), np.float32), len(every), 1)
    zero, size = np.zeros(1, np.int64), np.array([len(every)])
    scan.add(
        ListsInMemory(zero, size, zero, every.view(np.uint8)),
        Pairs.of(zero[None], np.zeros((1, 1), np.float32)),
    )
    distances, places = scan.result()
    rows = places[0] & ((1 << PLACE_BITS) - 1)
    np.testing.assert_array_equal(distances[0], every[rows].astype(np.float32))
    assert sorted(rows) == list(range(len(every)))


def test_the_kernel_refuses_what_does_not_fit() -> None:
    """Numbers that point outside of the buffers are errors, never reads."""
    assert compiled.scanning is not None
    codes, zero = np.zeros(64, np.uint8), np.zeros(1, np.int64)
    starts, queries = np.array([0, 1]), np.zeros((1, 8), np.float32)

    def scan(row_start: int = 0, **changed: Any) -> None:
        values = {
            "codes": codes,
            "list_nos": zero,
            "sizes": np.array([8]),
            "offsets": zero,
            "starts": starts,
            "pair_queries": np.zeros(1, np.int32),
            "nearest": np.ones(1, bool),
            "coarse": None,
            "queries": queries,
            "centroids": None,
            "low": None,
            "step": np.ones(16, np.float32),
            "best": np.full((1, 5), np.inf, np.float32),
            "places": np.full((1, 5), -1),
            "counts": np.zeros(1, np.int32),
            "limits": np.full(1, np.inf, np.float32),
            "run_nos": None,
            "bits": None,
            "bit_starts": None,
        } | changed
        assert compiled.scanning is not None
        compiled.scanning.scan(compiled.level, 2, False, 8, 2, row_start, *values.values())

    scan()
    byte = np.ones(1, np.uint8)
    scan(run_nos=np.array([2**31 - 1]), bits=byte, bit_starts=zero)
    scan(bits=byte[:0], bit_starts=zero - 1)
    wrong: list[dict[str, Any]] = [
        {"row_start": -1},
        {"row_start": 2**32},
        {"sizes": np.array([9])},
        {"sizes": np.array([1]), "offsets": np.array([60])},
        {"sizes": np.array([-1])},
        {"sizes": np.array([2**61])},
        {"sizes": np.array([1, 1])},
        {"offsets": np.array([0, 0])},
        {"list_nos": np.array([-1])},
        {"list_nos": np.array([1]), "centroids": np.zeros((1, 8), np.float32)},
        {"starts": np.array([0, 2])},
        {"starts": np.array([1, 0])},
        {"pair_queries": np.array([1], np.int32)},
        {"pair_queries": np.array([-1], np.int32)},
        {"nearest": np.ones(2, bool)},
        {"queries": np.zeros((1, 7), np.float32)},
        {"step": np.zeros(8, np.float32)},
        {"best": np.full((1, 6), np.inf, np.float32)},
        {"best": np.zeros((1, 2), np.float32), "places": np.zeros((1, 2), np.int64)},
        {"counts": np.array([5], np.int32)},
        {"counts": np.array([-1], np.int32)},
        {"counts": np.zeros(0, np.int32)},
        {"limits": np.zeros(2, np.float32)},
        {"low": np.zeros(16, np.float32)},
        {"coarse": np.zeros(2, np.float32)},
        {"run_nos": np.array([-1])},
        {"run_nos": np.array([2**31])},
        {"run_nos": np.array([0, 1])},
        {"bits": byte},
        {"bits": byte, "bit_starts": np.array([0, 0])},
        {"bits": byte, "bit_starts": np.array([1])},
        {"bits": byte, "bit_starts": np.array([-2])},
        {"bits": byte, "bit_starts": zero, "row_start": 1},  # the last row is in the second byte
        {"bits": byte[:0], "bit_starts": zero},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match=r"\w"):
            scan(**change)


def test_pairs_of_some_lists() -> None:
    list_nos = np.array([[3, -1, 0], [2, 3, -1], [-1, -1, -1], [0, 9, 3]])
    distances = np.arange(12, dtype=np.float32).reshape(4, 3)
    pairs = Pairs.of(list_nos, distances)
    assert pairs.list_nos.tolist() == [0, 2, 3, 9]
    assert pairs.queries.tolist() == [0, 3, 1, 0, 1, 3, 3]
    assert pairs.distances.tolist() == [2, 9, 3, 0, 4, 11, 10]
    assert pairs.nearest.tolist() == [False, True, True, True, False, False, False]
    for some in ([0, 2], [2, 9], [0, 3, 9], [9]):
        part = pairs.of_lists(np.array(some))
        mine = np.isin(np.repeat(pairs.list_nos, pairs.counts), some)
        np.testing.assert_array_equal(part.queries, pairs.queries[mine])
        np.testing.assert_array_equal(part.distances, pairs.distances[mine])
        np.testing.assert_array_equal(part.nearest, pairs.nearest[mine])
        assert part.counts.tolist() == [int((list_nos == n).sum()) for n in some]
    rows, matrix, values = pairs.as_matrix()
    assert rows.tolist() == [0, 1, 3]
    assert matrix.tolist() == [[0, 3, -1], [2, 3, -1], [0, 3, 9]]
    assert values.tolist() == [[2, 0, 0], [3, 4, 0], [9, 11, 10]]
    empty = Pairs.of(np.full((2, 3), -1), np.zeros((2, 3), np.float32))
    assert len(empty.list_nos) == 0
    assert empty.as_matrix()[1].shape == (0, 1)
