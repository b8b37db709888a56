"""Additions from a query with a column that grows: nothing is lost, nothing is read twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from teravec.errors import InvalidSource
from teravec.sources.databases.decoding import RowDecoder, Rows

from .conftest import Sql
from .server import Postgres

QUERY = "select id, v, updated_at from notes"
HOW: dict[str, Any] = {
    "query": QUERY,
    "partition_by": "id",
    "since_column": "updated_at",
    "readers": 2,
}


@pytest.fixture
def index(server: Postgres, sql: Sql, tmp_path: Path) -> Path:
    """An index of 40 rows, all of one instant."""
    sql(
        "drop table if exists notes",
        "create table notes (id bigint primary key, v vector(2), updated_at timestamptz)",
        "insert into notes select i, array[i, 0]::real[]::vector, '2026-01-01 00:00:00Z' "
        "from generate_series(1, 40) i",
    )
    out = tmp_path / "index"
    teravec.build(server.uri(), out, calibrate=False, nlist=2, codec="flat", **HOW)
    return out


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the batches that are decoded."""
    decode, found = RowDecoder.decode, list[int]()

    def decoding(self: RowDecoder, batch: Any) -> Rows:
        found.append(batch.num_rows)
        return decode(self, batch)

    monkeypatch.setattr(RowDecoder, "decode", decoding)
    return found


def find(index: Path, id_: int) -> tuple[int, float]:
    """The nearest row to the vector (id_, 0), and its distance."""
    with teravec.open(index) as opened:
        distances, ids = opened.search(np.array([[id_, 0]], np.float32), k=1, nprobe=2)
    return int(ids[0, 0]), float(distances[0, 0])


def test_only_new_rows_are_read(index: Path, server: Postgres, sql: Sql, read: list[int]) -> None:
    sql(
        "insert into notes values (100, '[100, 0]', '2026-01-02 00:00:00Z')",
        "update notes set v = '[200, 0]', updated_at = '2026-01-03 00:00:00Z' where id = 5",
    )
    first = teravec.add(index, server.uri(), **HOW)
    assert (first.number, sum(read)) == (1, 41)  # the rows of the first instant once more
    assert find(index, 100) == (100, 0)
    assert find(index, 200) == (5, 0)
    read.clear()
    assert teravec.add(index, server.uri(), **HOW).number == 1
    assert sum(read) == 1
    sql("insert into notes values (101, '[101, 0]', '2026-01-03 00:00:00Z')")  # a tie
    assert teravec.add(index, server.uri(), **HOW).number == 2
    assert find(index, 101) == (101, 0)
    assert not list((index / "adding").rglob("*.spool"))
    teravec.rollback(index, 1)
    assert teravec.add(index, server.uri(), **HOW).number == 4  # what went is read again
    assert find(index, 101) == (101, 0)


def test_the_build_is_the_first_read(index: Path, server: Postgres, read: list[int]) -> None:
    assert teravec.add(index, server.uri(), **HOW).number == 0
    assert sum(read) == 40
    other = {**HOW, "query": QUERY + " where id < 9"}
    assert teravec.add(index, server.uri(), **other).number == 1
    assert sum(read) == 48


def test_a_change_in_progress_is_not_passed_over(index: Path, server: Postgres, sql: Sql) -> None:
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(server.uri(), autocommit=True) as slow, slow.cursor() as cursor:
        cursor.execute("begin")
        cursor.execute("select now()")
        sql("insert into notes values (301, '[301, 0]', clock_timestamp())")
        teravec.add(index, server.uri(), **HOW)
        assert find(index, 300)[0] == 301
        cursor.execute("insert into notes values (300, '[300, 0]', now())")
        cursor.execute("commit")
    teravec.add(index, server.uri(), **HOW)
    assert find(index, 300) == (300, 0)


def test_no_rows_from_there_on_are_no_error(index: Path, server: Postgres, sql: Sql) -> None:
    sql("delete from notes")
    assert teravec.add(index, server.uri(), **HOW).number == 0
    with pytest.raises(InvalidSource, match="no rows"):
        teravec.add(index, server.uri(), query=QUERY, partition_by="id")


def test_the_nightly_job_is_one_line(index: Path, server: Postgres, sql: Sql) -> None:
    sql("insert into notes values (100, '[100, 0]', now())")
    command = ["add", str(index), server.uri(), "--query", QUERY, "--partition-by", "id"]
    command += ["--since-column", "updated_at", "--json"]
    for version in (1, 1):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["version"] == version


def test_a_killed_addition_goes_on_and_vacuum_removes_what_nobody_finishes(
    index: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: RowDecoder, batch: Any) -> Rows:
        raise KeyboardInterrupt

    how = {**HOW, "query": QUERY + " where id > 9"}
    with monkeypatch.context() as patch:
        patch.setattr(RowDecoder, "decode", failing)
        with pytest.raises(KeyboardInterrupt):
            teravec.add(index, server.uri(), **how)
    assert list((index / "adding").rglob("plan"))
    assert teravec.add(index, server.uri(), **how).number == 1
    with monkeypatch.context() as patch:
        patch.setattr(RowDecoder, "decode", failing)
        with pytest.raises(KeyboardInterrupt):
            teravec.add(index, server.uri(), query=QUERY, partition_by="id")
    teravec.vacuum(index, older_than="0s")
    assert not list((index / "adding").rglob("*"))
