"""A real PostgreSQL: snapshots under change, killed backends, resumed ranges, pgvector's types."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teravec
from teravec.errors import InvalidSource, OutputExists, StorageError
from teravec.sources import DatabaseQuery, Source, as_query, open_data, open_source, reopen
from teravec.sources.databases.decoding import RowDecoder, Rows

from .conftest import Sql, run
from .server import Postgres

N, D = 600, 4
QUERY = "select id, v from items"


@pytest.fixture
def items(sql: Sql) -> None:
    """A table of N vectors; row i holds i, i + 1/2, -i and 1."""
    sql(
        "drop table if exists items",
        f"create table items (id bigint primary key, v vector({D}))",
        "insert into items select i, array[i, i + 0.5, -i, 1]::real[]::vector "
        f"from generate_series(1, {N}) i",
        "analyze items",
    )


def query(server: Postgres, sql: str = QUERY, **options: Any) -> DatabaseQuery:
    """Ranges of some 100 rows, for three readers."""
    found = as_query(server.uri(), query=sql, partition_by="id", readers=3, **options)
    assert isinstance(found, DatabaseQuery)
    return replace(found, fewest_rows=100)


def vectors(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids, ids + 0.5, -ids, np.ones(len(ids))], axis=1).astype(np.float32)


def check(source: Source, ids: np.ndarray) -> None:
    assert np.array_equal(source.read_ids(0, source.ntotal), ids)
    assert np.array_equal(source.read(0, source.ntotal), vectors(ids))


def once(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Do something while the third batch is decoded."""
    decode, lock, seen = RowDecoder.decode, threading.Lock(), [0]

    def decoding(self: RowDecoder, batch: Any) -> Rows:
        with lock:
            seen[0] += 1
            if seen[0] == 3:
                act()
        return decode(self, batch)

    monkeypatch.setattr(RowDecoder, "decode", decoding)


CHANGES = (
    "delete from items where id % 3 = 0",
    "update items set v = '[9,9,9,9]' where id % 3 = 1",
    "insert into items select i, '[7,7,7,7]' from generate_series(601, 900) i",
)


@pytest.mark.usefixtures("items")
def test_rows_are_those_of_one_snapshot(
    server: Postgres, sql: Sql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, lambda: sql(*CHANGES))
    source = open_data(query(server), spool_path=tmp_path / "x.spool")
    check(source, np.arange(1, N + 1))
    assert len(source.files) == 6
    assert source.id_column == "id"
    assert sql("select count(*) from items")[0][0] == 700
    for again in (open_source(tmp_path / "x.spool"), reopen(source.opened_by)):
        assert again.describe()["files"] == source.describe()["files"]


@pytest.mark.usefixtures("items")
@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        ("v", "float32"),
        ("v::halfvec(4) as h", "float16"),
        ("v::real[] as a", "float32"),
        ("v::real[]::float8[] as d", "float64"),
        ("v::text as t", "float32"),
        ("to_jsonb(v::real[]) as j", "float32"),
    ],
)
def test_types(server: Postgres, column: str, dtype: str, tmp_path: Path) -> None:
    asked = query(server, f"select id, {column} from items where id < 50;")
    source = open_data(asked, spool_path=tmp_path / "x.spool")
    check(source, np.arange(1, 50))
    assert source.dtype == dtype


@pytest.mark.usefixtures("items")
def test_a_killed_backend_reads_its_range_again(
    server: Postgres,
    sql: Sql,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kill = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where query ilike '%teravec_rows%' and pid <> pg_backend_pid()"
    )
    once(monkeypatch, lambda: sql(*CHANGES, kill))
    source = open_data(query(server), spool_path=tmp_path / "x.spool")
    check(source, np.arange(1, N + 1))  # still as it was before the changes
    assert "is read again" in caplog.text
    assert "snapshot ended" not in caplog.text


