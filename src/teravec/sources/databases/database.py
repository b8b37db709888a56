"""What every database gives: a snapshot, and connections that read in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from teravec.errors import InvalidSource, TeravecError
from teravec.sources.databases.address import Address

__all__ = ["Connection", "ConnectionLost", "Database", "SnapshotGone", "literal", "quoted"]


class ConnectionLost(TeravecError):
    """A connection ended, or could not be made: the range is read again."""


class SnapshotGone(TeravecError):
    """The connection that held the snapshot ended: no other connection can read in it any more."""


class Connection(ABC):
    """One connection, which reads in its database's snapshot. It belongs to one thread."""

    @abstractmethod
    def batches(self, sql: str, batch_bytes: int) -> Generator[Any, None, None]:
        """Yield the rows of a SELECT as Arrow record batches of about so many bytes.

        Raises
        ------
        ConnectionLost
        InvalidSource
            The database refuses the query.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End the query that runs; any thread may call this."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


class Database(ABC):
    """A database that is read in one snapshot.

    Attributes
    ----------
    address : Address
    state : str
        Names the state that the snapshot shows: two snapshots of equal states show equal rows.
    most_readers : int
        Connections that can read in one snapshot at the same time.
    """

    address: Address
    state: str
    most_readers: int

    @abstractmethod
    def begin(self) -> None:
        """Take a snapshot, and drop an earlier one; sets ``state``.

        Raises
        ------
        ConnectionLost
        InvalidSource
        """

    @abstractmethod
    def connect(self) -> Connection:
        """Open a connection that reads in the snapshot.

        Raises
        ------
        ConnectionLost
        SnapshotGone
        """

    @abstractmethod
    def close(self) -> None:
        """End the snapshot."""

    def count(self, sql: str) -> int:
        """Count the rows of a query, or estimate them where counting takes long."""
        return int(self.one_row(f"select count(*) from ({sql}) as teravec_rows")[0])

    def oldest_change(self) -> tuple[Any, ...]:
        """Return when the oldest change began that the snapshot does not show.

        Its rows may have times before those that were read. In each form of time that columns
        have; empty if there is none.
        """
        return ()

    def scans_whole(self, sql: str) -> bool:
        """Whether the database would read a whole table for this range."""
        return False

    def type_names(self, schema: Any) -> dict[str, str]:
        """Return the database's own names of the types that Arrow does not have, by column."""
        return {}

    def one_row(self, sql: str) -> tuple[Any, ...]:
        """Return the only row of a query."""
        connection = self.connect()
        try:
            rows = [row for batch in connection.batches(sql, 1 << 16) for row in batch.to_pylist()]
        finally:
            connection.close()
        if len(rows) != 1:
            raise InvalidSource(f"{self.address.shown}: {len(rows)} rows found, expected 1: {sql}")
        return tuple(rows[0].values())


def quoted(name: str) -> str:
    """Quote the name of a column."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """Write a value in SQL."""
    if isinstance(value, bool) or value is None:
        raise InvalidSource(f"a value {value} found; a number, date, time or text expected")
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, datetime | date):
        value = value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
    return "'" + str(value).replace("'", "''") + "'"
