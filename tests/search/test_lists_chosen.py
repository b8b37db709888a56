"""Searches of lists that the caller chose, and of indexes of which some slices are open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.errors import InvalidArgument, MissingFile
from teravec.search.effort import Effort

RNG = np.random.default_rng(5)
BASE = RNG.standard_normal((3000, 24)).astype(np.float32)
QUERIES = RNG.standard_normal((20, 24)).astype(np.float32)


@pytest.fixture(scope="module", params=["l2", "ip", "cosine"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chosen")
    np.save(folder / "base.npy", BASE)
    teravec.build(
        folder / "base.npy", folder / "index", nlist=32, metric=request.param, slices=3, codec="sq8"
    )
    return folder / "index"


def test_chosen_lists_equal_a_search(built: Path) -> None:
    with teravec.open(built) as index:
        wanted = index.steps.nearest_lists(QUERIES, Effort(7))
        found = index.steps.search_lists(*wanted, 10)
        for one, other in zip(index.search(QUERIES, 10, 7), found, strict=True):
            np.testing.assert_array_equal(one, other)
        found_range = index.steps.range_search_lists(*wanted, 0.5)
        for ours, theirs in zip(index.range_search(QUERIES, 0.5, 7), found_range, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_slices_opened_apart_find_what_one_index_finds(built: Path) -> None:
    with teravec.open(built) as index:
        distances, ids = index.search(QUERIES, 10, 9)
        prepared, list_nos, coarse = index.steps.nearest_lists(QUERIES, Effort(9))
        bounds = [entry.lists for entry in index.manifest.slices]
        larger = index.metric != "l2"
    parts = []
    for start, stop in bounds:
        mine = np.where((list_nos >= start) & (list_nos < stop), list_nos, -1)
        with teravec.open(built, lists=(start, stop)) as part:
            parts.append(part.steps.search_lists(prepared, mine, coarse, 10))
    all_distances = np.concatenate([d for d, _ in parts], axis=1)
    all_ids = np.concatenate([i for _, i in parts], axis=1)
    order = np.argsort(-all_distances if larger else all_distances, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(np.take_along_axis(all_distances, order, 1), distances)
    np.testing.assert_array_equal(np.take_along_axis(all_ids, order, 1), ids)


def test_only_the_slices_asked_for_need_be_there(built: Path, tmp_path: Path) -> None:
    with teravec.open(built) as index:
        wanted = index.steps.nearest_lists(QUERIES, Effort(5))
        (start, stop), *_ = (entry.lists for entry in index.manifest.slices)
        others = [built / entry.file for entry in index.manifest.slices[1:]]
    hidden = [path.rename(tmp_path / path.name) for path in others]
    try:
        with pytest.raises(MissingFile, match="slices"):
            teravec.open(built)
        with teravec.open(built, lists=(start, stop)) as part:
            prepared, list_nos, coarse = wanted
            mine = np.where(list_nos < stop, list_nos, -1)
            assert (part.steps.search_lists(prepared, mine, coarse, 5)[1] >= 0).any()
            with pytest.raises(InvalidArgument, match=f"0 to {stop - 1} are open"):
                part.steps.search_lists(prepared, list_nos, coarse, 5)
    finally:
        for path, there in zip(hidden, others, strict=True):
            path.rename(there)


def test_what_does_not_fit_is_refused(built: Path) -> None:
    with teravec.open(built) as index:
        prepared, list_nos, coarse = index.steps.nearest_lists(QUERIES, Effort(5))
        with pytest.raises(InvalidArgument, match="do not fit"):
            index.steps.search_lists(prepared[:, :-1], list_nos, coarse, 5)
        with pytest.raises(InvalidArgument, match="do not fit"):
            index.steps.search_lists(prepared, list_nos, coarse[:, :-1], 5)
        with pytest.raises(InvalidArgument, match="lists -2"):
            index.steps.search_lists(prepared, list_nos - list_nos.min() - 2, coarse, 5)
        with pytest.raises(InvalidArgument, match="k is 0"):
            index.steps.search_lists(prepared, list_nos, coarse, 0)
    with pytest.raises(InvalidArgument, match="lists 5:40 asked for"):
        teravec.open(built, lists=(5, 40))
