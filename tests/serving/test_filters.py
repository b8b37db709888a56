"""Filters and columns through servers: however the lists are split, as the local index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec.errors import DeadlineExceeded, InvalidArgument, InvalidFilter, Unavailable
from teravec.serving.server.served import ServedIndex
from teravec.serving.wire.deadline import Deadline
from tests.conftest import clustered
from tests.serving.conftest import NLIST, D, Launch, addresses, url

QUERIES = clustered(24, D, seed=5)
SPLITS = {
    "one": ["0:60"],
    "three apart": ["0:5,40:60", "5:20", "20:40"],
    "replicas": ["0:30", "30:60", "0:20", "20:50", "50:60"],
}
FILTERS = ["lang = 'en'", "n < 40", "n = 77", "n > 100000", "'t1' in tags and price >= 0.5"]


def same(found: Any, true: Any) -> None:
    for one, other in zip(found, true, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["one", "two"])
def test_any_split_equals_the_local_index(
    kind: str, split: str, with_columns: dict[str, Path], serve: Launch
) -> None:
    path = with_columns[kind]
    servers = [serve(path, lists=lists) for lists in SPLITS[split]]
    coordinator = serve(path, servers=addresses(servers))
    efforts: list[dict[str, Any]] = [{"nprobe": 3}, {"nprobe": 60}]
    if kind == "one":
        efforts += [{"recall": 0.9}, {}]
    with teravec.open(path) as local, teravec.connect(url(coordinator)) as remote:
        radius = float(np.median(local.search(QUERIES, 30, 60)[0][:, -1]))
        for text in FILTERS:
            for k, effort in zip((10, 50, 3, 7000), efforts, strict=False):
                true = local.search(QUERIES, k, filter=text, **effort)
                same(remote.search(QUERIES, k, filter=text, **effort), true)
            within = remote.range_search(QUERIES, radius, 20, filter=text)
            same(within, local.range_search(QUERIES, radius, 20, filter=text))


def test_tables_equal_local_ones(with_columns: dict[str, Path], serve: Launch) -> None:
    for name in ("one", "two", "texts"):
        path = with_columns[name]
        servers = [serve(path, lists=lists) for lists in SPLITS["three apart"]]
        coordinator, alone = serve(path, servers=addresses(servers)), serve(path)
        with teravec.open(path) as local:
            for server in (coordinator, alone):
                with teravec.connect(url(server)) as remote:
                    assert remote.columns == local.columns
                    check_tables(local, remote)


def check_tables(local: Any, remote: Any) -> None:
    for columns in (None, ["lang", "tags"], "all"):
        for options in ({}, {"filter": "lang is null and n > 5"}):
            asked = {"columns": columns, **options}
            assert remote.query(QUERIES, 5, 7, **asked) == local.query(QUERIES, 5, 7, **asked)
    radius = float(np.median(local.search(QUERIES, 10, 60)[0][:, -1]))
    asked = {"columns": "lang", "filter": "n > 500"}
    true = local.range_query(QUERIES, radius, 9, **asked)
    assert len(true) > 20
    assert remote.range_query(QUERIES, radius, 9, **asked) == true
    ids = local.query(QUERIES, 3, 60, columns="n")
    some = [ids["id"][7].as_py(), ids["id"][2].as_py(), ids["id"][7].as_py()]
    some.insert(1, "https://e.org/none" if isinstance(some[0], str) else 10**9)
    for vectors in (False, True):
        rows = remote.get(some, ["n", "lang"], vectors=vectors)
        assert rows == local.get(some, ["n", "lang"], vectors=vectors)
        assert rows["n"].to_pylist() == [ids["n"][i].as_py() for i in (7, 2, 7)]
    assert remote.get(some) == local.get(some)


def test_a_filter_for_each_query(with_columns: dict[str, Path], serve: Launch) -> None:
    path = with_columns["one"]
    servers = [serve(path, lists=lists) for lists in SPLITS["three apart"]]
    coordinator = serve(path, servers=addresses(servers))
    filters = [FILTERS[row % 3] if row % 4 else None for row in range(len(QUERIES))]
    with teravec.open(path) as local, teravec.connect(url(coordinator)) as remote:
        true = local.search(QUERIES, 5, 8, filter=filters)
        for row, each in enumerate(filters):
            alone = local.search(QUERIES[row], 5, 8, filter=each)
            np.testing.assert_array_equal(true[1][row], alone[1])
        same(remote.search(QUERIES, 5, 8, filter=filters), true)
        found = remote.query(QUERIES, 5, 8, filter=filters, columns="n")
        assert found == local.query(QUERIES, 5, 8, filter=filters, columns="n")
        within = remote.range_search(QUERIES, 3.0, 8, filter=filters)
        same(within, local.range_search(QUERIES, 3.0, 8, filter=filters))
        with pytest.raises(InvalidArgument, match="2 filters found"):
            remote.search(QUERIES, 5, 8, filter=filters[:2])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lnag = 'en'", "character 1: no column named 'lnag'.*lang"),
        ("n > 3 and and", "character 11"),
        ("n = 'x'", "character 1: n"),
        ("(" * 100 + "n = 1" + ")" * 100, "inside each other"),
        (f"n in ({','.join(map(str, range(30_000)))})", "20,000 values"),
    ],
)
def test_a_wrong_filter_is_told_as_here(
    text: str, says: str, with_columns: dict[str, Path], serve: Launch
) -> None:
    path = with_columns["one"]
    server = serve(path)
    coordinator = serve(path, servers=addresses([server]))
    with teravec.open(path) as local, pytest.raises(InvalidFilter, match=says) as here:
        local.search(QUERIES, 5, 8, filter=text)
    for served in (server, coordinator):
        with teravec.connect(url(served)) as remote:
            with pytest.raises(InvalidFilter) as there:
                remote.search(QUERIES, 5, 8, filter=text)
            assert str(there.value) == str(here.value)
            assert "\n" not in str(there.value)


def test_a_filter_without_all_owners(with_columns: dict[str, Path], serve: Launch) -> None:
    path = with_columns["one"]
    servers = [serve(path, lists=lists) for lists in ("0:30", "30:60")]
    coordinator = serve(path, servers=addresses(servers))
    with teravec.connect(url(coordinator)) as remote:
        whole = remote.search(QUERIES, 5, NLIST, filter="n < 4000")[1]
        servers[1].close()
        with pytest.raises(Unavailable, match="have no live owner"):
            remote.search(QUERIES, 5, NLIST, filter="n < 3000")  # its counts are not known
        with pytest.raises(Unavailable, match="have no live owner"):
            remote.search(QUERIES, 5, NLIST, filter="n < 4000")
        for text in ("n < 4000", "n < 2000"):
            _, ids, missing = remote.search_partial(QUERIES, 5, NLIST, filter=text)
            assert 0 < missing < 1
            assert (ids >= 0).all()
            assert (ids < int(text[4:])).all()
        assert not np.array_equal(whole, ids)
        with pytest.raises(Unavailable):
            remote.get(np.arange(40))


def test_a_deadline_ends_the_evaluation_of_a_filter(with_columns: dict[str, Path]) -> None:
    index = ServedIndex(with_columns["one"])
    try:
        with pytest.raises(DeadlineExceeded):
            index.passing("price < 0.5", Deadline.after(0.0))
    finally:
        index.close()
