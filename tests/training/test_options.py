"""Training options: the rules for what is left open, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teravec.errors import InvalidArgument
from teravec.kernels.metric import Metric
from teravec.training.options import (
    MIN_SAMPLE_PER_LIST,
    TrainOptions,
    TrainPlan,
    auto_nlist,
    plan_training,
)


def plan(ntotal: int = 10_000, d: int = 8, **options: Any) -> TrainPlan:
    return plan_training(TrainOptions(**options), ntotal, d)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nlist": 0}, "nlist is 0; 1 to"),
        ({"nlist": -1}, "nlist is -1"),
        ({"nlist": (1 << 30) + 1}, "nlist is"),
        ({"nlist": 10_001}, "10,000 training vectors for 10,001 lists"),
        ({"nlist": 100, "sample": 99}, "99 training vectors for 100 lists"),
        ({"sample": 0}, "0 training vectors"),
        ({"sample": -5}, "-5 training vectors"),
        ({"niter": 0}, "niter is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"metric": "l1"}, "unknown metric 'l1'; one of l2, ip, cosine"),
        ({"codec": "sq9"}, "unknown codec"),
        ({"codec": "pq0"}, "unknown codec"),
        ({"codec": "pq4x3"}, "unknown codec"),
        ({"codec": "rabitq9"}, "unknown codec"),
        ({"codec": "pq3"}, "divisible by 3; found 8"),
        ({"codec": "pq4", "transform": "pca6"}, "divisible by 4; found 6"),
        ({"codec": "pq4", "sample": 255, "nlist": 2}, "255 training vectors for codec pq4x8"),
        ({"codec": "pq4", "ntotal": 200, "nlist": 2}, "200 training vectors for codec pq4x8"),
        ({"transform": "pca9"}, "more dimensions than 8"),
        ({"transform": "pca0"}, "unknown transform"),
        ({"transform": "pca"}, "unknown transform"),
        ({"transform": "opq"}, "unknown transform"),
    ],
)
def test_invalid_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        plan(**options)


@given(st.integers(1, 10**13), st.integers(1, 10**13))
def test_auto_nlist(a: int, b: int) -> None:
    fewer, more = auto_nlist(min(a, b)), auto_nlist(max(a, b))
    assert 1 <= fewer <= more
    assert more <= max(1, max(a, b) // MIN_SAMPLE_PER_LIST)
    if max(a, b) >= 10**5:
        assert more.bit_count() == 1
        assert 1 / math.sqrt(2) <= more / (4 * math.sqrt(max(a, b))) <= math.sqrt(2)


@given(
    ntotal=st.integers(1, 10**10),
    nlist=st.none() | st.integers(1, 10**6),
    sample=st.none() | st.integers(1, 10**8),
    codec=st.sampled_from(["flat", "sq8", "pq4", "pq2x4", "rabitq1"]),
)
def test_a_plan_fits_its_source_or_is_refused(
    ntotal: int, nlist: int | None, sample: int | None, codec: str
) -> None:
    try:
        found = plan(ntotal, nlist=nlist, sample=sample, codec=codec)
    except InvalidArgument:
        rows = min(ntotal, ntotal if sample is None else sample)
        assert rows < max(nlist or auto_nlist(ntotal), 256 if codec == "pq4" else 16)
        return
    assert found.nlist == (nlist or auto_nlist(ntotal))
    assert found.nlist <= found.sample <= ntotal
    if sample is None:
        assert found.sample >= 0.9 * min(ntotal, MIN_SAMPLE_PER_LIST * found.nlist)
    else:
        assert found.sample == min(sample, ntotal)


@pytest.mark.parametrize("nlist", [None, 500, 5000])
@pytest.mark.parametrize("ntotal", [5000, 10_000, 20_000, 40_000])
def test_a_small_source_leaves_out_what_calibration_wants(ntotal: int, nlist: int | None) -> None:
    left_out = ntotal - plan(ntotal, nlist=nlist, codec="sq8").sample
    assert left_out >= (0 if nlist == ntotal else min(1000, ntotal // 10))


def test_names_are_read_in_any_case_and_defaults_follow_the_codec() -> None:
    found = plan(metric="COSINE", codec="PQ4", transform="PCA4", d=16)
    assert (found.metric, found.codec.name, found.transform.name) == (
        Metric.COSINE,
        "pq4x8",
        "pca4",
    )
    assert (found.d, found.d_index) == (16, 4)
    assert plan(codec="rabitq").transform.name == "rotation"
    assert plan(codec="rabitq", transform="none").transform.name == "none"
    assert plan().transform.name == "none"
    assert plan(nlist=10).sample == 640


def test_source_without_vectors() -> None:
    with pytest.raises(InvalidArgument):
        plan(0)
