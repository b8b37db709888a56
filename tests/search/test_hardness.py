"""Lists chosen by the hardness of a query: by hand, independent of the batch, within its bounds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import teravec
from teravec.errors import InvalidArgument
from teravec.index.hardness import MOST_HARDER, Hardness
from teravec.kernels.metric import Metric
from teravec.search.effort import Effort
from teravec.search.probing import choose_lists, measure_hardness
from teravec.serving.wire.harder import read_harder, write_harder
from tests.conftest import clustered

NLIST, D = 300, 8
CENTROIDS = clustered(NLIST, D, 0)


def nearest_of(metric: Metric, asked: list[int] | None = None):  # type: ignore[no-untyped-def]
    """A coarse quantizer in NumPy, that notes how many lists it was asked for."""

    def nearest(queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        if asked is not None:
            asked.append(n)
        values = np.empty((len(queries), NLIST), np.float32)
        for row, query in enumerate(queries):  # no product whose rounding depends on the batch
            if metric.larger_is_closer:
                values[row] = -(CENTROIDS * query).sum(1)
            else:
                values[row] = ((CENTROIDS - query) ** 2).sum(1)
        order = np.argsort(values, axis=1, kind="stable")[:, :n]
        best = np.take_along_axis(values, order, 1)
        return order.astype(np.int64), -best if metric.larger_is_closer else best

    return nearest


def some_queries(metric: Metric, seed: int) -> np.ndarray:
    queries = clustered(9, D, seed + 1)
    queries[3:] *= np.array([[0.1], [0.5], [2], [5], [20], [0]], np.float32)
    if metric is Metric.COSINE:
        queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-9)
    return np.ascontiguousarray(queries, np.float32)


def hardness_of(metric: Metric) -> tuple[float, Hardness]:
    queries = some_queries(metric, 40)[:3]
    prune, hardness = measure_hardness(nearest_of(metric)(queries, 64)[1], queries, metric)
    assert hardness is not None
    return prune, hardness


@settings(deadline=None)
@given(metric=st.sampled_from(list(Metric)), usual=st.integers(1, NLIST), seed=st.integers(0, 9))
def test_what_is_visited_depends_on_the_query_alone(metric: Metric, usual: int, seed: int) -> None:
    queries, nearest = some_queries(metric, seed), nearest_of(metric)
    prune, hardness = hardness_of(metric)
    effort = Effort.adaptive(usual, prune, hardness, NLIST)
    options = {"usual": usual, "prune": prune, "most": effort.nprobe}
    chosen, values = choose_lists(nearest, queries, metric, hardness, **options)  # type: ignore[arg-type]
    order, distances = nearest(queries, NLIST)
    visited = (chosen >= 0).sum(axis=1)
    assert visited.min() >= 1
    assert visited.max() == chosen.shape[1] <= effort.nprobe
    for row, count in enumerate(visited.tolist()):
        np.testing.assert_array_equal(chosen[row, :count], order[row, :count])
        np.testing.assert_array_equal(values[row, :count], distances[row, :count])
        one = queries[row : row + 1]
        alone, _ = choose_lists(nearest, one, metric, hardness, **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(alone[0], chosen[row, :count])
    most = min(effort.nprobe, 2 * usual)
    options |= {"usual": most, "most": min(NLIST, MOST_HARDER * most)}
    more, _ = choose_lists(nearest, queries, metric, hardness, **options)  # type: ignore[arg-type]
    assert ((more >= 0).sum(axis=1) >= visited).all()


def test_the_rule_by_hand() -> None:
    """With neither gaps nor crowding in the rule, the usual nprobe; with crowding, its multiple."""
    asked: list[int] = []
    queries = some_queries(Metric.L2, 3)
    nearest = nearest_of(Metric.L2, asked)
    plain = Hardness(1.0, 0.0, np.log(64), np.log(64), 0.5, 1.0)  # each of 64 lists counts as one
    chosen, _ = choose_lists(nearest, queries, Metric.L2, plain, usual=70, prune=0.0, most=300)
    assert (asked, chosen.shape) == ([70], (9, 70))
    harder = Hardness(1.0, 0.0, np.log(64) - 2, np.log(64), 0.5, 1.0)
    chosen, _ = choose_lists(nearest, queries, Metric.L2, harder, usual=70, prune=0.0, most=300)
    assert (asked[1:], chosen.shape) == ([70, 280], (9, int(70 * np.e)))
    most = Hardness(1.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    chosen, _ = choose_lists(nearest, queries, Metric.L2, most, usual=9, prune=0.0, most=72)
    assert chosen.shape == (9, 72)


def test_gaps_that_say_nothing_make_no_hardness() -> None:
    queries = some_queries(Metric.L2, 0)
    for distances in (np.ones((9, 64), np.float32), np.ones((9, 1), np.float32)):
        assert measure_hardness(distances, queries, Metric.L2) == (0.0, None)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_strangers_get_what_they_ask_for(tmp_path: Path, metric: str) -> None:
    rows = clustered(6200, 12)
    base, queries = rows[:6000], rows[6000:]
    options = {"nlist": 96, "niter": 4, "codec": "flat", "sample": 5000, "calibrate": False}
    teravec.build(base, tmp_path / "i", metric=metric, **options)  # type: ignore[arg-type]
    teravec.calibrate(tmp_path / "i", data=base, nqueries=400, ks=(10,))
    rng = np.random.default_rng(0)
    kinds = {
        "like": queries,
        "far": base.mean(0) + 3 * (queries - base.mean(0)),
        "between": base[rng.integers(0, len(base), (200, 2))].mean(1),
        "noise": queries + rng.standard_normal(queries.shape) * base.std() * 0.5,
    }
    with teravec.open(tmp_path / "i") as index:
        assert index.calibration is not None
        assert index.calibration.hardness is not None
        for kind, some in kinds.items():
            some = some.astype(np.float32)
            true = index.search(some, 10, index.nlist)[1]
            found = index.search(some, 10, recall=0.9)[1]
            shares = [np.isin(f, t).mean() for f, t in zip(found, true, strict=True)]
            assert np.mean(shares) >= 0.85, kind  # of 200 queries
            alone = np.concatenate([index.search(one[None], 10, recall=0.9)[1] for one in some[:9]])
            np.testing.assert_array_equal(alone, found[:9])


def test_what_travels_is_checked() -> None:
    hardness = Hardness(1.0, 2.0, 0.5, 0.7, 0.5, 1.0)
    sent = write_harder(Effort.adaptive(5, 0.1, hardness, 100))
    assert sent is not None
    assert read_harder(sent) == (5, hardness)
    assert write_harder(Effort(5)) is None
    bad: list[object] = [None, [], {}, {**sent, "nprobe": 0}, {**sent, "nprobe": 1.5}]
    bad += [{**sent, "more": 1}, asdict(hardness), list(sent.items())]
    for name in asdict(hardness):
        bad += [{**sent, name: value} for value in ("1", None, float("nan"), 1e31, True)]
    bad += [{**sent, "near": -1.0}, {**sent, "slope": -0.1}, {**sent, "usual": 101.0}]
    for content in bad:
        with pytest.raises(InvalidArgument, match="harder"):
            read_harder(content)
