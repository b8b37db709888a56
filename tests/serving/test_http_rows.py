"""Filters, columns and rows by id over HTTP, as JSON and as Arrow."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pyarrow as pa
import pytest

import teravec
from teravec.errors import InvalidFilter
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.security import Address
from tests.serving.conftest import QUERIES, D, Launch, addresses

LOCAL = Address("127.0.0.1", 0)
ROWS = QUERIES[:6].astype(float).tolist()
ARROW = "application/vnd.apache.arrow.stream"


def joined(parts: list[dict[str, Any]], name: str) -> list[Any]:
    return [value for part in parts for value in part[name]]


@pytest.fixture(params=["alone", "coordinator"])
def web(
    request: pytest.FixtureRequest, with_columns: dict[str, Path], serve: Launch
) -> Iterator[httpx.Client]:
    path = with_columns["one"]
    if request.param == "alone":
        server = serve(path, http=LOCAL)
    else:
        servers = [serve(path, lists=lists) for lists in ("0:20", "20:60")]
        server = serve(path, servers=addresses(servers), http=LOCAL)
    with httpx.Client(base_url=f"http://{server.http_address}", timeout=60) as client:
        yield client


def test_a_filter_and_columns(web: httpx.Client, with_columns: dict[str, Path]) -> None:
    body = {"queries": ROWS, "k": 4, "nprobe": 9, "filter": "n > 9", "columns": ["lang", "tags"]}
    answer = web.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    with teravec.open(with_columns["one"]) as local:
        true = local.query(QUERIES[:6], 4, 9, filter="n > 9", columns="lang,tags")
    assert joined(results, "ids") == true["id"].to_pylist()
    for name in ("lang", "tags"):
        found: list[Any] = joined([r["columns"] for r in results], name)
        assert found == true[name].to_pylist()
    assert {"日本語 🗾", None} <= set(true["lang"].to_pylist())
    tree = web.post("/search", json={**body, "filter": [">", "n", 9], "columns": "lang"})
    assert [r["ids"] for r in tree.json()["results"]] == [r["ids"] for r in results]
    large = json.dumps(body).replace(" ", " " * 900)
    assert web.post("/search", content=large).json()["results"] == results
    within = web.post("/search", json={**body, "k": None, "radius": 4.0})
    assert within.status_code == 200
    assert {len(r["columns"]["lang"]) - len(r["ids"]) for r in within.json()["results"]} == {0}


def test_a_filter_and_columns_as_arrow(web: httpx.Client, with_columns: dict[str, Path]) -> None:
    body = pa.BufferOutputStream()
    batch = pa.record_batch([pa.FixedSizeListArray.from_arrays(QUERIES.ravel(), D)], ["query"])
    with pa.ipc.new_stream(body, batch.schema) as stream:
        stream.write_batch(batch)
    options = urlencode({"k": 4, "nprobe": 9, "filter": "lang = '日本語 🗾'", "columns": "n,tags"})
    answer = web.post(
        f"/search?{options}", content=body.getvalue().to_pybytes(), headers={"content-type": ARROW}
    )
    assert answer.status_code == 200, answer.text
    found = pa.ipc.open_stream(answer.content).read_all()
    with teravec.open(with_columns["one"]) as local:
        true = local.query(QUERIES, 4, 9, filter="lang = '日本語 🗾'", columns="n,tags")
    assert found["id"].to_pylist() == true["id"].to_pylist()
    assert found["tags"].to_pylist() == true["tags"].to_pylist()


def test_rows_by_id(web: httpx.Client) -> None:
    answer = web.post("/get", json={"ids": [7, "3", 9999, 7], "columns": ["n", "lang"]})
    assert answer.status_code == 200, answer.text
    rows = answer.json()["rows"]
    assert [(row["id"], row["n"]) for row in rows] == [(7, 7), ("3", 3), (7, 7)]
    assert set(rows[0]) == {"id", "n", "lang"}
    vectors = web.post("/get", json={"ids": [3], "vectors": True}).json()["rows"][0]
    assert len(vectors["vector"]) == D
    assert web.post("/get", json={"ids": [4000], "columns": []}).json()["rows"] == [{"id": 4000}]
    for wrong, says in (
        ({"ids": ["x"]}, "are numbers"),
        ({"ids": [-1]}, "0 to less"),
        ({"ids": [1], "columns": ["none"]}, "n, price, lang, tags"),
        ({"ids": []}, "ids"),
        ({"ids": [1], "id": 2}, "no such field"),
        ([1], "object"),
    ):
        refused = web.post("/get", json=wrong)
        assert refused.status_code == 422, refused.text
        assert says in refused.json()["message"]


@pytest.mark.parametrize(
    "text", ["lnag = 1", "n >", "n = 1; drop table x", "tags", "n in ()", "ñ = 'x'", "", "'"]
)
def test_a_wrong_filter(text: str, web: httpx.Client, with_columns: dict[str, Path]) -> None:
    answer = web.post("/search", json={"queries": ROWS, "k": 2, "nprobe": 3, "filter": text})
    with teravec.open(with_columns["one"]) as local, pytest.raises(InvalidFilter) as here:
        local.search(QUERIES, 2, 3, filter=text)
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid-filter"
    assert answer.json()["message"] == str(here.value)


@pytest.mark.parametrize(
    "tree",
    [
        ["and", ["=", "n", 1]],
        [">", "n"],
        ["__import__", "os"],
        [["=", "n", 1]],
        ["not", ["not"] * 3],
        ["=", "n", {"number": "1e999999999"}],
        ["in", "n", []],
        ["=", {"$ne": 1}, 1],
    ],
)
def test_a_wrong_tree(tree: list[Any], web: httpx.Client) -> None:
    answer = web.post("/search", json={"queries": ROWS, "k": 2, "nprobe": 3, "filter": tree})
    assert answer.status_code == 400, answer.text
    deep: Any = ["=", "n", 1]
    for _ in range(90):
        deep = ["not", deep]
    body = {"queries": ROWS, "k": 2, "nprobe": 3, "filter": deep}
    assert web.post("/search", json=body).status_code == 400


def test_ids_that_are_texts(with_columns: dict[str, Path], serve: Launch) -> None:
    server = serve(with_columns["texts"], http=LOCAL)
    with teravec.open(with_columns["texts"]) as local:
        true = local.query(QUERIES[:6], 2, 9)["id"].to_pylist()
    with httpx.Client(base_url=f"http://{server.http_address}") as web:
        found = web.post("/search", json={"queries": ROWS, "k": 2, "nprobe": 9}).json()
        assert joined(found["results"], "ids") == true
        rows = web.post("/get", json={"ids": [true[3], "none", true[0]], "columns": "n"}).json()
        assert [row["id"] for row in rows["rows"]] == [true[3], true[0]]
        assert web.post("/get", json={"ids": [1]}).status_code == 422
        info = web.get("/info").json()
    assert info["columns"]["tags"].startswith("list<")
    assert info["text_ids"] == "url"


def test_values_of_every_kind(tmp_path: Path, serve: Launch) -> None:
    table = pa.table(
        {
            "x": [float("nan"), float("inf"), 0.5],
            "big": pa.array([2**63 - 1, None, -1], pa.int64()),
            "day": [datetime.date(2024, 1, 31), None, datetime.date(1, 1, 1)],
            "at": pa.array([1, None, 1_500_000_001], pa.timestamp("ns")),
            "raw": [b"\x00\xff", None, b""],
            "texts": [["a", None], None, ['\u2028"</script>']],
        }
    )
    base = np.eye(3, D, dtype=np.float32)
    teravec.build(
        base,
        tmp_path / "index",
        nlist=1,
        codec="flat",
        columns="all",
        attributes=table,
        calibrate=False,
    )
    server = serve(tmp_path / "index", http=LOCAL)
    with httpx.Client(base_url=f"http://{server.http_address}") as web:
        rows = web.post("/get", json={"ids": [0, 1, 2]}).json()["rows"]
    assert [row["x"] for row in rows] == [None, None, 0.5]
    assert rows[0]["big"] == 2**63 - 1
    assert [row["day"] for row in rows] == ["2024-01-31", None, "0001-01-01"]
    assert rows[2]["at"] == "1970-01-01T00:00:01.500000001"
    assert [row["raw"] for row in rows] == ["AP8=", None, ""]
    assert rows[2]["texts"] == ['\u2028"</script>']


def test_columns_beyond_the_answers_bound(with_columns: dict[str, Path], serve: Launch) -> None:
    server = serve(with_columns["one"], http=LOCAL, limits=Limits(answer_bytes=12 * 400))
    base = f"http://{server.http_address}"
    body = {"ids": list(range(300)), "columns": ["lang", "tags"]}
    answer = httpx.post(f"{base}/get", json=body)
    assert answer.status_code == 413, answer.text
    assert "ask for fewer" in answer.json()["message"]
    with teravec.open(with_columns["one"]) as local, teravec.connect(f"{server.address}") as remote:
        ids = np.arange(300)
        assert remote.get(ids, "lang,tags") == local.get(ids, "lang,tags")  # in runs
        found = remote.query(QUERIES, 5, 9, columns="lang,tags")
        assert found == local.query(QUERIES, 5, 9, columns="lang,tags")
