"""Recall by hand and by a model, and what an evaluation refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import teravec
from teravec.bulk.results import Neighbors
from teravec.errors import InvalidArgument
from teravec.evaluation.evaluation import evaluate, recall_at
from teravec.search.index import Index
from tests.conftest import clustered, write_fbin

K = 5
QUERIES = clustered(30, 8, seed=1)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    base = write_fbin(tmp_path / "x.fbin", clustered(2000, 8))
    teravec.build(base, tmp_path / "index", nlist=16, codec="flat", memory="256MiB")
    with teravec.open(tmp_path / "index") as opened:
        yield opened


@pytest.fixture
def truth(index: Index) -> Neighbors:
    distances, ids = index.search(QUERIES, 2 * K, index.nlist)
    return Neighbors(ids, distances)


def test_recall_by_hand() -> None:
    true = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert recall_at(true, true, 4) == 1
    assert recall_at(true[:, ::-1], true, 2) == 0  # only the first k of each count
    assert recall_at(np.array([[1, 9], [6, 5]]), true, 2) == 0.75
    assert recall_at(np.array([[1, 1], [-1, -1]]), true, 2) == 0.25  # an id counts once
    assert recall_at(true[::-1], true, 4) == 0  # another query's neighbours are not hits
    assert recall_at(np.array([[1, -1]]), np.array([[1, -1]]), 2) == 1  # -1 is no neighbour


@given(st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_recall_is_that_of_sets(n: int, k: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    found = rng.integers(-1, 9, (n, k + 1)) << 40
    found[found < 0] = -1
    true = np.array([rng.permutation(9)[: k + 1] for _ in range(n)]) << 40
    hits = sum(len(set(f[:k]) & set(t[:k])) for f, t in zip(found, true, strict=True))
    assert recall_at(found, true, k) == pytest.approx(hits / (n * k))


def test_all_lists_find_everything(index: Index, truth: Neighbors) -> None:
    one, every, more = evaluate(index, QUERIES, truth, K, [1, index.nlist, 10**6])
    assert every.recall == more.recall == 1
    assert 0 < one.recall < 1
    assert (one.nprobe, every.nprobe, more.nprobe) == (1, index.nlist, index.nlist)
    assert every.codes_per_query == index.ntotal
    assert 0 < one.codes_per_query < index.ntotal
    assert one.lists_per_query == 1
    assert every.queries_per_s > 0
    assert 0 < every.latency_p50_s <= every.latency_p99_s
    assert json.loads(json.dumps(asdict(one)))["recall"] == one.recall


def test_truth_that_does_not_fit_is_refused(index: Index, truth: Neighbors) -> None:
    with pytest.raises(InvalidArgument, match=r"29 .*30"):
        evaluate(index, QUERIES, replace(truth, ids=truth.ids[1:]), K, [1])
    with pytest.raises(InvalidArgument, match=r"11|10"):
        evaluate(index, QUERIES, truth, 2 * K + 1, [1])
    with pytest.raises(InvalidArgument):
        evaluate(index, QUERIES[:0], replace(truth, ids=truth.ids[:0]), K, [1])
