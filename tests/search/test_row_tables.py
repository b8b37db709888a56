"""query and get: the rows that search finds, with their own columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.errors import CorruptFile, InvalidArgument
from tests.conftest import clustered

N, D = 1200, 16
ROWS = clustered(N + 200, D, seed=3)
TABLE = pa.table(
    {
        "title": [None if i % 9 == 0 else f"Zeile {i} é漢" for i in range(N + 200)],
        "number": np.arange(N + 200),
        "tags": [[f"t{i % 3}"] * (i % 4) for i in range(N + 200)],
    }
)


@pytest.fixture(scope="module", params=["flat", "sq8", "rabitq1+sq8"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of rows whose number is their id, changed: 200 added, some replaced or deleted."""
    out = tmp_path_factory.mktemp("index") / "index"
    ids = np.arange(N)
    teravec.build(
        ROWS[:N],
        out,
        ids=ids,
        attributes=TABLE[:N],
        nlist=16,
        codec=request.param,
        slices=2,
        calibrate=False,
    )
    moved = TABLE[:10].set_column(1, "number", pa.array(np.arange(10) + 5000))
    teravec.add(out, ROWS[:10], ids=np.arange(10), attributes=moved)
    teravec.add(out, ROWS[N:], ids=np.arange(N, N + 200), attributes=TABLE[N:])
    teravec.delete(out, [11, 12, N + 1])
    return out


def row_of(id_: int) -> dict[str, Any]:
    row: dict[str, Any] = TABLE.slice(id_, 1).to_pylist()[0]
    return row | ({"number": id_ + 5000} if id_ < 10 else {})


def test_query_finds_what_search_finds(index: Path) -> None:
    with teravec.open(index) as opened:
        distances, ids = opened.search(ROWS[:60], k=7, nprobe=5)
        found = opened.query(ROWS[:60], k=7, nprobe=5, columns=["number", "title", "tags"])
        plain = opened.query(ROWS[0], k=3, nprobe=5)
        near = opened.query(ROWS[:9], k=3, nprobe=5, vectors=True)
        got = opened.get(near["id"].to_numpy(), columns=["title"], vectors=True)
        assert opened.columns.names == ["title", "number", "tags"]
    assert found.schema.names == ["query", "rank", "id", "distance", "number", "title", "tags"]
    queries, ranks = np.nonzero(ids >= 0)
    np.testing.assert_array_equal(found["query"].to_numpy(), queries)
    np.testing.assert_array_equal(found["rank"].to_numpy(), ranks)
    np.testing.assert_array_equal(found["id"].to_numpy(), ids[queries, ranks])
    np.testing.assert_array_equal(found["distance"].to_numpy(), distances[queries, ranks])
    for row in found.to_pylist():
        want = row_of(row["id"])
        assert {name: row[name] for name in want} == want
    assert plain.schema.names == ["query", "rank", "id", "distance"]
    assert plain.num_rows == 3
    assert near["vector"].equals(got["vector"])
    assert {11, 12, N + 1}.isdisjoint(found["id"].to_pylist())


def test_fewer_than_k(index: Path) -> None:
    with teravec.open(index) as opened:
        found = opened.query(ROWS[:2], k=10_000, nprobe=16, columns="all")
        nothing = opened.query(np.empty((0, D), np.float32), k=5, nprobe=2, columns="all")
    counts = np.bincount(found["query"].to_numpy())
    assert counts.tolist() == [N + 200 - 3] * 2
    assert nothing.num_rows == 0
    assert nothing.schema.equals(found.schema)


