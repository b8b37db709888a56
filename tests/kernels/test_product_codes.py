"""Product quantizers are as good as Faiss's; kept codes and graphs have no level of Faiss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
import pytest

from teravec.kernels.codec import Codec, decode, empty_ivf, encode, flat_quantizer, train_codec
from teravec.kernels.faiss_threads import faiss_threads
from teravec.kernels.hnsw import build_hnsw, save_hnsw
from teravec.kernels.metric import Metric
from teravec.kernels.product_codes import train_product

FAISS_LEVELS = [
    level
    for level in (faiss.SIMDLevel_NONE, faiss.SIMDLevel_AVX2, faiss.SIMDLevel_AVX512)
    if faiss.SIMDConfig.is_simd_level_available(level)
]


@contextmanager
def faiss_at(level: int) -> Iterator[None]:
    before = faiss.SIMDConfig.get_level()
    faiss.SIMDConfig.set_level(level)
    try:
        yield
        assert faiss.SIMDConfig.get_level() == level  # what holds Faiss gives it back
    finally:
        faiss.SIMDConfig.set_level(before)


def some(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(d)
    near = rng.standard_normal((n, 6)) @ rng.standard_normal((6, d))
    return np.asarray(near + 0.2 * rng.standard_normal((n, d)), np.float32)


@pytest.mark.parametrize("name", ["pq4x6", "pq24x4", "pq3x8"])
def test_errors_and_codes_are_those_of_faiss(name: str) -> None:
    codec, x = Codec.parse(name), some(6000, 24)
    quantizer = flat_quantizer(x[:4].copy(), Metric.L2)
    lists = np.arange(6000, dtype=np.int32) % 4
    parameters = train_codec(codec, quantizer, Metric.L2, x, lists, 2)
    ivf = empty_ivf(codec, quantizer, Metric.L2, parameters)
    codes = encode(ivf, x, lists, 2)
    theirs = empty_ivf(codec, quantizer, Metric.L2)
    theirs.pq.cp.min_points_per_centroid = 1
    with faiss_threads(1):
        theirs.pq.train(x - x[lists])
    wanted = np.zeros_like(codes)
    keys = lists.astype(np.int64)
    ivf.encode_vectors(len(x), *map(faiss.swig_ptr, (x, keys, wanted)))
    assert (codes == wanted).all(axis=1).mean() > 0.999  # equally near centroids aside
    trained = empty_ivf(codec, quantizer, Metric.L2, faiss.vector_to_array(theirs.pq.centroids))
    ours, best = (
        float(((decode(each, encode(each, x, lists, 1), keys) - x) ** 2).sum())
        for each in (ivf, trained)
    )
    assert ours < 1.1 * best  # Faiss with four seeds: 9 % between the best and the worst


def test_few_and_equal_vectors_train() -> None:
    x = np.repeat(some(10, 8), 20, axis=0)
    found = train_product(x, 2, 5, 1, lambda _: None).reshape(2, 32, 4)
    for part, columns in zip(found, (x[:, :4], x[:, 4:]), strict=True):
        apart = np.abs(columns[:, None] - part).max(axis=2).min(axis=1)
        assert apart.max() < 1e-6  # every vector has a centroid of its own


def test_training_does_not_depend_on_threads() -> None:
    x = some(3000, 12)
    one, four = (train_product(x, 3, 6, threads, lambda _: None) for threads in (1, 4))
    np.testing.assert_array_equal(one, four)


@pytest.mark.parametrize("name", ["rabitq1", "rabitq4", "sq8", "sq6", "fp16", "pq10"])
def test_codes_do_not_depend_on_the_level_of_faiss(name: str) -> None:
    codec, x = Codec.parse(name), some(3000, 50)
    quantizer = flat_quantizer(x[:8].copy(), Metric.L2)
    lists = np.arange(3000, dtype=np.int32) % 8
    found = set()
    for level in FAISS_LEVELS:
        with faiss_at(level):
            parameters = train_codec(codec, quantizer, Metric.L2, x[:-1], lists[:-1], 1)
            ivf = empty_ivf(codec, quantizer, Metric.L2, parameters)
            found.add((parameters.tobytes(), encode(ivf, x, lists, 1).tobytes()))
    assert len(found) == 1


def test_graphs_do_not_depend_on_the_level_of_faiss() -> None:
    graphs = set()
    for level in FAISS_LEVELS:
        with faiss_at(level):
            graphs.add(save_hnsw(build_hnsw(some(2000, 128))))
    assert len(graphs) == 1
