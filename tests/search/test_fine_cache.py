"""The cache of finer codes: what it gives is what was kept, within its bytes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.native import extensions as compiled
from teravec.search.fine_cache import FineCache
from tests.kernels.conftest import LEVELS

UNIT = 64


def unit(number: int) -> np.ndarray:
    """The bytes of a unit, made from its number."""
    return np.random.default_rng(number).integers(0, 256, UNIT, np.uint8)


def kept(cache: FineCache, units: np.ndarray) -> np.ndarray:
    """Which units are kept; checks their bytes."""
    begins = cache.find(units)
    for number, begin in zip(
        units[begins >= 0].tolist(), begins[begins >= 0].tolist(), strict=True
    ):
        np.testing.assert_array_equal(cache.buffer[begin : begin + UNIT], unit(number))
    return begins >= 0


@settings(max_examples=50, deadline=None)
@given(
    nunits=st.integers(1, 60),
    places=st.integers(0, 80),
    native=st.booleans(),
    wanted=st.lists(st.lists(st.integers(0, 59), max_size=30), max_size=12),
)
def test_what_is_kept_is_the_unit(
    nunits: int, places: int, native: bool, wanted: list[list[int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(compiled, "paging", None)
        cache = FineCache(nunits, UNIT, places * (UNIT + 9) + 3)
        read = np.concatenate([unit(number) for number in range(nunits)])
        for some in wanted:
            units = np.array(some, np.int64) % nunits
            new = units[~kept(cache, units)]  # with what is there twice
            cache.keep(new, read, new * UNIT)
            if places >= nunits + 16:  # room for all: what was wanted is there
                assert kept(cache, units).all()
        assert cache.memory_bytes <= places * (UNIT + 9) + 3


def test_a_unit_that_is_wanted_is_spared() -> None:
    cache = FineCache(100, UNIT, UNIT + 9)  # one place
    one, other, begin = np.array([3]), np.array([13]), np.array([0])
    cache.keep(one, unit(3), begin)
    assert kept(cache, one).all()
    cache.keep(other, unit(13), begin)
    assert kept(cache, one).all()
    for _ in range(4):
        cache.keep(other, unit(13), begin)
    assert kept(cache, other).all()


@pytest.mark.skipif(compiled.paging is None, reason="kernels are not compiled")
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), places=st.integers(1, 60))
def test_python_keeps_what_the_kernel_keeps(seed: int, places: int) -> None:
    rng = np.random.default_rng(seed)
    caches = [FineCache(200, UNIT, places * (UNIT + 9)) for _ in range(2)]
    read = np.concatenate([unit(number) for number in range(200)])
    steps, begins = [rng.integers(0, 200, 40) for _ in range(12)], []
    for cache, native in zip(caches, (True, False), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            if not native:
                patch.setattr(compiled, "paging", None)
            for units in steps:
                new = units[~kept(cache, np.unique(units))[np.unique(units).searchsorted(units)]]
                cache.keep(new, read, new * UNIT)
                begins.append(cache.find(np.arange(200)))
    for one, other in zip(begins[: len(steps)], begins[len(steps) :], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("native", [level >= 0 for level in LEVELS[:2]])
def test_what_is_being_read_stays(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(compiled, "paging", None)
    cache = FineCache(50, UNIT, 5 * (UNIT + 9))
    units = np.repeat(np.arange(50, dtype=np.uint8), UNIT)
    wrong = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            numbers = np.unique(rng.integers(0, 50, 8))
            with cache.steady:
                begins = cache.find(numbers)
                there = np.flatnonzero(begins >= 0)
                found = cache.buffer[begins[there, None] + np.arange(UNIT)]
                wrong.append((found != numbers[there, None]).sum())
            new = numbers[begins < 0]
            cache.keep(new, units, new * UNIT)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wrong) == 0


@pytest.mark.skipif(compiled.paging is None, reason="kernels are not compiled")
def test_kernels_refuse_buffers_that_disagree() -> None:
    assert compiled.paging is not None
    tags, wanted, units = np.full(4, -1), np.zeros(4, np.uint8), np.array([1, 2])
    buffer, begins = np.zeros(4 * UNIT, np.uint8), np.array([0, UNIT])
    cache = 2, UNIT, tags, wanted
    compiled.paging.keep(*cache, units, buffer, buffer.copy(), begins)
    for bad in [
        (0, UNIT, tags, wanted, units),
        (3, UNIT, tags, wanted, units),
        (5, UNIT, tags, wanted, units),
        (*cache[:3], wanted[:3], units),
        (*cache, -units),
    ]:
        with pytest.raises(ValueError, match="expected"):
            compiled.paging.find(*bad, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="expected"):
        compiled.paging.find(*cache, units, np.zeros(3, np.int64))
    for kept_, read, at in [
        (buffer[1:], buffer, begins),
        (buffer, buffer[:UNIT], begins),
        (buffer, buffer, begins - 1),
        (buffer, buffer, begins[:1]),
    ]:
        with pytest.raises(ValueError, match=r"expected|begins"):
            compiled.paging.keep(*cache, units, kept_, read, at)
