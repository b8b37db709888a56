"""Filters from the command line and through the package's functions."""

from __future__ import annotations

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
