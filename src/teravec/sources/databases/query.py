"""What is read from a database, and how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import xxhash

from teravec.arguments import flag, one_of, text, whole_number
from teravec.errors import InvalidArgument
from teravec.sources.databases.address import Address, is_database, parse_address
from teravec.sources.databases.database import literal, quoted

__all__ = ["DatabaseQuery", "as_query"]

_MOST_READERS = 256


@dataclass(frozen=True)
class DatabaseQuery:
    """The rows of a query, as data that ``build`` and ``add`` take.

    Parameters
    ----------
    address : Address
    sql : str
        A SELECT. Its columns are the vectors, and the ids if there are any.
    partition_by : str, optional
        Column of whole numbers, dates or times whose ranges are read in parallel and resumed one
        by one. Not given: one range, in the order of the query.
    readers : int
        Connections that read at the same time.
    bytes_type : {"float32", "float16"}
        What vectors are that lie in the database as plain bytes; little-endian.
    since_column : str, optional
        Column of which an index remembers the largest value, to read later only rows from there on.
    since : object, optional
        The value from which on rows are read.
    keep_partitions : bool
        After a kill, keep ranges that an earlier run read from another snapshot.
    fewest_rows : int
        Rows of a range on average, at least: a range has a connection's round trips and two files.
    """

    address: Address
    sql: str
    partition_by: str | None = None
    readers: int = 4
    bytes_type: str = "float32"
    since_column: str | None = None
    since: Any = None
    keep_partitions: bool = False
    fewest_rows: int = 1 << 14

    def read_since(self, value: Any) -> DatabaseQuery:
        """Return the same query, of rows from this value of the since column on."""
        return replace(self, since=value)

    @property
    def rows(self) -> str:
        """The SELECT of the rows to read."""
        if self.since_column is None or self.since is None:
            return self.sql
        since = f"{quoted(self.since_column)} >= {literal(self.since)}"
        return f"select * from ({self.sql}) as teravec_all where {since}"

    @property
    def digest(self) -> str:
        """A name of the query: equal for the same rows of the same database."""
        return self._digest(self.sql)

    @property
    def rows_digest(self) -> str:
        """As `digest`, of the rows from ``since`` on."""
        return self._digest(self.rows)

    def _digest(self, sql: str) -> str:
        parts = (self.address.shown, sql, self.since_column or "", self.bytes_type)
        return xxhash.xxh3_64_hexdigest("\0".join(parts).encode())


def as_query(
    data: Any,
    *,
    query: str | None = None,
    partition_by: str | None = None,
    readers: int | None = None,
    bytes_type: str | None = None,
    since_column: str | None = None,
    keep_partitions: bool = False,
) -> Any:
    """Return the `DatabaseQuery` of an address with these options; return other data unchanged.

    Raises
    ------
    InvalidArgument
        An address without a query, options of a query for other data, or options that do not fit.
    """
    keep_partitions = flag(keep_partitions, "keep_partitions")
    if isinstance(data, list | tuple) and len(data) == 1 and is_database(data[0]):
        data = data[0]
    if isinstance(data, list | tuple) and any(map(is_database, data)):
        raise InvalidArgument("one database expected, several paths found; unite them in the query")
    if not is_database(data):
        given = {"query": query, "partition_by": partition_by, "readers": readers}
        given |= {"bytes_type": bytes_type, "since_column": since_column}
        name = next((name for name, value in given.items() if value is not None), None)
        if name is not None or keep_partitions:
            raise InvalidArgument(
                f"{name or 'keep_partitions'} is for databases; an address as "
                "postgresql://HOST/NAME expected"
            )
        return data
    address = parse_address(data)
    if query is None:
        raise InvalidArgument(
            f"{address.shown}: a query expected, as --query 'select id, embedding from items' "
            "(query=...)"
        )
    if readers is not None and readers != 1 and partition_by is None:
        raise InvalidArgument(
            f"{readers} readers found without a column whose ranges they read; add --partition-by "
            "id (partition_by=...)"
        )
    return DatabaseQuery(
        address,
        text(query, "query").strip().rstrip(";").rstrip(),
        None if partition_by is None else text(partition_by, "partition_by"),
        4 if readers is None else whole_number(readers, "readers", 1, _MOST_READERS),
        one_of(bytes_type or "float32", ("float32", "float16"), "bytes_type"),
        None if since_column is None else text(since_column, "since_column"),
        keep_partitions=keep_partitions,
    )
