"""Opening the database of an address."""

from __future__ import annotations

from teravec.sources.databases.address import Address
from teravec.sources.databases.database import Database
from teravec.sources.databases.postgres import PostgresDatabase

__all__ = ["open_database"]


def open_database(address: Address) -> Database:
    """Return the database of an address; nothing is connected yet."""
    if address.kind == "postgresql":
        return PostgresDatabase(address)
    from teravec.sources.databases.embedded import DuckDatabase, SqliteDatabase  # imports sqlite3

    return SqliteDatabase(address) if address.kind == "sqlite" else DuckDatabase(address)
