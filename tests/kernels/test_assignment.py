"""Assignment and sums: compiled at every level and fallback, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teravec.errors import InvalidArgument
from teravec.kernels.accumulation import accumulate
from teravec.kernels.assignment import CentroidAssigner
from teravec.kernels.panels import half_norms
from teravec.native import extensions as compiled
from tests.kernels.conftest import LEVELS, use

needs_native = pytest.mark.skipif(compiled.native is None, reason="installed without compiler")


def squared(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    x, c = x.astype(np.float64), centroids.astype(np.float64)
    return np.asarray(np.maximum((x**2).sum(1)[:, None] + (c**2).sum(1) - 2 * x @ c.T, 0))


def check_nearest(
    x: np.ndarray, centroids: np.ndarray, found: tuple[np.ndarray, np.ndarray]
) -> None:
    """Every list is nearest up to rounding, and its distance right up to rounding."""
    lists, distance = found
    assert lists.dtype == np.int32
    assert distance.dtype == np.float32
    assert lists.shape == distance.shape == (len(x),)
    if not len(x):
        return
    true = squared(x, centroids)
    scale = (x.astype(np.float64) ** 2).sum(1) + (centroids.astype(np.float64) ** 2).sum(1).max()
    got = true[np.arange(len(x)), lists]
    assert (got - true.min(1) <= 4e-6 * scale + 1e-30).all()
    assert (distance >= 0).all()
    assert (np.abs(distance - got) <= 4e-6 * scale + 1e-30).all()


def clustered(n: int, d: int, seed: int, centers: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(7).standard_normal((centers, d)) * 1.5
    basis = np.random.default_rng(8).standard_normal((8, d))
    x = middles[rng.integers(centers, size=n)] + rng.standard_normal((n, 8)) @ basis
    return (x + 0.2 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.parametrize("d", [1, 7, 96, 100])
@pytest.mark.parametrize("n", [0, 1, 2, 13, 3000])
@pytest.mark.parametrize("nlist", [1, 5, 33, 700])
def test_exact_finds_the_nearest(level: int, n: int, d: int, nlist: int) -> None:
    rng = np.random.default_rng(n + d)
    x = rng.standard_normal((n, d), np.float32)
    centroids = rng.standard_normal((nlist, d), np.float32)
    assigner = CentroidAssigner.exact(centroids)
    assert (assigner.ngroups, assigner.probes, assigner.agreement) == (1, 1, 1.0)
    check_nearest(x, centroids, assigner.assign(x, threads=2))


def test_exact_takes_long_vectors(level: int) -> None:
    rng = np.random.default_rng(0)
    x, centroids = rng.standard_normal((20, 3000)), rng.standard_normal((60, 3000))
    found = CentroidAssigner.exact(centroids).assign(x, threads=1)
    check_nearest(x.astype(np.float32), centroids.astype(np.float32), found)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ties_go_to_the_lowest_list(data: st.DataObject) -> None:
    """Small integers are exact in float32, so every path must give the same lists."""
    n, d = data.draw(st.integers(0, 60)), data.draw(st.integers(1, 20))
    nlist = data.draw(st.integers(1, 90))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = rng.integers(-2, 3, (n, d)).astype(np.float32)
    centroids = rng.integers(-2, 3, (nlist, d)).astype(np.float32)
    centroids = centroids[rng.integers(nlist, size=nlist)]  # with duplicates
    true = squared(x, centroids)
    for level in LEVELS:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, level)
            for assigner in (
                CentroidAssigner.exact(centroids),
                CentroidAssigner.grouped(
                    centroids, seed=1, threads=1, margin=1e6, ngroups=max(1, nlist // 3)
                ),
            ):
                lists, distance = assigner.assign(x, threads=1)
                np.testing.assert_array_equal(lists, true.argmin(1))
                np.testing.assert_array_equal(distance, true.min(1))


def test_duplicates_go_to_the_lowest_list(level: int) -> None:
    if level < 0:
        pytest.skip("BLAS may round equal columns differently")
    rng = np.random.default_rng(3)
    half = rng.standard_normal((300, 37), np.float32)
    centroids = np.concatenate((half, half))[rng.permutation(600)]
    x = rng.standard_normal((2000, 37), np.float32)
    first = np.array([np.flatnonzero((centroids == c).all(1))[0] for c in centroids])
    for assigner in (
        CentroidAssigner.exact(centroids),
        CentroidAssigner.grouped(centroids, seed=0, threads=1, probes=4),
    ):
        lists, _ = assigner.assign(x, threads=1)
        np.testing.assert_array_equal(lists, first[lists])


@pytest.mark.parametrize(("nlist", "d"), [(200, 7), (1000, 96), (1000, 100), (2100, 33)])
def test_all_groups_are_exact(level: int, nlist: int, d: int) -> None:
    x, centroids = clustered(700, d, 1), clustered(nlist, d, 2)
    grouped = CentroidAssigner.grouped(centroids, seed=0, threads=1, margin=1e9)
    assert grouped.probes == grouped.ngroups > 8
    check_nearest(x, centroids, grouped.assign(x, threads=2))
    exact = CentroidAssigner.exact(centroids).assign(x, threads=2)
    if level >= 0:
        np.testing.assert_array_equal(grouped.assign(x, threads=1)[0], exact[0])
        np.testing.assert_array_equal(grouped.assign(x, threads=1)[1], exact[1])


def test_more_groups_than_a_block_of_pairs_holds(level: int) -> None:
    """262144 pairs end a block early; every row still visits all its groups."""
    x, centroids = clustered(3000, 5, 1), clustered(700, 5, 2)
    grouped = CentroidAssigner.grouped(centroids, seed=0, threads=1, margin=1e9, ngroups=300)
    check_nearest(x, centroids, grouped.assign(x, threads=1))


def test_agreement_holds_for_other_vectors(level: int) -> None:
    centroids = clustered(2048, 32, 1)
    assigner = CentroidAssigner.auto(
        centroids, clustered(4000, 32, 2), seed=0, threads=2, min_agreement=0.99
    )
    assert assigner.ngroups > 1
    assert assigner.work < 1200
    assert 1 <= assigner.probes < assigner.ngroups
    assert assigner.agreement >= 0.99
    x = clustered(6000, 32, 3)
    exact, _ = CentroidAssigner.exact(centroids).assign(x, threads=2)
    assert (assigner.assign(x, threads=2)[0] == exact).mean() >= 0.99


def test_auto_is_exact_where_groups_do_not_pay(level: int) -> None:
    rng = np.random.default_rng(0)
    few = rng.standard_normal((100, 8), np.float32)
    assert CentroidAssigner.auto(few, few, seed=0, threads=1).ngroups == 1
    noise = rng.standard_normal((400, 200), np.float32)
    sample = rng.standard_normal((500, 200), np.float32)
    auto = CentroidAssigner.auto(noise, sample, seed=0, threads=1, min_agreement=1.0)
    assert (auto.ngroups, auto.agreement) == (1, 1.0)
    same = np.ones((500, 3), np.float32)
    assert CentroidAssigner.auto(same, same, seed=0, threads=1).ngroups == 1


def test_a_margin_carries_over(level: int) -> None:
    first = CentroidAssigner.grouped(clustered(1000, 16, 1), seed=0, threads=1, probes=6)
    again = CentroidAssigner.grouped(
        clustered(1000, 16, 1) + np.float32(1e-3), seed=0, threads=1, margin=first.margin
    )
    assert first.probes == 6
    assert abs(again.probes - 6) <= 1


@needs_native
@pytest.mark.parametrize("kind", ["exact", "grouped"])
def test_result_depends_on_the_vector_alone(kind: str) -> None:
    x, centroids = clustered(5003, 50, 1), clustered(1500, 50, 2)

    def build(threads: int) -> CentroidAssigner:
        if kind == "exact":
            return CentroidAssigner.exact(centroids)
        return CentroidAssigner.auto(centroids, x[:3000], seed=5, threads=threads)

    one, three = build(1), build(3)
    assert one.margin == three.margin
    whole = one.assign(x, threads=1)
    for lists, distance in (
        three.assign(x, threads=3),
        tuple(
            map(
                np.concatenate,
                zip(
                    *(one.assign(x[i : i + 701], threads=1) for i in range(0, 5003, 701)),
                    strict=True,
                ),
            )
        ),
    ):
        np.testing.assert_array_equal(lists, whole[0])
        np.testing.assert_array_equal(distance, whole[1])


def test_vectors_that_are_not_finite_get_some_list(level: int) -> None:
    centroids = clustered(600, 8, 1)
    x = clustered(50, 8, 2)
    x[3], x[7, 2] = np.nan, np.inf
    grouped = CentroidAssigner.grouped(centroids, seed=0, threads=1, probes=4)
    for assigner in (CentroidAssigner.exact(centroids), grouped):
        with np.errstate(invalid="ignore"):
            lists, _ = assigner.assign(x, threads=1)
        assert ((lists >= 0) & (lists < 600)).all()


def test_other_dtypes_and_layouts(level: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (300, 12)).astype(np.uint8)
    centroids = np.asfortranarray(rng.integers(0, 255, (40, 12)).astype(np.float64))
    expected = squared(x, centroids).argmin(1)
    assigner = CentroidAssigner.exact(centroids)
    np.testing.assert_array_equal(assigner.assign(x, threads=1)[0], expected)
    np.testing.assert_array_equal(assigner.assign(x[::2], threads=1)[0], expected[::2])
    wide = np.zeros((300, 24), np.float32)
    wide[:, ::2] = x
    np.testing.assert_array_equal(assigner.assign(wide[:, ::2], threads=2)[0], expected)


def test_bad_arguments(level: int) -> None:
    good = np.ones((20, 4), np.float32)
    with pytest.raises(InvalidArgument, match="shape"):
        CentroidAssigner.exact(good[0])
    with pytest.raises(InvalidArgument, match="not empty"):
        CentroidAssigner.exact(good[:0])
    with pytest.raises(InvalidArgument, match="finite"):
        CentroidAssigner.exact(good * np.float32(np.nan))
    with pytest.raises(InvalidArgument, match="expected"):
        CentroidAssigner.exact(good).assign(good[:, :3], threads=1)
    with pytest.raises(InvalidArgument, match="dimensions"):
        CentroidAssigner.auto(good, good[:, :3], seed=0, threads=1)
    with pytest.raises(InvalidArgument, match="min_agreement"):
        CentroidAssigner.auto(good, good, seed=0, threads=1, min_agreement=1.5)
    with pytest.raises(InvalidArgument, match="probes"):
        CentroidAssigner.grouped(good, seed=0, threads=1, probes=0)


# ---------------------------------------------------------------------- sums


@pytest.mark.parametrize(("n", "d", "nlist"), [(0, 3, 4), (1, 1, 1), (900, 7, 30), (2000, 100, 5)])
def test_accumulate_adds(level: int, n: int, d: int, nlist: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), np.float32)
    lists = rng.integers(0, nlist, n).astype(np.int32)
    sums, counts = np.ones((nlist, d)), np.full(nlist, 2, np.int64)
    accumulate(x, lists, sums, counts, threads=2)
    expected = np.ones((nlist, d))
    np.add.at(expected, lists, x.astype(np.float64))
    np.testing.assert_allclose(sums, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(counts, np.bincount(lists, minlength=nlist) + 2)
    other, more = np.ones((nlist, d)), np.full(nlist, 2, np.int64)
    accumulate(x, lists, other, more, threads=3)
    np.testing.assert_array_equal(sums, other)


@pytest.mark.parametrize(("n", "d", "nlist"), [(1, 1, 1), (900, 7, 30), (2000, 100, 5)])
def test_accumulate_adds_weighted(level: int, n: int, d: int, nlist: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), np.float32)
    lists = rng.integers(0, nlist, n).astype(np.int32)
    weights = rng.exponential(size=n).astype(np.float32)
    sums = np.zeros((nlist, d))
    accumulate(x, lists, sums, None, threads=2, weights=weights)
    expected = np.zeros((nlist, d))
    np.add.at(expected, lists, x.astype(np.float64) * weights[:, None].astype(np.float64))
    np.testing.assert_allclose(sums, expected, rtol=1e-12, atol=1e-12)
    plain, ones = np.zeros((nlist, d)), np.zeros((nlist, d))
    accumulate(x, lists, plain, None, threads=1)
    accumulate(x, lists, ones, None, threads=1, weights=np.ones(n, np.float32))
    np.testing.assert_array_equal(plain, ones)


def test_accumulate_refuses_what_does_not_fit(level: int) -> None:
    x, sums, counts = np.ones((3, 2), np.float32), np.zeros((4, 2)), np.zeros(4, np.int64)
    lists = np.zeros(3, np.int32)
    for bad in (-1, 4):
        with pytest.raises(InvalidArgument, match="list numbers"):
            accumulate(x, np.array([0, bad, 0], np.int32), sums, counts, threads=1)
    with pytest.raises(InvalidArgument, match="fit"):
        accumulate(x, lists[:2], sums, counts, threads=1)
    with pytest.raises(InvalidArgument, match="fit"):
        accumulate(x, lists[:2], sums, counts, threads=1)
    with pytest.raises(InvalidArgument, match="counts"):
        accumulate(x, lists, sums, counts[:3], threads=1)
    with pytest.raises(InvalidArgument, match="weights"):
        accumulate(x, lists, sums, counts, threads=1, weights=np.ones(2, np.float32))
    with pytest.raises(InvalidArgument, match="float32"):
        accumulate(x, lists, sums.astype(np.float32), counts, threads=1)
    assert not sums.any()


# ---------------------------------------------------------------------- the extension itself


@needs_native
def test_native_checks_every_buffer() -> None:
    assert compiled.native is not None
    native, d, places = compiled.native, 4, compiled.native.panel_places(0)
    f = np.float32
    good: dict[str, Any] = {
        "x": np.zeros((3, d), f),
        "packed": np.zeros((2, d, places), f),
        "half": np.zeros((2, places), f),
        "ids": np.zeros((2, places), np.int32),
        "starts": np.array([0, 1, 2], np.int32),
        "centers": np.zeros((1, d, places), f),
        "center_half": np.zeros((1, places), f),
        "margin": 1.0,
        "out_list": np.zeros(3, np.int32),
        "out_distance": np.zeros(3, f),
    }
    native.assign_grouped(0, d, *good.values())
    exact = ("x", "packed", "half", "out_list", "out_distance")
    native.assign_exact(0, d, *(good[name] for name in exact))
    read_only = np.zeros(3, f)
    read_only.flags.writeable = False
    bad: list[tuple[str, Any]]
    bad = [(name, value[:-1]) for name, value in good.items() if isinstance(value, np.ndarray)]
    bad += [(name, value[..., ::-1]) for name, value in good.items() if name != "margin"]
    bad += [(n, v.astype(np.float64)) for n, v in good.items() if isinstance(v, np.ndarray)]
    bad += [("starts", np.array(s, np.int32)) for s in ([0, 3, 2], [0, -1, 2], [1, 1, 2])]
    bad += [("starts", np.zeros(1, np.int32)), ("starts", np.zeros(99, np.int32))]
    bad += [("out_distance", read_only), ("half", np.zeros(0, f))]
    bad += [("x", np.zeros(49, np.uint8)[1:].view(f).reshape(3, d))]
    for name, value in bad:
        with pytest.raises(ValueError, match=r"."):
            native.assign_grouped(0, d, *{**good, name: value}.values())
        if name in exact:
            with pytest.raises(ValueError, match=r"."):
                native.assign_exact(0, d, *({**good, name: value}[n] for n in exact))
    for level, dimension in ((-1, d), (9, d), (0, 0), (0, -4), (0, 2**40), (0, 3)):
        with pytest.raises(ValueError, match=r"."):
            native.assign_exact(level, dimension, *(good[name] for name in exact))
    with pytest.raises(TypeError):
        native.assign_exact(0, d, None, *(good[name] for name in exact[1:]))


@needs_native
def test_native_accumulate_checks() -> None:
    assert compiled.native is not None
    add = compiled.native.accumulate
    x, lists = np.ones((3, 2), np.float32), np.zeros(3, np.int32)
    sums, counts = np.zeros((4, 2)), np.zeros(4, np.int64)
    add(0, 2, x, None, lists, sums, None, 0, 2)
    assert not counts.any()
    weights = np.ones(3, np.float32)
    for arguments in (
        (weights[:2], lists, sums, counts, 0, 2),
        (weights.astype(np.float64), lists, sums, counts, 0, 2),
    ):
        with pytest.raises(ValueError, match="weights"):
            add(0, 2, x, *arguments)
    for arguments in (
        (x[:2], lists, sums, counts, 0, 2),
        (x, lists, sums.ravel()[:7], counts, 0, 2),
        (x, lists, sums, counts[:3], 0, 2),
        (x, lists, sums, counts, -1, 2),
        (x, lists, sums, counts, 0, 3),
        (x, lists, sums, counts, 2, 1),
        (x, lists + np.int32(4), sums, counts, 0, 2),
        (x, lists - np.int32(1), sums, counts, 0, 2),
    ):
        with pytest.raises(ValueError, match=r"."):
            add(0, 2, arguments[0], None, *arguments[1:])


def test_half_norms_of_equal_rows_are_equal() -> None:
    row = np.random.default_rng(0).standard_normal(101).astype(np.float32)
    assert len(set(half_norms(np.tile(row, (9000, 1))).tolist())) == 1