@pytest.mark.usefixtures("items")
def test_without_its_snapshot_all_is_read_again(
    server: Postgres,
    sql: Sql,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kill = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    once(monkeypatch, lambda: sql(CHANGES[0], kill))
    source = open_data(query(server), spool_path=tmp_path / "x.spool")
    ids = np.arange(1, N + 1)
    check(source, ids[ids % 3 != 0])
    assert "the snapshot ended with its connection" in caplog.text


@pytest.mark.usefixtures("items")
def test_a_server_that_stays_away_ends_the_read_and_a_rerun_goes_on(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        once(patch, server.halt)
        with pytest.raises(StorageError, match="run again"):
            open_data(query(server), spool_path=tmp_path / "x.spool")
    server.start()
    assert (tmp_path / "x.spool" / "plan").exists()
    source = open_data(query(server), spool_path=tmp_path / "x.spool")
    check(source, np.arange(1, N + 1))


@pytest.mark.usefixtures("items")
@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_ranges_stay_if_nothing_changed_or_if_asked_to(
    change: bool,
    keep: bool,
    server: Postgres,
    sql: Sql,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "x.spool"
    open_data(query(server), spool_path=path)
    (path / "00001.done").unlink()  # as a kill leaves it
    if change:
        sql("delete from items where id in (1, 600)", "update items set v = '[9,9,9,9]'")
    decode, read = RowDecoder.decode, list[int]()

    def decoding(self: RowDecoder, batch: Any) -> Rows:
        read.append(batch.num_rows)
        return decode(self, batch)

    monkeypatch.setattr(RowDecoder, "decode", decoding)
    source = open_data(query(server, keep_partitions=keep), spool_path=path)
    if change and not keep:
        assert source.ntotal == N - 2
        assert sum(read) == N - 2
        assert "all are read again" in caplog.text
    else:
        assert source.ntotal == N
        assert 0 < sum(read) < N / 5
        assert ("stay" in caplog.text) == change
    caplog.clear()
    again = open_data(query(server), spool_path=path)
    assert "an earlier run read at" in caplog.text
    assert again.describe() == source.describe()


@pytest.mark.usefixtures("items")
def test_an_error_among_the_rows_ends_the_read(server: Postgres, tmp_path: Path) -> None:
    asked = query(server, "select id, v, 1000 + 1 / (id - 500) as c from items")
    with pytest.raises(InvalidSource, match="division by zero"):
        open_data(asked, id_column="c", spool_path=tmp_path / "x.spool")


@pytest.mark.usefixtures("items")
def test_another_query_is_refused(server: Postgres, tmp_path: Path) -> None:
    path = tmp_path / "x.spool"
    open_data(query(server), spool_path=path)
    with pytest.raises(OutputExists, match="another query"):
        open_data(query(server, QUERY + " where id < 9"), spool_path=path)
    (path / "00001.done").unlink()
    with pytest.raises(InvalidSource, match=r"of \d+ ranges of a query found, all expected"):
        open_source(path)


def test_rows_without_a_vector_or_a_key(
    server: Postgres, sql: Sql, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sql(
        "drop table if exists mixed",
        "create table mixed (id bigint, v vector)",
        "insert into mixed select i, array[i, i + 0.5, -i, 1]::real[]::vector "
        "from generate_series(1, 300) i",
        "update mixed set v = null where id = 150",
        "update mixed set v = '[1,2]' where id = 250",
        "analyze mixed",
    )
    asked = query(server, "select id, v from mixed")
    with pytest.raises(InvalidSource, match=r"id = (150 holds a null|250 holds .* 2 dimensions)"):
        open_data(asked, spool_path=tmp_path / "a.spool")
    assert "an index on the column" in caplog.text
    manifest = teravec.build(
        server.uri(),
        tmp_path / "index",
        query="select id, v from mixed",
        partition_by="id",
        skip_bad=True,
        calibrate=False,
        nlist=4,
    )
    assert manifest.ntotal == 298
    assert "2 rows without a vector are left out: id = 150, id = 250" in caplog.text
    assert not (tmp_path / "index.spool").exists()
    with teravec.open(tmp_path / "index") as index:
        _, found = index.search(vectors(np.array([149, 151])), k=1, nprobe=4)
    assert found.tolist() == [[149], [151]]
    sql("insert into mixed values (null, '[1,2,3,4]')")
    with pytest.raises(InvalidSource, match="id = null found"):
        open_data(
            query(server, "select id, v from mixed where id is null or id < 9"),
            spool_path=tmp_path / "b.spool",
        )


def test_a_password_shows_nowhere(
    server: Postgres, sql: Sql, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sql("drop table if exists few", f"create table few as select 1 as id, '{[1, 2]}'::vector as v")
    uri = server.uri(user="postgres:s3cret%2F")
    with pytest.raises(InvalidSource) as wrong:
        teravec.build(uri, tmp_path / "a", query="select id from nowhere", partition_by="id")
    with pytest.raises(StorageError) as absent:
        teravec.build(uri.replace("/postgres?", "/none?"), tmp_path / "a", query="select 1")
    teravec.build(uri, tmp_path / "a", query="select * from few", calibrate=False, nlist=1)
    texts = [str(wrong.value), repr(absent.value), caplog.text, run(server.uri(), "select 1")]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any("s3cret" in str(text) for text in texts)
    assert not any(b"s3cret" in data for data in files)