def test_get(index: Path) -> None:
    asked = [N + 5, 3, 11, 700, 3, 99_999]
    with teravec.open(index) as opened:
        found = opened.get(asked, vectors=True)
        some = opened.get(np.array([1]), columns=["tags"])
        none = opened.get([], columns=["tags"])
        with pytest.raises(InvalidArgument, match="integers"):
            opened.get([0.5])
        with pytest.raises(InvalidArgument, match=r"'nothing' asked for; .* title, number, tags"):
            opened.get([1], columns=["nothing"])
    ids = [N + 5, 3, 700, 3]
    assert found["id"].to_pylist() == ids
    assert found.drop(["id", "vector"]).to_pylist() == [row_of(id_) for id_ in ids]
    vectors = np.stack(found["vector"].to_numpy())
    np.testing.assert_allclose(vectors, ROWS[ids], atol=0.2)
    assert some.to_pylist() == [{"id": 1, "tags": row_of(1)["tags"]}]
    assert none.num_rows == 0


def test_numbered_rows_and_no_columns(tmp_path: Path) -> None:
    teravec.build(ROWS[:300], tmp_path / "index", nlist=4, transform="rotation", calibrate=False)
    teravec.add(tmp_path / "index", ROWS[300:310])
    found = teravec.get(tmp_path / "index", [305, 0], vectors=True)
    assert found["id"].to_pylist() == [305, 0]
    np.testing.assert_allclose(np.stack(found["vector"].to_numpy()), ROWS[[305, 0]], atol=0.1)
    assert teravec.get(tmp_path / "index", [305, 999, 0]).to_pydict() == {"id": [305, 0]}
    with pytest.raises(InvalidArgument, match="none: it was built without columns"):
        teravec.query(tmp_path / "index", ROWS[:1], nprobe=1, columns=["title"])


def test_files_and_commands(index: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", ROWS[:20])
    with teravec.open(index) as opened:
        want = opened.query(ROWS[:20], k=4, nprobe=3, columns=["title", "number"])
    rows = teravec.query(
        index, ROWS[:20], 4, 3, columns="title,number", out=tmp_path / "hits.parquet"
    )
    assert rows == want.num_rows
    assert pq.read_table(tmp_path / "hits.parquet").equals(want)
    command = ["search", str(index), str(tmp_path / "q.npy"), "-k", "4", "--nprobe", "3"]
    run = CliRunner()
    for name in ("h.csv", "h.jsonl", "h.parquet"):
        out = ["--columns", "title,number", "--out", str(tmp_path / name), "--quiet"]
        done = run.invoke(app, [*command, *out])
        assert done.exit_code == 0, done.output
        assert f"{want.num_rows} results of 20 queries" in done.output
    lines = (tmp_path / "h.jsonl").read_text().splitlines()
    assert [json.loads(line)["title"] for line in lines] == want["title"].to_pylist()
    assert pa.csv.read_csv(tmp_path / "h.csv")["number"].to_pylist() == want["number"].to_pylist()
    assert pq.read_table(tmp_path / "h.parquet").equals(want)
    done = run.invoke(app, [*command, "--columns", "title"])
    assert [json.loads(line)["id"] for line in done.output.splitlines()] == want["id"].to_pylist()
    done = run.invoke(app, ["get", str(index), "--ids", "3,11,20", "--columns", "number"])
    assert [json.loads(line) for line in done.output.splitlines()] == [
        {"id": 3, "number": 5003},
        {"id": 20, "number": 20},
    ]
    done = run.invoke(app, [*command, "--columns", "all", "--out", str(tmp_path / "x.npz")])
    assert done.exit_code == 2
    done = run.invoke(app, [*command, "--columns", "all", "--out", str(tmp_path / "x.csv")])
    assert done.exit_code == 2
    assert not (tmp_path / "x.csv").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    out = tmp_path / "index"
    teravec.build(ROWS[:300], out, attributes=TABLE[:300], nlist=4, calibrate=False)
    (file,) = (out / "slices").glob("*.columns")
    data = bytearray(file.read_bytes())
    data[160] ^= 1
    file.write_bytes(data)
    with teravec.open(out) as opened:
        assert opened.search(ROWS[:5], nprobe=4)[1].shape == (5, 10)
        with pytest.raises(CorruptFile, match=file.name):
            opened.query(ROWS[:5], nprobe=4, columns="all")
