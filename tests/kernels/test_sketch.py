"""Sketches: estimates without bias, bounds that hold as often as stated, one result a query."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.kernels import sketch
from teravec.kernels.lists_in_memory import ListsInMemory
from teravec.kernels.metric import Metric
from teravec.kernels.pairs import Pairs
from teravec.kernels.sketch import (
    CANDIDATE,
    EPSILON,
    Candidates,
    SketchScanner,
    encode_sketches,
    sketch_size,
)
from teravec.model.transform import Moments, TransformKind, train_transform
from teravec.native import extensions as compiled
from teravec.sources import open_source
from tests.conftest import RealSet, clustered
from tests.kernels.conftest import LEVELS, use

METRICS = [Metric.L2, Metric.IP]


def coarse(metric: Metric, queries: np.ndarray, centroid: np.ndarray) -> np.ndarray:
    """Distances of queries to a centroid, in the index's metric."""
    if metric.larger_is_closer:
        return np.asarray(queries @ centroid)
    return np.asarray(((queries - centroid) ** 2).sum(1))


def exact(metric: Metric, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """What estimates aim at, (nq, n): similarities are negated."""
    dots = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    if metric.larger_is_closer:
        return np.asarray(-dots)
    norms = (queries.astype(np.float64) ** 2).sum(1)[:, None] + (vectors**2).sum(1)
    return np.asarray(norms - 2 * dots)


def decoded(codes: np.ndarray, d: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grid points (n, d) and factors f, n, by the format's description alone."""
    width = -(-d // 8)
    values = np.zeros((len(codes), d))
    for i in range(d):
        for plane in range(bits):
            values[:, i] += 2**plane * (codes[:, plane * width + i // 8] >> (i % 8) & 1)
    words = np.ascontiguousarray(codes[:, bits * width :]).view("<u2").astype(np.uint32) << 15
    factors = words.view(np.float32).astype(np.float64)
    return values - (2**bits - 1) / 2, factors[:, 0], factors[:, 1]


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("d", [1, 7, 8, 24, 96, 100, 130])
def test_codes_are_as_described(d: int, bits: int) -> None:
    residuals = clustered(200, d)
    codes = encode_sketches(residuals, bits, threads=2)
    assert codes.shape == (200, sketch_size(d, bits)) == (200, bits * -(-d // 8) + 4)
    grid, f, n = decoded(codes, d, bits)
    wide = residuals.astype(np.float64)
    np.testing.assert_allclose(n, (wide**2).sum(1), rtol=2**-9)
    np.testing.assert_allclose(f, (wide**2).sum(1) / (grid * wide).sum(1), rtol=2**-9)
    assert (np.sign(grid) == np.where(residuals >= 0, 1, -1)).all()
    np.testing.assert_array_equal(
        codes, np.concatenate([encode_sketches(row[None], bits, threads=1) for row in residuals])
    )


def test_two_bits_point_as_near_as_the_grid_allows() -> None:
    residuals = clustered(50, 6)
    grid, _, _ = decoded(encode_sketches(residuals, 2, threads=1), 6, 2)
    axis = np.array([-1.5, -0.5, 0.5, 1.5])
    every = np.stack(np.meshgrid(*[axis] * 6), axis=-1).reshape(-1, 6)
    cosines = residuals @ (every / np.linalg.norm(every, axis=1, keepdims=True)).T
    found = (residuals * grid).sum(1) / np.linalg.norm(grid, axis=1)
    np.testing.assert_allclose(found, cosines.max(1), rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2])
def test_extreme_residuals(bits: int) -> None:
    residuals = np.zeros((6, 20), np.float32)
    residuals[1] = 1e-30
    residuals[2] = 1e18
    residuals[3, 4] = 5
    residuals[4] = -1e-22
    scanner = SketchScanner(np.zeros((1, 20), np.float32), bits, Metric.L2)
    codes = encode_sketches(residuals, bits, threads=1)
    estimate, error = scanner.estimates(np.ones(20, np.float32), 0, 20.0, codes)
    assert np.isfinite(estimate).all()
    assert np.isfinite(error).all()
    assert estimate[0] == 20
    assert error[0] == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("d", [5, 16, 96, 100])
def test_levels_agree(d: int, bits: int, metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries, centroids = clustered(700, d), clustered(5, d, 1), clustered(2, d, 2)
    codes = encode_sketches(vectors - centroids[1], bits, threads=1)
    scanner = SketchScanner(centroids, bits, metric)
    distances = coarse(metric, queries, centroids[1])
    found = {}
    for one in LEVELS:
        use(monkeypatch, one)
        found[one] = [
            scanner.estimates(q, 1, distance, codes)
            for q, distance in zip(queries, distances, strict=True)
        ]
        monkeypatch.undo()
    scale = float(np.abs(found[-1][0][0]).max())
    for one in LEVELS:
        np.testing.assert_allclose(found[one], found[-1], rtol=1e-4, atol=1e-5 * scale)


def lists_of(codes: list[np.ndarray]) -> ListsInMemory:
    """Lists 1, 3, 5, ... with these codes, apart from each other in the buffer."""
    offsets, parts, at = [], [], 0
    for one in codes:
        parts += [np.full(3, 255, np.uint8), one.ravel()]
        offsets.append(at + 3)
        at += 3 + one.nbytes
    list_nos = 1 + 2 * np.arange(len(codes), dtype=np.int64)
    sizes = np.array([len(one) for one in codes], np.int64)
    return ListsInMemory(list_nos, sizes, np.array(offsets), np.concatenate(parts), row_start=7)


@settings(max_examples=25, deadline=None)
@given(
    d=st.integers(1, 70),
    bits=st.integers(1, 2),
    metric=st.sampled_from(METRICS),
    sizes=st.lists(st.integers(0, 600), min_size=1, max_size=4),
    nq=st.integers(1, 9),
    capacity=st.integers(1, 400),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
    one=st.sampled_from(LEVELS),
)
def test_scan_keeps_the_lowest_estimates(
    d: int,
    bits: int,
    metric: Metric,
    sizes: list[int],
    nq: int,
    capacity: int,
    threads: int,
    seed: int,
    one: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use(patch, one)
        rng = np.random.default_rng(seed)
        centroids, queries = clustered(2 * len(sizes), d, 1), clustered(nq, d, 2)
        scanner = SketchScanner(centroids, bits, metric)
        residuals = [np.round(rng.standard_normal((n, d))).astype(np.float32) for n in sizes]
        lists = lists_of([encode_sketches(r, bits, threads=1) for r in residuals])
        wanted = np.stack([rng.permutation(np.append(lists.list_nos, -1)) for _ in range(nq)])
        each = np.stack([coarse(metric, queries, c) for c in centroids], axis=1)
        distances = np.take_along_axis(each, np.maximum(wanted, 0), axis=1).astype(np.float32)
        found = Candidates.none(nq, capacity)
        pairs = Pairs.of(wanted, distances).of_lists(lists.list_nos)
        scanner.scan(queries, lists, pairs, found, threads)
        for i in range(nq):
            expected = every_estimate(scanner, queries[i], wanted[i], distances[i], lists)
            kept = np.sort(found.entries[i, : found.counts[i]], order=["estimate", "place"])
            np.testing.assert_array_equal(kept, expected[:capacity])


def every_estimate(
    scanner: SketchScanner,
    query: np.ndarray,
    list_nos: np.ndarray,
    distances: np.ndarray,
    lists: ListsInMemory,
) -> np.ndarray:
    """All candidates of one query, best first."""
    parts = [np.empty(0, CANDIDATE)]
    for at, list_no in enumerate(lists.list_nos.tolist()):
        part = np.empty(int(lists.sizes[at]), CANDIDATE)
        distance = distances[list_nos == list_no][0]
        codes = lists.codes(at, scanner.code_size)
        part["estimate"], part["error"] = scanner.estimates(query, list_no, distance, codes)
        part["place"] = (list_no << 32) + lists.row_start + np.arange(len(part))
        parts.append(part)
    return np.sort(np.concatenate(parts), order=["estimate", "place"])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["sift", "minilm"])
@pytest.mark.parametrize("bits", [1, 2])
def test_estimates_of_real_vectors(
    bits: int, name: str, metric: Metric, request: pytest.FixtureRequest
) -> None:
    real: RealSet = request.getfixturevalue(name)
    source = open_source(real.base)
    d = source.d
    rotation = train_transform(
        TransformKind.parse("rotation"), d, lambda: Moments.none(d), centered=False, seed=1
    )
    rows = np.concatenate([source.read(i, i + 1000) for i in range(0, 100_000, 25_000)])
    vectors = rotation.apply(rows)
    queries = rotation.apply(open_source(real.query).read(0, 200))
    centroid = vectors.mean(0)
    scanner = SketchScanner(centroid[None], bits, metric)
    codes = encode_sketches(vectors - centroid, bits, threads=2)
    distances = coarse(metric, queries, centroid)
    pairs = [scanner.estimates(q, 0, distances[i], codes) for i, q in enumerate(queries)]
    estimate, bound = (np.stack(part) for part in zip(*pairs, strict=True))
    missed = estimate - exact(metric, queries, vectors)
    # Normal errors are beyond 1.9 standard deviations once in 35 on either side.
    assert 0.02 < (missed > bound).mean() < 0.037
    assert 0.02 < (-missed > bound).mean() < 0.037
    deviation = bound / EPSILON
    assert 0.9 < (missed / deviation).std() < 1.1
    assert abs((missed / deviation).mean()) < 0.03


def test_candidates_worth_refining() -> None:
    found = Candidates.none(2, 4)
    found.entries["estimate"] = [[1, 2, 3, 9], [5, 5, 0, 0]]
    found.entries["error"] = EPSILON / sketch.PRUNING * np.array([[1, 0.5, 1, 0.1], [1, 1, 0, 0]])
    found.entries["place"] = np.arange(8).reshape(2, 4)
    found.counts[:] = 4, 2
    queries, places = found.worth_refining(k=2)  # the second upper bound is 2.5; 3 - 1 is less
    assert (queries.tolist(), places.tolist()) == ([0, 0, 0, 1, 1], [0, 1, 2, 4, 5])
    found.entries["error"][0] /= 10
    assert found.worth_refining(k=2)[1].tolist() == [0, 1, 4, 5]
    assert found.worth_refining(k=4)[1].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("nq", [1, 5])
def test_a_large_scan_is_shared_among_threads(nq: int) -> None:
    """By codes where queries are fewer than threads, with ties among what threads keep."""
    rng, d, size = np.random.default_rng(nq), 96, 20000
    residuals = rng.standard_normal((size, d), np.float32)
    residuals[::3] = residuals[0]
    sketches = encode_sketches(residuals, 1, threads=2)
    lists = lists_of([sketches[:9000], sketches[:0], sketches[9000:]])
    scanner = SketchScanner(np.zeros((6, d), np.float32), 1, Metric.L2)
    queries = residuals[:nq] + np.float32(0.1)
    pairs = Pairs.of(np.tile([5, 3, 1], (nq, 1)), np.ones((nq, 3), np.float32))
    found = []
    for threads in (1, 2, 3, 7):
        candidates = Candidates.none(nq, 300)
        for _ in range(2):  # once more, into what is kept
            scanner.scan(queries, lists, pairs, candidates, threads)
        assert (candidates.counts == 300).all()
        found.append(np.sort(candidates.entries, order=["estimate", "place"], axis=1))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.skipif(compiled.sketching is None, reason="kernels are not compiled")
def test_compiled_kernels_refuse_buffers_that_disagree() -> None:
    assert compiled.sketching is not None
    scan: Callable[..., None] = compiled.sketching.scan

    def f4(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def i8(n: int) -> np.ndarray:
        return np.zeros(n, np.int64)

    codes, kept = np.zeros(6 * sketch_size(8, 1), np.uint8), np.zeros((2, 6), CANDIDATE)
    good = {
        "queries": f4(2, 8),
        "centroids": f4(1, 8),
        "pair_starts": np.array([0, 1]),
        "pair_queries": np.zeros(1, np.int32),
        "pair_nearest": np.ones(1, bool),
        "coarse": f4(1),
        "list_nos": i8(1),
        "sizes": i8(1) + 6,
        "offsets": i8(1),
        "codes": codes,
        "kept": kept.view(np.uint8),
        "counts": i8(2),
        "limits": f4(2) + np.inf,
        "run_nos": i8(1) + 2**31 - 1,
        "bits": np.ones(1, np.uint8),
        "starts": i8(1),
    }
    head = (0, 8, 1, False, 1.9, 3, 2, 0)
    scan(*head, *good.values())
    bad = {
        "queries": f4(3, 8),
        "centroids": f4(1, 7),
        "pair_starts": np.array([1, 0]),
        "pair_queries": np.full(1, 2, np.int32),
        "pair_nearest": np.ones(2, bool),
        "coarse": f4(2),
        "list_nos": i8(1) + 1,
        "sizes": i8(1) + 7,
        "offsets": i8(1) + 1,
        "codes": codes[:-1],
        "kept": kept[:1].view(np.uint8),
        "counts": i8(2) + 4,
        "limits": f4(3),
        "run_nos": i8(1) + 2**31,
        "bits": np.ones(0, np.uint8),
        "starts": i8(1) + 1,
    }
    for name, value in bad.items():
        with pytest.raises(ValueError, match=r"expected|out of range|bytes of bits"):
            scan(*head, *{**good, name: value}.values())
    for wrong in [
        (9, *head[1:]),
        (0, 0, *head[2:]),
        (0, 8, 3, *head[3:]),
        (*head[:5], 0, 2, 0),
        (*head[:6], 0, 0),
    ]:
        with pytest.raises(ValueError, match=r"expected|processor has"):
            scan(*wrong, *good.values())
