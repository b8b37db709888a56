"""What callers may ask of an index, and what they hear of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec import Index, InvalidArgument
from tests.conftest import clustered, write_fbin

X = clustered(400, 8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("request")
    teravec.build(write_fbin(root / "x.fbin", X), root / "i", nlist=4, codec="flat")
    return root


@pytest.fixture
def index(root: Path) -> Iterator[Index]:
    with teravec.open(root / "i") as index:
        yield index


@pytest.mark.parametrize(
    "queries",
    [X[:2].tolist(), X[:2].astype("f8"), np.asfortranarray(X[:2]), np.repeat(X[:2], 2, 0)[::2]],
)
def test_queries_of_any_layout(queries: Any, index: Index) -> None:
    np.testing.assert_array_equal(index.search(queries, 1, 4)[1], [[0], [1]])


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ([[1.0] * 8, [1.0]], "unequal lengths"),
        (X[0, :7], "shape"),
        (np.full((1, 8), 1e300), "infinite"),
        (np.full((1, 8), np.nan), "NaN"),
        (np.full((1, 8), 1e25, np.float32), "query 0 is so long"),
        (X[:1] > 0, "bool"),
    ],
)
def test_queries_that_are_refused(queries: Any, words: str, index: Index) -> None:
    with pytest.raises(InvalidArgument, match=words):
        index.search(queries, 1, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 2.5}, "k is 2.5; a whole number"),
        ({"k": "2"}, "k is '2'; a whole number"),
        ({"k": 1, "nprobe": 2.5}, "nprobe is 2.5; a whole number"),
        ({"k": 1, "recall": "high"}, "recall is 'high'; a number"),
        ({"k": 1, "recall": 1}, "give an nprobe, equal to nlist"),
    ],
)
def test_numbers_that_are_refused(arguments: Any, words: str, index: Index) -> None:
    with pytest.raises(InvalidArgument, match=words):
        index.search(X[:1], **arguments)


@pytest.mark.parametrize("radius", ["wide", float("nan"), float("inf"), 1e39, -1e39, 10**400])
def test_a_radius_is_a_number(index: Index, radius: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"radius is .*; a finite number of float32 expected"):
        index.range_search(X[:1], radius)
    assert index.range_search(X[:1], 3.4e38, 1)[0][1] > 0


def test_a_closed_index_reads_no_file_that_was_opened_since(root: Path) -> None:
    index = teravec.open(root / "i", keep_lists=False)
    wanted = index.steps.nearest_lists(X[:1], index.effort(4))
    index.close()
    with (root / "x.fbin").open("rb"), (root / "x.fbin").open("rb"):  # take its descriptors
        for search in (
            lambda: index.search(X[:1], 1, 4),
            lambda: index.range_search(X[:1], 1.0, 4),
            lambda: index.steps.search_lists(*wanted, 1),
            lambda: index.warm(X[:1]),
        ):
            with pytest.raises(InvalidArgument, match="was closed"):
                search()
    index.close()


def test_arguments_of_no_sense_begin_no_build(root: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"nlist": 4.5},
        {"slices": 1.5},
        {"seed": "a"},
        {"metric": None},
        {"codec": None},
    ]
    for options in wrong:
        with pytest.raises(InvalidArgument):
            teravec.build(root / "x.fbin", tmp_path / "i", **options)
    assert list(tmp_path.iterdir()) == []


def test_calibrating_on_lists_of_numbers(root: Path, tmp_path: Path) -> None:
    queries: Any = X[:150].tolist()
    teravec.build(root / "x.fbin", tmp_path / "i", nlist=4, calibrate=False)
    assert teravec.calibrate(tmp_path / "i", queries, data=root / "x.fbin").queries == 150


def test_exporting_to_nowhere(root: Path, tmp_path: Path) -> None:
    with pytest.raises(teravec.StorageError, match="no directory"):
        teravec.export_faiss(root / "i", tmp_path / "none" / "x.faiss")
