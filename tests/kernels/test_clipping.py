"""Vectors outside of a scalar quantizer's range: compiled and NumPy, against the definition."""

from __future__ import annotations

import numpy as np
import pytest

from teravec.kernels.clipping import ScalarRange
from teravec.kernels.codec import Codec, decode, empty_ivf, encode, flat_quantizer, train_codec
from teravec.kernels.metric import Metric
from teravec.native import extensions as compiled

RNG = np.random.default_rng(11)


def trained(name: str, d: int) -> tuple[Codec, np.ndarray, np.ndarray]:
    """A codec, its centroids, and its parameters."""
    codec = Codec.parse(name)
    centroids = (5 * RNG.standard_normal((4, d))).astype(np.float32)
    lists = RNG.integers(0, 4, 3000).astype(np.int32)
    x = centroids[lists] + RNG.standard_normal((3000, d)).astype(np.float32)
    quantizer = flat_quantizer(centroids, Metric.L2)
    return codec, centroids, train_codec(codec, quantizer, Metric.L2, x, lists, 1)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("d", [1, 4, 7, 33])
@pytest.mark.parametrize("name", ["sq8", "sq6", "rabitq2+sq4"])
def test_clipped_are_those_moved_farther_than_any_inside(
    name: str, d: int, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native and compiled.listing is None:
        pytest.skip("installed without compiler")
    if not native:
        monkeypatch.setattr(compiled, "listing", None)
    codec, centroids, parameters = trained(name, d)
    box = ScalarRange.of(codec, parameters)
    assert box is not None
    lists = RNG.integers(0, 4, 5000).astype(np.int32)
    scale = RNG.choice([1.0, 1.5, 2, 4, 20], 5000)[:, None]
    x = (centroids[lists] + scale * RNG.standard_normal((5000, d))).astype(np.float32)
    residuals = (x - centroids[lists]).astype(np.float64)
    low, size = parameters.astype(np.float64).reshape(2, d)
    beyond = ((residuals - np.clip(residuals, low, low + size)) ** 2).sum(1)
    levels = {"sq8": 255, "sq6": 63, "sq4": 15}[codec.fine_name]
    clipped = (beyond > ((size / levels) ** 2).sum() / 4) & (beyond > (residuals**2).sum(1) / 64)
    found = box.clipped(x, lists, centroids, 2)
    assert 500 < found < 4000
    assert abs(found - int(clipped.sum())) <= 2  # float32, at the border
    one_by_one = [box.clipped(x[i : i + 1], lists[i : i + 1], centroids, 1) for i in range(400)]
    assert abs(sum(one_by_one) - int(clipped[:400].sum())) <= 1
    # And codes of others are as near as a step allows.
    ivf = empty_ivf(codec, flat_quantizer(centroids, Metric.L2), Metric.L2, parameters)
    back = decode(ivf, encode(ivf, x, lists, 1), lists.astype(np.int64))
    moved = ((back.astype(np.float64) - x) ** 2).sum(1)
    inside = beyond == 0
    assert moved[inside].max() <= ((size / levels) ** 2).sum() / 4 * 1.01


def test_other_codecs_have_no_range() -> None:
    for name in ("flat", "fp16", "pq4", "rabitq1", "rabitq2+fp16"):
        assert ScalarRange.of(Codec.parse(name), np.zeros(8, np.float32)) is None


def test_the_extremes_of_ordinary_vectors_do_not_count() -> None:
    codec, centroids, parameters = trained("sq8", 48)
    box = ScalarRange.of(codec, parameters)
    assert box is not None
    lists = np.zeros(20000, np.int32)
    x = centroids[lists] + RNG.standard_normal((20000, 48)).astype(np.float32)
    assert box.clipped(x, lists, centroids, 1) < 20
