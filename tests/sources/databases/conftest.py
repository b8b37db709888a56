"""One PostgreSQL for all tests of databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .server import Postgres

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A server with the extension of pgvector in each database."""
    found = Postgres()
    try:
        run(found.uri(), "create extension vector")
        yield found
    finally:
        found.stop()


@pytest.fixture
def sql(server: Postgres) -> Sql:
    """Run commands in a connection of their own."""
    return lambda *commands: run(server.uri(), *commands)


def run(uri: str, *commands: str) -> list[tuple[Any, ...]]:
    """Run commands, and return the rows of the last."""
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for command in commands:
            cursor.execute(command)
        return list(cursor.fetchall()) if cursor.description else []
