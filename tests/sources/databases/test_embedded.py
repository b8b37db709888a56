"""SQLite and DuckDB: files, read in one transaction."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teravec.errors import InvalidSource
from teravec.sources import DatabaseQuery, Source, as_query, open_data

N, D = 500, 4
X = np.random.default_rng(5).standard_normal((N, D)).astype(np.float32)


def make_sqlite(path: Path) -> str:
    with sqlite3.connect(path) as database:
        database.execute("create table items (id integer primary key, b blob, h blob, t text)")
        database.executemany(
            "insert into items values (?, ?, ?, ?)",
            (
                (i, x.tobytes(), x.astype("<f2").tobytes(), json.dumps(x.tolist(), indent=1))
                for i, x in enumerate(X)
            ),
        )
    database.close()
    return f"sqlite:///{path}"


def make_duckdb(path: Path) -> str:
    duckdb = pytest.importorskip("duckdb")
    import pyarrow as pa

    table = pa.table(  # read by DuckDB under its name
        {
            "id": range(N),
            "a": X.tolist(),
            "b": [x.tobytes() for x in X],
            "h": [x.astype("<f2").tobytes() for x in X],
            "t": [str(x) for x in X.tolist()],
        }
    )
    with duckdb.connect(path) as database:
        database.register("given", table)
        database.execute(f"create table items as select *, a::float[{D}] as f from given")
    return f"duckdb:///{path}"


MAKERS = {"sqlite": make_sqlite, "duckdb": make_duckdb}


def query(uri: str, column: str, **options: Any) -> DatabaseQuery:
    found = as_query(uri, query=f"select id, {column} from items", partition_by="id", **options)
    assert isinstance(found, DatabaseQuery)
    return replace(found, fewest_rows=100)


def check(source: Source, half: bool = False) -> None:
    assert np.array_equal(source.read_ids(0, N), np.arange(N))
    assert np.array_equal(source.read(0, N), X.astype("f2") if half else X)


@pytest.mark.parametrize(
    ("kind", "column"), [("sqlite", c) for c in "bht"] + [("duckdb", c) for c in "abhtf"]
)
def test_types(kind: str, column: str, tmp_path: Path) -> None:
    uri = MAKERS[kind](tmp_path / "x.db")
    bytes_type = "float16" if column == "h" else None
    source = open_data(query(uri, column, bytes_type=bytes_type), spool_path=tmp_path / "x.spool")
    check(source, column == "h")
    assert len(source.files) == 5
    assert source.id_column == "id"


@pytest.mark.parametrize("kind", MAKERS)
def test_without_ranges_rows_keep_the_order_of_the_query(kind: str, tmp_path: Path) -> None:
    uri = MAKERS[kind](tmp_path / "x.db")
    asked = as_query(uri, query="select b from items order by id desc")
    source = open_data(asked, spool_path=tmp_path / "x.spool")
    assert np.array_equal(source.read(0, N), X[::-1])
    assert np.array_equal(source.read_ids(0, N), np.arange(N))
    named = as_query(uri, query="select b, 7 * id as seventh from items")
    source = open_data(named, id_column="seventh", spool_path=tmp_path / "y.spool")
    assert sorted(source.read_ids(0, N).tolist()) == list(range(0, 7 * N, 7))


def test_sqlite_is_read_in_one_state_while_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teravec.sources.databases.decoding import RowDecoder, Rows

    uri, path = make_sqlite(tmp_path / "x.db"), tmp_path / "x.db"
    writer = sqlite3.connect(path, check_same_thread=False)
    writer.execute("pragma journal_mode = wal")
    decode = RowDecoder.decode

    def decoding(self: RowDecoder, batch: Any) -> Rows:
        writer.execute("delete from items where id > 100")
        writer.execute("update items set b = null")
        writer.commit()
        return decode(self, batch)

    monkeypatch.setattr(RowDecoder, "decode", decoding)
    try:
        check(open_data(query(uri, "b"), spool_path=tmp_path / "x.spool"))
        (tmp_path / "x.spool" / "00002.done").unlink()
        with pytest.raises(InvalidSource, match=r"b \(null\) found"):  # another state
            open_data(query(uri, "b"), spool_path=tmp_path / "x.spool")
    finally:
        writer.close()


@pytest.mark.parametrize("kind", MAKERS)
def test_what_cannot_be_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with pytest.raises(InvalidSource, match="no such file"):
        open_data(query(f"{kind}:///{path}", "b"), spool_path=tmp_path / "x.spool")
    uri = MAKERS[kind](path)
    with pytest.raises(InvalidSource, match="nothing"):
        open_data(query(uri, "nothing"), spool_path=tmp_path / "x.spool")
    with pytest.raises(InvalidSource, match="no rows"):
        open_data(
            as_query(uri, query="select id, b from items where id < 0"),
            spool_path=tmp_path / "x.spool",
        )
    with pytest.raises(InvalidSource, match="'lang' expected among them"):
        open_data(query(uri, "b"), id_column="lang", spool_path=tmp_path / "x.spool")
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(InvalidSource, match=f"{kind}:///"):
        open_data(query(uri, "b"), spool_path=tmp_path / "x.spool")
    assert not (tmp_path / "x.spool").exists()
