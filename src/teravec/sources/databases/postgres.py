"""PostgreSQL through ADBC: one exported snapshot, in which any number of connections read."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from teravec.arguments import install
from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources.databases.address import Address
from teravec.sources.databases.database import Connection, ConnectionLost, Database, SnapshotGone

__all__ = ["PostgresDatabase"]

_IO = 10  # ADBC_STATUS_IO
_LOST = ("08", "57P", "53300", "40001")
"""SQLSTATEs of connections that ended, servers that stop, too many clients, standby conflicts."""

_BEGIN = "begin isolation level repeatable read, read only"
_SETTINGS = ("set statement_timeout = 0", "set idle_in_transaction_session_timeout = 0")
_OLDEST = """
select min(xact_start), min(xact_start)::timestamp from pg_stat_activity
where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
"""
"""When the oldest open transaction began, as both kinds of time that columns have. It may yet write
rows of that time. Without pg_read_all_stats a role sees its own transactions only."""

_USE_COPY = "adbc.postgresql.use_copy"
_BATCH_BYTES = "adbc.postgresql.batch_size_hint_bytes"


class PostgresDatabase(Database):
    """A database of PostgreSQL.

    One connection takes the snapshot and exports it; it stays open while others read. As long as
    it lives, a connection that was lost is replaced by another in the same snapshot.
    """

    most_readers = 256

    def __init__(self, address: Address) -> None:
        self.address = address
        self.state = self._snapshot = ""
        self._oldest: tuple[Any, ...] = ()
        self._leader: _PostgresConnection | None = None
        self._lock = threading.Lock()  # the leader belongs to whoever holds it

    def begin(self) -> None:
        self.close()
        leader = _PostgresConnection(self.address)
        try:
            leader.execute(_BEGIN)
            sql = "select pg_export_snapshot(), pg_current_snapshot()::text, pg_is_in_recovery()"
            self._snapshot, state, standby = leader.row(sql)
            self._oldest = leader.row(_OLDEST)
        except BaseException:
            leader.close()
            raise
        # Transaction numbers of a standby come with a delay: there equal ones may hide changes.
        self.state = "" if standby else str(state)
        self._leader = leader

    def connect(self) -> Connection:
        with self._lock:
            try:
                assert self._leader is not None
                self._leader.row("select 1")
            except ConnectionLost as error:
                raise SnapshotGone(str(error)) from error
        connection = _PostgresConnection(self.address)
        try:
            connection.execute(_BEGIN)
            connection.execute(f"set transaction snapshot '{self._snapshot}'")
        except BaseException:
            connection.close()
            raise
        return connection

    def count(self, sql: str) -> int:
        return int(self._explain(sql)[0]["Plan"]["Plan Rows"])

    def scans_whole(self, sql: str) -> bool:
        return "Seq Scan" in json.dumps(self._explain(sql))

    def _explain(self, sql: str) -> Any:
        with self._lock:
            assert self._leader is not None
            plan = self._leader.row(f"explain (format json) {sql}")[0]
        return json.loads(plan) if isinstance(plan, str) else plan

    def oldest_change(self) -> tuple[Any, ...]:
        return tuple(value for value in self._oldest if value is not None)

    def type_names(self, schema: Any) -> dict[str, str]:
        # The driver learns types when it connects; it names those that were made later by number.
        found = {}
        for field in schema:
            name = getattr(field.type, "type_name", None)
            if name is not None and name.startswith("unnamed<oid:"):
                oid = int(name[len("unnamed<oid:") : -1])
                name = self.one_row(f"select typname::text from pg_type where oid = {oid}")[0]
            if name is not None:
                found[field.name] = name
        return found

    def close(self) -> None:
        if self._leader is not None:
            self._leader.close()
            self._leader = None


class _PostgresConnection(Connection):
    def __init__(self, address: Address) -> None:
        self._address = address
        with self._errors():
            self._connection = _driver().connect(address.uri, autocommit=True)
        try:
            for setting in _SETTINGS:
                self.execute(setting)
        except BaseException:
            self.close()
            raise

    def execute(self, sql: str) -> None:
        """Run a command that returns no rows."""
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(sql)

    def row(self, sql: str) -> tuple[Any, ...]:
        """Return the first row of a query, or of a command such as EXPLAIN."""
        with self._errors(), self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{_USE_COPY: "false"})
            cursor.execute(sql)
            return tuple(cursor.fetchone())

    def batches(self, sql: str, batch_bytes: int) -> Generator[Any, None, None]:
        with self._errors():
            cursor = self._connection.cursor()
        try:
            with self._errors():
                cursor.adbc_statement.set_options(**{_BATCH_BYTES: str(batch_bytes)})
                cursor.execute(sql)
                reader = cursor.fetch_record_batch()
            while True:
                with self._errors():
                    try:
                        batch = reader.read_next_batch()
                    except StopIteration:
                        return
                yield batch
                del batch
        finally:
            with suppress(Exception):  # of a connection that was lost
                cursor.close()

    def cancel(self) -> None:
        with suppress(Exception):  # it may have ended meanwhile
            self._connection.adbc_cancel()

    def close(self) -> None:
        with suppress(Exception):
            self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (InvalidSource, ConnectionLost, SnapshotGone):
            raise
        except Exception as error:
            message = f"{self._address.shown}: {self._address.redact(error)}"
            if "invalid snapshot identifier" in message or "snapshot does not exist" in message:
                raise SnapshotGone(message) from None
            if _is_lost(error):
                raise ConnectionLost(message) from None
            if not hasattr(error, "status_code") and not isinstance(error, OSError | ValueError):
                raise
            # Without its cause, whose text may hold what `redact` hides.
            raise InvalidSource(message) from None


def _is_lost(error: Exception) -> bool:
    """Whether the connection is to blame, not the query."""
    if isinstance(error, OSError):  # while rows arrive, the driver gives no SQLSTATE
        return "ERROR:" not in str(error) or "conflict with recovery" in str(error)
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith(_LOST) or (not state and getattr(error, "status_code", None) == _IO)


def _driver() -> Any:
    try:
        import adbc_driver_postgresql.dbapi as driver
    except ImportError as error:
        raise InvalidArgument(
            f"PostgreSQL needs adbc-driver-postgresql: {install('db')}"
        ) from error
    return driver
