"""Whether what is kept of vectors tells them apart."""

from __future__ import annotations

import numpy as np
import pytest

from teravec.training.apart import Kept, checked_places

RNG = np.random.default_rng(5)


def kept(exact: np.ndarray, dtype: type = np.float32) -> Kept:
    return Kept(exact, exact.astype(dtype).astype(exact.dtype), "it", lambda i: f"row {i}")


@pytest.mark.parametrize("d", [1, 3, 40])
def test_ordinary_float64_is_kept(d: int) -> None:
    for exact in (
        RNG.standard_normal((128, d)),
        RNG.uniform(0, 1, (128, d)),
        RNG.integers(0, 10**6, (128, d)).astype(np.float64),
        1000 + RNG.standard_normal((128, d)),
        np.repeat(RNG.standard_normal((4, d)), 32, axis=0),
        np.zeros((128, d)),
    ):
        some = kept(exact)
        assert some.is_lost() is some.is_coarse() is some.is_too_near(unit=False) is None


def test_what_rounding_takes() -> None:
    near = RNG.standard_normal((128, 6))
    for exact in (near + 1e9, near * 3 - 2.0**30, np.vstack([near[:64], near[64:] + 3e9])):
        assert "row" in str(kept(exact).is_lost())
    coarse = kept(near + 3e6)
    assert coarse.is_lost() is None
    assert "some of what" in str(coarse.is_coarse())
    assert kept(near * 1e-250).is_lost() is not None  # zeros in float32
    assert kept(near.astype(np.float32) * np.float32(1e-8), np.float16).is_lost() is not None
    assert kept(near.astype(np.float32) + np.float32(9000), np.float16).is_lost() is not None
    assert kept(near.astype(np.float32), np.float16).is_coarse() is None


def test_what_squares_and_cosines_take() -> None:
    near = RNG.standard_normal((128, 6)).astype(np.float32)
    assert "scale" in str(kept(near * np.float32(1e-22)).is_too_near(unit=False))
    assert kept(near * np.float32(1e-12)).is_too_near(unit=False) is None
    few = near.copy()
    few[:20] *= np.float32(1e-28)
    few[20:40] = 0
    assert kept(few).is_too_near(unit=False) is None
    unit = near + np.float32(1e5)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert "l2" in str(kept(unit).is_too_near(unit=True))


def test_places() -> None:
    assert checked_places(5).tolist() == [0, 1, 2, 3, 4]
    places = checked_places(10**12)
    assert len(places) == 128
    assert places[0] == 0
    assert places[-1] < 10**12
