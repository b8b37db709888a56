"""Finer codes are compared as Faiss decodes them, at every level; so are others' steps in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.kernels.codec import Codec, empty_ivf, encode, flat_quantizer, train_codec
from teravec.kernels.fine_codes import FineCodes
from teravec.kernels.metric import Metric
from teravec.kernels.sketch import CANDIDATE, Candidates
from teravec.native import extensions as compiled
from teravec.search.candidates import best_k
from tests.kernels.conftest import LEVELS, use

NLIST, N, NQ = 5, 400, 7


def fine_codes(d: int, name: str, metric: Metric) -> tuple[FineCodes, dict[str, np.ndarray]]:
    """What compares codes, and pairs to compare: rows lie at odd bytes, some pairs are left out."""
    rng = np.random.default_rng([d, len(name)])
    centroids = rng.standard_normal((NLIST, d)).astype(np.float32) * 3
    list_nos = rng.integers(0, NLIST, N).astype(np.int32)
    vectors = centroids[list_nos] + rng.standard_normal((N, d)).astype(np.float32)
    codec = Codec.parse(f"rabitq1+{name}")
    quantizer = flat_quantizer(centroids, metric)
    parameters = train_codec(codec, quantizer, metric, vectors, list_nos, 1)
    ivf: Any = empty_ivf(codec, quantizer, metric, parameters)
    codes = encode(ivf, vectors, list_nos, 1)
    ids = rng.integers(0, 1 << 62, N)
    rows = np.concatenate([codes, ids[:, None].view(np.uint8)], axis=1)
    which = rng.permutation(N)
    begins = 3 + which * rows.shape[1]
    begins[::9] = -1
    pairs = {
        "queries": vectors[:NQ] + np.float32(0.3),
        "owners": rng.integers(0, NQ, N),
        "places": (list_nos[which].astype(np.int64) << 32) + which,
        "rows": np.concatenate([np.zeros(3, np.uint8), rows.ravel()]),
        "begins": begins,
        "distances": np.full(N, np.nan, np.float32),
        "ids": np.full(N, -5),
    }
    return FineCodes(codec, metric, centroids, parameters, lambda: ivf), pairs


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize("name", ["flat", "fp16", "sq8", "sq6", "sq4"])
@pytest.mark.parametrize("d", [1, 5, 16, 23, 96])
def test_levels_compare_as_faiss_decodes(
    d: int, name: str, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, pairs = fine_codes(d, name, metric)
    monkeypatch.setattr(compiled, "refining", None)
    codes.compare(**pairs)
    monkeypatch.undo()
    there, queries = pairs["begins"] >= 0, pairs["queries"]
    assert np.isnan(pairs["distances"][~there]).all()
    assert (pairs["ids"][~there] == -5).all()
    scale = float(np.abs(queries).max()) ** 2 * d
    for level in LEVELS:
        use(monkeypatch, level)
        found = {"distances": np.full(N, np.nan, np.float32), "ids": np.full(N, -5)}
        codes.compare(**{**pairs, **found})
        np.testing.assert_array_equal(found["ids"], pairs["ids"])
        np.testing.assert_allclose(
            found["distances"], pairs["distances"], rtol=1e-5, atol=1e-6 * scale
        )
        # One pair alone gives the same bits.
        for i in np.flatnonzero(there)[::50].tolist():
            one = {
                key: value[i : i + 1] if len(value) == N else value for key, value in pairs.items()
            }
            one["distances"], one["ids"] = np.zeros(1, np.float32), np.zeros(1, np.int64)
            codes.compare(**one)
            assert one["distances"][0] == found["distances"][i]
        monkeypatch.undo()


@pytest.mark.skipif(compiled.refining is None, reason="kernels are not compiled")
def test_comparing_refuses_buffers_that_disagree() -> None:
    codes, good = fine_codes(16, "sq8", Metric.L2)
    codes.compare(**good)
    for name, value in {
        "queries": good["queries"][:3],
        "owners": good["owners"] - 1,
        "places": good["places"] + (NLIST << 32),
        "rows": good["rows"][:-40],
        "begins": good["begins"] - 4,
        "distances": good["distances"][:-1],
        "ids": good["ids"][1:],
    }.items():
        with pytest.raises(ValueError, match=r"expected|out of range"):
            codes.compare(**{**good, name: value})


def candidates(seed: int, nq: int, capacity: int) -> Candidates:
    """Candidates whose bounds often are equal."""
    rng = np.random.default_rng(seed)
    found = Candidates.none(nq, capacity)
    found.counts[:] = rng.integers(0, capacity + 1, nq)
    for name in ("estimate", "error"):
        found.entries[name] = rng.integers(0, 40, found.entries.shape) / 4
    found.entries["place"] = rng.integers(0, 1 << 40, found.entries.shape)
    assert found.room.dtype == CANDIDATE
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    nq=st.integers(0, 6),
    capacity=st.integers(1, 60),
    k=st.integers(1, 70),
)
def test_the_kernel_chooses_as_numpy(seed: int, nq: int, capacity: int, k: int) -> None:
    found = candidates(seed, nq, capacity)
    chosen = [*found.worth_refining(k), *found.every()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "refining", None)
        expected = [*found.worth_refining(k), *found.every()]
    for one, other in zip(chosen, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    nq=st.integers(1, 6),
    n=st.integers(0, 80),
    k=st.integers(1, 40),
    metric=st.sampled_from([Metric.L2, Metric.IP]),
)
def test_the_kernel_finds_the_best_as_numpy(
    seed: int, nq: int, n: int, k: int, metric: Metric
) -> None:
    rng = np.random.default_rng(seed)
    distances = (rng.integers(-9, 9, n) / 4).astype(np.float32)
    results = rng.integers(0, nq, n), distances, rng.integers(0, 30, n)
    found = best_k(nq, k, *results, metric)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "refining", None)
        expected = best_k(nq, k, *results, metric)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
