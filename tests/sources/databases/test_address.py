"""Addresses of databases; secrets show nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from teravec.errors import InvalidArgument
from teravec.sources.databases.address import is_database, parse_address
from teravec.sources.databases.query import as_query


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ann:s3cret@db:5432/x", "postgresql://ann:***@db:5432/x"),
        ("postgres://ann@db/x", "postgresql://ann@db/x"),
        ("postgresql:///x?host=/tmp", "postgresql:///x?host=/tmp"),
        ("postgresql://:s3cret@db/x", "postgresql://:***@db/x"),
        ("postgresql://db/x?password=s3cret&a=1", "postgresql://db/x?password=***&a=1"),
        ("postgresql://db/x?a=1&sslpassword=s3cret", "postgresql://db/x?a=1&sslpassword=***"),
    ],
)
def test_what_is_shown_has_no_password(text: str, shown: str) -> None:
    address = parse_address(text)
    assert address.shown == shown
    for view in (repr(address), str(address), repr(as_query(text, query="select 1"))):
        assert "s3cret" not in view
    assert address.redact(f"no {address.uri} at s3cret") == f"no {shown} at " + (
        "s3cret" if "s3cret" not in text else "***"
    )


def test_a_password_is_hidden_in_both_of_its_forms() -> None:
    address = parse_address("postgresql://ann:s3%40cret@db/x")
    assert address.redact("s3%40cret and s3@cret") == "*** and ***"


@pytest.mark.parametrize("text", ["postgresql://ann:s3@cret@db/x", "postgresql://a:s3/cret@db/x"])
def test_an_address_that_cannot_be_parsed_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidArgument, match="%40") as error:
        parse_address(text)
    assert "cret" not in str(error.value)


def test_files() -> None:
    assert parse_address("sqlite:///a/b.db").path == Path("a/b.db")
    assert parse_address("duckdb:////data/b.db").path == Path("/data/b.db")
    for text in ("sqlite://", "sqlite:///", "duckdb://host/x"):
        with pytest.raises(InvalidArgument, match="a file expected"):
            parse_address(text)


def test_what_is_a_database() -> None:
    assert is_database("postgresql://x/y")
    assert is_database("DuckDB:///x")
    assert not is_database("s3://x/y")
    assert not is_database("postgresql")
    assert not is_database(Path("sqlite:///x"))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("a.npy", {"query": "select 1"}, "query is for databases"),
        ("a.npy", {"keep_partitions": True}, "keep_partitions is for databases"),
        ("sqlite:///a", {}, "a query expected"),
        ("sqlite:///a", {"query": "select 1", "readers": 3}, "without a column"),
        ("sqlite:///a", {"query": "select 1", "partition_by": "a", "readers": 0}, "readers"),
        ("sqlite:///a", {"query": "select 1", "bytes_type": "int8"}, "bytes_type"),
        (["sqlite:///a", "b.npy"], {"query": "select 1"}, "one database expected"),
    ],
)
def test_options_that_do_not_fit(data: object, options: dict, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        as_query(data, **options)


def test_other_data_pass() -> None:
    data = ["a.npy", "b.npy"]
    assert as_query(data) is data
