"""Databases that are files, read inside this process: SQLite and DuckDB."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from teravec.arguments import install
from teravec.errors import InvalidArgument, InvalidSource, TeravecError
from teravec.sources.databases.address import Address
from teravec.sources.databases.database import Connection, ConnectionLost, Database
from teravec.sources.fingerprint import fingerprint
from teravec.sources.vectorfile import source_errors
from teravec.storage.layout import absolute

__all__ = ["DuckDatabase", "SqliteDatabase"]

_ROWS = 64  # of the first batch, before the bytes of a row are known
_MOST_ROWS = 8192


class _FileDatabase(Database):
    """A database in one file, with a log of changes beside it."""

    def __init__(self, address: Address) -> None:
        assert address.path is not None
        self.address, self.state = address, ""
        self.path = absolute(address.path)

    def _begin(self, log: str) -> None:
        """Check that the file is there, and name its state: its bytes, and those of its log."""
        with source_errors(self.path):
            self.path.stat()
        beside = self.path.with_name(self.path.name + log)
        self.state = "-".join(fingerprint(path) for path in (self.path, beside) if path.exists())


class SqliteDatabase(_FileDatabase):
    """A database of SQLite: one connection, and one transaction for the whole read."""

    most_readers = 1
    _connection: _SqliteConnection | None = None

    def begin(self) -> None:
        self.close()
        self._begin("-wal")
        self._connection = _SqliteConnection(self.address, self.path)
        self._begin("-wal")  # again: what was committed between is in the snapshot

    def connect(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.end()
            self._connection = None


class _SqliteConnection(Connection):
    """Stays open, and in its transaction, until its database ends it."""

    def __init__(self, address: Address, path: Path) -> None:
        self._address = address
        with self._errors():
            self._connection = sqlite3.connect(
                f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False, isolation_level=None
            )
            self._connection.execute("begin")
            self._connection.execute("select count(*) from sqlite_master").fetchone()

    def batches(self, sql: str, batch_bytes: int) -> Generator[Any, None, None]:
        with self._errors():
            cursor = self._connection.execute(sql)
        names = [column[0] for column in cursor.description]
        count = _ROWS
        while True:
            with self._errors():
                rows = cursor.fetchmany(count)
            if not rows:
                return
            columns = list(zip(*rows, strict=True))
            arrays = [self._array(*column) for column in zip(names, columns, strict=True)]
            batch = pa.RecordBatch.from_arrays(arrays, names)
            count = max(1, min(_MOST_ROWS, batch_bytes * len(rows) // max(1, batch.nbytes)))
            yield batch
            del rows, columns, arrays, batch

    def _array(self, name: str, values: tuple[Any, ...]) -> Any:
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            kinds = sorted({type(value).__name__ for value in values if value is not None})
            raise InvalidSource(
                f"{self._address.shown}: column {name!r} holds {', '.join(kinds)}; values of one "
                "type expected: cast them in the query"
            ) from error

    def cancel(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        """Do nothing: the transaction goes on for the next range."""

    def end(self) -> None:
        """Close the connection, and with it the transaction."""
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            busy = "locked" in str(error) or "busy" in str(error)
            kind = ConnectionLost if busy else InvalidSource
            raise kind(f"{self._address.shown}: {self._address.redact(error)}") from error
        except sqlite3.Error as error:
            raise InvalidSource(f"{self._address.shown}: {self._address.redact(error)}") from error


class DuckDatabase(_FileDatabase):
    """A database of DuckDB, opened read-only: no process can change it meanwhile."""

    most_readers = 64
    _database: Any = None

    def begin(self) -> None:
        self.close()
        self._begin(".wal")
        try:
            import duckdb
        except ImportError as error:
            raise InvalidArgument(f"DuckDB needs duckdb: {install('db')}") from error
        with _duck_errors(self.address):
            self._database = duckdb.connect(str(self.path), read_only=True)

    def connect(self) -> Connection:
        with _duck_errors(self.address):
            return _DuckConnection(self.address, self._database.cursor())

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


class _DuckConnection(Connection):
    def __init__(self, address: Address, connection: Any) -> None:
        self._address, self._connection = address, connection

    def batches(self, sql: str, batch_bytes: int) -> Generator[Any, None, None]:
        count = _ROWS
        with _duck_errors(self._address):
            relation = self._connection.sql(sql)
            # The rows of a batch are fixed when reading begins; look how large a row is first.
            head = relation.limit(_ROWS).to_arrow_table()
            if head.num_rows:
                count = batch_bytes * head.num_rows // max(1, head.nbytes)
            reader = self._connection.sql(sql).to_arrow_reader(max(1, min(_MOST_ROWS, count)))
        while True:
            with _duck_errors(self._address):
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch
            del batch

    def cancel(self) -> None:
        with suppress(Exception):
            self._connection.interrupt()

    def close(self) -> None:
        with suppress(Exception):
            self._connection.close()


@contextmanager
def _duck_errors(address: Address) -> Iterator[None]:
    try:
        yield
    except TeravecError:
        raise
    except Exception as error:
        if type(error).__module__ not in ("duckdb", "_duckdb", "pyarrow.lib"):
            raise
        raise InvalidSource(f"{address.shown}: {address.redact(error)}") from error
