"""Which lists are visited next: compiled and in NumPy, the same decisions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.native import extensions
from teravec.native.waves import RankedLists, SpreadTable


def draw(seed: int, *, products: bool, spread: bool) -> RankedLists:
    rng = np.random.default_rng(seed)
    nq, nlist, k = int(rng.integers(1, 6)), int(rng.integers(1, 60)), int(rng.integers(1, 20))
    n = int(rng.integers(1, nlist + 1))
    list_nos = np.array([rng.permutation(nlist)[:n] for _ in range(nq)])
    distances = np.sort(rng.standard_gamma(20, (nq, n)), 1).astype(np.float32)
    list_nos[rng.random(list_nos.shape) < 0.1] = -1
    distances[list_nos < 0] = np.inf
    sizes = rng.integers(0, 200, nlist)
    counts = np.minimum(sizes, rng.poisson(rng.choice([0.05, 1, 30]), nlist))
    table = None
    if spread:
        shares = np.sort(rng.random((3, 40)), 1)[:, ::-1].copy() ** 4
        table = SpreadTable(float(rng.random() * 9), -1.0, 0.05, shares)
    lengths = None
    if products:
        distances, lengths = -distances / np.float32(20), rng.random(nq) + 0.5
    total = int(counts.sum())
    bands = np.minimum(np.arange(n) // 4, 2).astype(np.int32)
    columns = list_nos, distances, counts, sizes, total, bands, table, lengths
    return RankedLists(min(k, max(total, 1)), float(rng.random() * k), *columns)


@pytest.mark.skipif(extensions.waving is None, reason="not compiled")
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.booleans())
def test_compiled_and_in_numpy(seed: int, products: bool, spread: bool) -> None:
    lists = draw(seed, products=products, spread=spread)
    rng = np.random.default_rng(seed + 1)
    nq, n = lists.list_nos.shape
    visited = rng.integers(-1, n + 1, nq)
    nearest = lists.distances[:, 0].astype(np.float64)
    thresholds = np.where(rng.random(nq) < 0.2, np.nan, nearest * (rng.random(nq) + 0.5))
    found = lists.first(3), *lists.further(thresholds, visited)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extensions, "waving", None)
        expected = lists.first(3), *lists.further(thresholds, visited)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (found[1] >= visited).all()
    assert (found[1] <= n).all()
