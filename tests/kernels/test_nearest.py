"""The k smallest values and the nearest lists, against sorting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from teravec.errors import InvalidArgument
from teravec.kernels.metric import Metric
from teravec.kernels.nearest import ExactQuantizer, smallest_k
from teravec.native import extensions as compiled
from tests.kernels.conftest import LEVELS, use


def check(scores: np.ndarray, k: int, threads: int = 1) -> None:
    index, value = smallest_k(scores, k, threads=threads)
    expected = np.argsort(scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(value, np.take_along_axis(scores, expected, axis=1))
    assert index.dtype == np.int32
    assert value.dtype == np.float32


@pytest.mark.parametrize("m", [1, 2, 63, 64, 1000, 5000, 70000])
@pytest.mark.parametrize("kind", ["normal", "few values", "rising", "falling", "infinite", "same"])
def test_smallest_k_sorts(level: int, m: int, kind: str) -> None:
    rng = np.random.default_rng(m)
    n = 3 if m < 70000 else 1
    scores = rng.standard_normal((n, m), np.float32)
    if kind == "few values":
        scores = (
            np.round(scores * 2)
            * np.float32(0.5)
            * rng.choice(np.array([1, -1], np.float32), (n, m))
        )
    elif kind in ("rising", "falling"):
        scores = np.sort(scores, axis=1)[:, :: 1 if kind == "rising" else -1].copy()
    elif kind == "infinite":
        scores[rng.random((n, m)) < 0.9] = np.inf
        scores[rng.random((n, m)) < 0.01] = -np.inf
    elif kind == "same":
        scores[:] = 1
    for k in (1, 2, 10, 64, 1000, 70000):
        if k <= m:
            check(scores, k)


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 4), st.integers(1, 700)),
        elements=st.floats(width=32) | st.sampled_from([0.0, -0.0, np.inf, -np.inf]),
    ),
)
def test_smallest_k_of_any_values(data: st.DataObject, scores: np.ndarray) -> None:
    """NaN last, and minus zero equal to zero, as NumPy sorts."""
    k = data.draw(st.integers(1, scores.shape[1]))
    for level in LEVELS:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, level)
            check(scores, k)


def test_smallest_k_on_threads(level: int) -> None:
    check(np.random.default_rng(0).standard_normal((500, 2000), np.float32), 7, threads=3)


def test_smallest_k_refuses(level: int) -> None:
    scores = np.zeros((2, 5), np.float32)
    for k in (0, 6, -1):
        with pytest.raises(InvalidArgument, match="k is"):
            smallest_k(scores, k)
    with pytest.raises(InvalidArgument, match="shape"):
        smallest_k(scores[0], 1)


@pytest.mark.skipif(compiled.native is None, reason="installed without compiler")
def test_native_smallest_k_checks_every_buffer() -> None:
    assert compiled.native is not None
    f = np.float32
    scores, index, value = np.zeros((2, 5), f), np.zeros((2, 3), np.int32), np.zeros((2, 3), f)
    compiled.native.smallest_k(0, 5, 3, scores, index, value)
    for arguments in (
        (0, 5, 3, scores.ravel()[:9], index, value),
        (0, 5, 3, scores, index[:1], value),
        (0, 5, 3, scores, index, value[:1]),
        (0, 5, 6, scores, index, value),
        (0, 5, 0, scores, index, value),
        (0, 0, 0, scores, index, value),
        (0, -5, 3, scores, index, value),
        (9, 5, 3, scores, index, value),
        (0, 5, 3, scores, value, index),
        (0, 5, 3, scores.astype(np.float64), index, value),
    ):
        with pytest.raises(ValueError, match=r"."):
            compiled.native.smallest_k(*arguments)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize(
    ("nq", "nlist", "d"), [(0, 5, 3), (1, 1, 1), (1, 900, 96), (5, 40, 3), (300, 777, 7)]
)
def test_exact_quantizer(level: int, metric: Metric, nq: int, nlist: int, d: int) -> None:
    rng = np.random.default_rng(0)
    queries = rng.integers(-9, 10, (nq, d)).astype(np.float32)  # exact in float32
    centroids = rng.integers(-9, 10, (nlist, d)).astype(np.float32)
    quantizer = ExactQuantizer(centroids, metric)
    for nprobe in {1, (nlist + 1) // 2, nlist}:
        lists, distance = quantizer.search(queries, nprobe, threads=2)
        products = queries.astype(np.float64) @ centroids.T.astype(np.float64)
        norms = (queries**2).sum(1)[:, None] + (centroids**2).sum(1)
        true = norms - 2 * products if metric is Metric.L2 else -products
        expected = np.argsort(true, axis=1, kind="stable")[:, :nprobe]
        np.testing.assert_array_equal(lists, expected)
        best = np.take_along_axis(true, expected, axis=1)
        np.testing.assert_array_equal(distance, best if metric is Metric.L2 else -best)
        assert lists.dtype == np.int64
        assert distance.dtype == np.float32


def test_exact_quantizer_does_not_see_the_batch(level: int) -> None:
    if level < 0:
        pytest.skip("the fallback's rounding is that of BLAS, which sees the batch")
    rng = np.random.default_rng(1)
    q, c = rng.standard_normal((50, 9), np.float32), rng.standard_normal((300, 9), np.float32)
    quantizer = ExactQuantizer(c, Metric.L2)
    together = quantizer.search(q, 20, threads=3)
    for i in range(len(q)):
        alone = quantizer.search(q[i : i + 1], 20, threads=1)
        np.testing.assert_array_equal(alone[0][0], together[0][i])
        np.testing.assert_array_equal(alone[1][0], together[1][i])


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize("d", [1, 9, 96])
@pytest.mark.parametrize("kind", ["normal", "close", "equal", "large", "zero"])
def test_one_query_by_bytes_finds_the_same(level: int, metric: Metric, d: int, kind: str) -> None:
    """Bit for bit what all floats give, though few of them are looked at."""
    if level < 1:
        pytest.skip("bytes are not compared at this level")
    rng = np.random.default_rng(d)
    q, c = rng.standard_normal((30, d), np.float32), rng.standard_normal((700, d), np.float32)
    if kind == "close":  # bytes do not tell most of them apart
        c = c * np.float32(1e-4) + np.float32(1)
    elif kind == "equal":
        c = c[rng.integers(0, 5, len(c))]
    elif kind == "large":
        q, c = q * np.float32(1e18), c * np.float32(1e15)
    elif kind == "zero":
        q[::2], c = 0, c * 0
    quantizer = ExactQuantizer(c, metric, bytes_from=0)
    for nprobe in (1, 20, 700):
        together = quantizer.search(q, nprobe, threads=1)
        for i in range(len(q)):
            alone = quantizer.search(q[i : i + 1], nprobe, threads=1)
            np.testing.assert_array_equal(alone[0][0], together[0][i])
            np.testing.assert_array_equal(alone[1][0], together[1][i])


def test_exact_quantizer_in_blocks(level: int) -> None:
    rng = np.random.default_rng(1)
    q, c = rng.standard_normal((50, 9), np.float32), rng.standard_normal((300, 9), np.float32)
    quantizer = ExactQuantizer(c, Metric.L2, score_floats=1000)
    lists, distance = quantizer.search(q, 20, threads=1)
    true = ((q[:, None].astype(np.float64) - c) ** 2).sum(2)
    np.testing.assert_array_equal(lists, np.argsort(true, axis=1)[:, :20])
    np.testing.assert_allclose(distance, np.sort(true, axis=1)[:, :20], rtol=1e-4, atol=1e-4)


def test_exact_quantizer_refuses() -> None:
    quantizer = ExactQuantizer(np.zeros((4, 3), np.float32), Metric.L2)
    with pytest.raises(InvalidArgument, match="nprobe"):
        quantizer.search(np.zeros((2, 3), np.float32), 5, threads=1)
    with pytest.raises(InvalidArgument, match="fit"):
        quantizer.search(np.zeros((2, 2), np.float32), 1, threads=1)


@pytest.mark.skipif(compiled.native is None, reason="the kernels are not compiled")
def test_compiled_nearest_checks_its_buffers() -> None:
    native, level = compiled.native, compiled.level
    assert native is not None
    places = native.panel_places(level)
    x, packed = np.zeros((2, 3), np.float32), np.zeros((1, 3, places), np.float32)
    half, lists = np.zeros((1, places), np.float32), np.zeros((2, 2), np.int64)
    value, none = np.zeros((2, 2), np.float32), (None, None, None)
    coded = np.zeros((1, 3), np.float32), np.zeros(-(-places // 16) * 64, np.uint8)
    bounds = np.zeros(4, np.float32)
    one, found = x[:1], (lists[:1, :1].copy(), value[:1, :1].copy())
    native.nearest(level, 3, 1, False, 2, one, packed, half, *coded, bounds, *found)
    for bad in (
        (coded[0], coded[1], bounds[:3]),
        (coded[0], coded[1][1:], bounds),
        (coded[0][:, :2].copy(), coded[1], bounds),
        (np.zeros((places + 1, 3), np.float32), coded[1], bounds),
        (np.zeros((0, 3), np.float32), coded[1], bounds),
    ):
        with pytest.raises(ValueError, match=r"elements|k is|aligned"):
            native.nearest(level, 3, 1, False, 2, one, packed, half, *bad, *found)
    native.nearest(level, 3, 2, False, 2, x, packed, half, *none, lists, value)
    cases: list[tuple[Any, ...]] = [
        (level, 4, 2, False, 2, x, packed, half, *none, lists, value),
        (level, 3, 3, False, 2, x, packed, half, *none, lists, value),
        (level, 3, 0, False, 2, x, packed, half, *none, lists, value),
        (level, 3, 2, False, 2, x, packed[:, :2].copy(), half, *none, lists, value),
        (level, 3, 2, False, 2, x, packed, half, *none, lists[:1], value),
        (level, 3, 2, False, 2, x, packed, half, *none, lists.astype(np.int32), value),
        (level, 3, 2, False, 0, x, packed, half, *none, lists, value),
        (9, 3, 2, False, 2, x, packed, half, *none, lists, value),
    ]
    for bad in cases:
        with pytest.raises(ValueError, match=r"elements|level|k is|threads"):
            native.nearest(*bad)
