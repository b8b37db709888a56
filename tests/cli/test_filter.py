"""Filters from the command line and through the package's functions."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import teravec
from teravec.bulk.results import read_neighbors
from teravec.cli.main import app
from teravec.errors import InvalidArgument
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.serving.wire.security import Address
from tests.conftest import clustered

BASE = clustered(2000, 8, 1)
EVEN = np.arange(2000) % 2 == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filter")
    table = pa.table({"even": EVEN, "name": [f"row {i}" for i in range(2000)]})
    pq.write_table(table, root / "table.parquet")
    np.save(root / "base.npy", BASE)
    np.save(root / "queries.npy", BASE[:30] + np.float32(0.01))
    options: dict[str, Any] = {"nlist": 20, "codec": "flat", "calibrate": False}
    teravec.build(root / "base.npy", root / "index", columns="all", attributes=table, **options)
    return root


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_command_and_functions_find_the_same(place: Path, tmp_path: Path) -> None:
    asked = place / "index", place / "queries.npy", "--nprobe", 20, "--filter", "even"
    run("search", *asked, "--out", tmp_path / "found.npz")
    found = read_neighbors(tmp_path / "found.npz")
    with teravec.open(place / "index") as index:
        queries = np.load(place / "queries.npy")
        distances, ids = index.search(queries, 10, 20, filter="even")
        table = index.query(queries, 10, 20, filter="even", columns=["name", "even"])
    assert EVEN[ids].all()
    assert np.array_equal(found.ids, ids)
    assert table["id"].to_pylist() == ids.ravel().tolist()
    assert table["name"].to_pylist() == [f"row {i}" for i in ids.ravel()]
    given = teravec.search(place / "index", queries, 10, 20, filter="not even", memory="64MiB")
    assert isinstance(given, tuple)
    assert not EVEN[given[1]].any()
    again = teravec.query(place / "index", queries, 10, 20, filter="even", columns=["name", "even"])
    assert again.equals(table)

    rows = run("search", *asked, "--columns", "name")
    assert [json.loads(line)["id"] for line in rows.splitlines()] == ids.ravel().tolist()
    told = json.loads(run("search", *asked, "--explain", "--json"))
    assert (told["passing"], told["rows"], told["plan"]) == (1000, 2000, "compare all")
    assert "rows that pass: 1,000 of 2,000" in run("search", *asked, "--explain")
    radius = float(distances[:, 4].mean())
    run("range-search", place / "index", place / "queries.npy", "--radius", radius, "--nprobe", 20,
        "--filter", "even", "--out", tmp_path / "within.npz")  # fmt: skip
    with np.load(tmp_path / "within.npz") as file:
        within = dict(file)
    found_within = teravec.range_search(
        place / "index", place / "queries.npy", radius, 20, filter="even"
    )
    assert isinstance(found_within, tuple)
    lims, _, expected = found_within
    assert np.array_equal(within["ids"], expected)
    assert np.array_equal(within["lims"], lims)
    assert EVEN[expected].all()
    assert len(expected) > 30


def test_a_partial_result_is_of_one_filter(place: Path, tmp_path: Path) -> None:
    asked = place / "index", place / "queries.npy", "--nprobe", 20, "--json"
    texts = [
        json.loads(run("search", *asked, "--filter", f))["filter"] for f in ("even", "not even")
    ]
    assert texts == [["is_true", "even"], ["not", ["is_true", "even"]]]


def test_wrong_filters(place: Path) -> None:
    result = CliRunner().invoke(
        app, ["search", str(place / "index"), str(place / "queries.npy"), "--filter", "evn = true"]
    )
    assert isinstance(result.exception, InvalidArgument | SystemExit)
    with pytest.raises(InvalidArgument, match=r"filter, character 1: no column named 'evn'"):
        teravec.search(place / "index", BASE[:2], filter="evn = true", nprobe=2)


@pytest.fixture(scope="module")
def own(place: Path) -> Path:
    """Queries with a filter each: null, the same text often, and one that few rows pass."""
    queries = np.load(place / "queries.npy")
    texts = [None, "even", "not even", "name = 'row 7'"]
    filters = [texts[row % 4] for row in range(len(queries))]
    vectors = pa.FixedSizeListArray.from_arrays(queries.ravel(), queries.shape[1])
    pq.write_table(pa.table({"q": vectors, "wanted": filters}), place / "own.parquet")
    return place / "own.parquet"


def test_a_filter_for_each_query(place: Path, own: Path, tmp_path: Path) -> None:
    filters = pq.read_table(own)["wanted"]
    queries = np.load(place / "queries.npy")
    asked = place / "index", own, "--nprobe", 20, "--filter-column", "wanted"
    run("search", *asked, "--out", tmp_path / "found.npz")
    found = read_neighbors(tmp_path / "found.npz").ids
    options: dict[str, Any] = {"filter": filters, "memory": "64MiB"}
    listed = teravec.search(place / "index", queries, 10, 20, **options)
    assert isinstance(listed, teravec.Nearest)
    with teravec.open(place / "index") as index:
        for row, each in enumerate(filters.to_pylist()):
            alone = index.search(queries[row], 10, 20, filter=each)[1]
            assert np.array_equal(found[row], alone)
            assert np.array_equal(listed.ids[row], alone)
        lims, distances, ids = index.range_search(queries, 5.0, 20, filter=filters)
    assert len(ids) > 30
    within = teravec.range_search(
        place / "index", own, 5.0, 20, filter_column="wanted", memory="64MiB"
    )
    assert isinstance(within, teravec.Within)
    for one, other in zip(within, (lims, distances, ids), strict=True):
        np.testing.assert_array_equal(one, other)
    table = teravec.query(place / "index", own, 10, 20, filter_column="wanted", columns="name")
    assert table["id"].to_pylist() == found[found >= 0].tolist()
    with pytest.raises(InvalidArgument, match="29 filters"):
        teravec.search(place / "index", queries, 10, 20, filter=filters[1:])
    with pytest.raises(InvalidArgument, match=r"query 1.*no column named 'odd'"):
        teravec.search(place / "index", queries[:2], 10, 20, filter=["even", "odd"])


def test_columns_of_a_range_search(place: Path, tmp_path: Path) -> None:
    queries = np.load(place / "queries.npy")
    out = tmp_path / "hits.parquet"
    asked = place / "index", place / "queries.npy", "--radius", 1.0, "--nprobe", 20
    run("range-search", *asked, "--filter", "even", "--columns", "name", "--out", out)
    with teravec.open(place / "index") as index:
        table = index.range_query(queries, 1.0, 20, filter="even", columns="name")
        lims, _, ids = index.range_search(queries, 1.0, 20, filter="even")
    assert pq.read_table(out).equals(table)
    assert table["id"].to_pylist() == ids.tolist()
    assert table["name"].to_pylist() == [f"row {i}" for i in ids]
    assert np.array_equal(np.bincount(table["query"], minlength=len(queries)), np.diff(lims))
    printed = run("range-search", *asked, "--columns", "all").splitlines()
    assert json.loads(printed[0]).keys() == {"query", "rank", "id", "distance", "even", "name"}


def test_a_server_as_a_directory(place: Path, own: Path, tmp_path: Path) -> None:
    options = ServeOptions(place / "index", listen=Address("127.0.0.1", 0))
    with contextlib.closing(launch(options)) as server:
        here: list[Any] = [place / "index"]
        there: list[Any] = ["--server", f"grpc://{server.address}"]
        for command, *asked in (
            ("search", own, "--nprobe", 20, "--filter-column", "wanted"),
            ("search", own, "--nprobe", 20, "--filter", "even", "--columns", "name"),
            ("range-search", own, "--radius", 1.0, "--filter", "even", "--nprobe", 9),
            ("range-search", own, "--radius", 1.0, "--columns", "all", "--nprobe", 9),
        ):
            assert run(command, *here, *asked) == run(command, *there, *asked)
        ids = "--ids", "5,1999,7777", "--columns", "name"
        assert run("get", *here, *ids) == run("get", *there, *ids)
        files = [tmp_path / name for name in ("here.npz", "there.npz")]
        for place_, file in zip((here, there), files, strict=True):
            run("search", *place_, own, "--filter", "even", "--nprobe", 20, "-o", file)
        one, other = (read_neighbors(file).ids for file in files)
        np.testing.assert_array_equal(one, other)
