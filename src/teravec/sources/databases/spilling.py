"""Reading a query into sealed files: ranges in parallel, each again after a lost connection."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa

from teravec.errors import InvalidSource, OutputExists, StorageError
from teravec.memory import MIB
from teravec.progress import Progress
from teravec.sources.databases.database import ConnectionLost, Database, SnapshotGone, quoted
from teravec.sources.databases.decoding import RowDecoder, choose_vector_column
from teravec.sources.databases.opening import open_database
from teravec.sources.databases.partitions import Partition, plan_partitions
from teravec.sources.databases.plan import Done, ReadPlan, Spill
from teravec.sources.databases.query import DatabaseQuery
from teravec.sources.databases.reading import PartitionReader, ReadSizes
from teravec.sources.databases.watermark import Watermark, Watermarks
from teravec.sources.spool import SpoolFile, open_spool
from teravec.storage.output_lock import hold_directory

__all__ = ["NothingNew", "Spilled", "spill_query"]

log = logging.getLogger(__name__)

_SNAPSHOTS = 3  # that a read begins anew with, before it gives up
_PROBED_ROWS = 100
_READER_BYTES = 14 * MIB  # a reader's buffers, beside its batches
_BATCH_BYTES = (256 << 10, 8 * MIB)
_COPIES = 5  # of a batch, at most, while it is received, decoded and written


def spill_query(
    query: DatabaseQuery,
    path: Path,
    *,
    id_column: str | None,
    vector_column: str | None,
    skip_bad: bool,
    memory_bytes: int,
    progress: Progress,
) -> Spilled:
    """Read a query into the sealed files of a folder, or go on with an earlier run.

    Parameters
    ----------
    query : DatabaseQuery
    path : Path
        The folder; it ends in ``SPOOL``. Once it is complete, the database is not asked again.
    id_column, vector_column : str, optional
        Not given: the partition column if it is whole numbers; the only column of vectors.
    skip_bad : bool
        Rows without a vector become rows of NaN, which are skipped later.
    memory_bytes : int
        Bounds the readers' batches; fewer readers work where it is small.
    progress : Progress

    Returns
    -------
    Spilled

    Raises
    ------
    InvalidSource
        The query fails, or a row cannot be indexed; the message names its key.
    OutputExists
        The folder holds the rows of another query, or another process is reading.
    StorageError
        The connection was lost too often; run again to go on.
    """
    if path.is_file():
        raise OutputExists(f"{path}: vectors of a stream found there; remove it to read the query")
    spill, asked = Spill(path), _describe(query, id_column, vector_column, skip_bad)
    with hold_directory(path, create=True):
        found = spill.read_plan()
        if found is not None and found.query != asked:
            raise OutputExists(
                f"{path}: holds rows of another query ({found.query['sql']}); remove it, or choose "
                "another output"
            )
        if found is None or len(spill.all_done(found)) < len(found.partitions):
            found = _Spilling(query, spill, asked, found, memory_bytes, progress).run()
        else:
            log.warning(
                "%s: going on with the rows that an earlier run read at %s; remove the folder to "
                "read the database again",
                path,
                found.began,
            )
        done = spill.all_done(found)
    _warn_of_bad(query, done.values())
    files = [open_spool(spill.rows(number)) for number, each in done.items() if each.rows]
    return Spilled(files, found.ids, _watermarks(query, found, done.values()))


def _watermarks(query: DatabaseQuery, plan: ReadPlan, done: Collection[Done]) -> Watermarks:
    """Return the watermark of the since column, by the digest of its query; empty without one."""
    if query.since_column is None:
        return {}
    found = reduce(Watermark.joined, (each.watermark for each in done), Watermark())
    if isinstance(found.value, datetime):
        for time in map(datetime.fromisoformat, plan.oldest):
            if (time.tzinfo is None) == (found.value.tzinfo is None):
                # A change that was not committed yet may have an earlier time.
                found = found.at_most(time)
    return {query.digest: found.content(query.since_column)} if found.kind else {}


def _describe(
    query: DatabaseQuery, id_column: str | None, vector_column: str | None, skip_bad: bool
) -> dict[str, Any]:
    return {
        "address": query.address.shown,
        "sql": query.rows,
        "partition_by": query.partition_by,
        "bytes_type": query.bytes_type,
        "id_column": id_column,
        "vector_column": vector_column,
        "skip_bad": skip_bad,
    }


def _warn_of_bad(query: DatabaseQuery, done: Collection[Done]) -> None:
    bad = [each for each in done if each.bad]
    if bad:
        keys = [key for each in bad for key in each.keys][:3]
        count = sum(each.bad for each in bad)
        log.warning(
            "%s: %d rows without a vector are left out: %s%s",
            query.address.shown,
            count,
            ", ".join(keys),
            " and others" if count > len(keys) else "",
        )


class NothingNew(InvalidSource):
    """No row has a value of the since column from the given one on."""


@dataclass(frozen=True)
class Spilled:
    """The sealed rows of a query.

    Parameters
    ----------
    files : list of SpoolFile
        The ranges that have rows, in order.
    ids : str or None
        The column of the ids.
    watermarks : dict
        The largest value of the since column, as a manifest keeps it.
    """

    files: list[SpoolFile]
    ids: str | None
    watermarks: Watermarks


class _Spilling:
    """One run: from the first connection to the last sealed range."""

    def __init__(
        self,
        query: DatabaseQuery,
        spill: Spill,
        asked: dict[str, Any],
        earlier: ReadPlan | None,
        memory_bytes: int,
        progress: Progress,
    ) -> None:
        self._query, self._spill, self._asked = query, spill, asked
        self._earlier, self._progress = earlier, progress
        self._memory_bytes = memory_bytes

    def run(self) -> ReadPlan:
        database = open_database(self._query.address)
        try:
            for _ in range(_SNAPSHOTS):
                try:
                    plan, decoder, columns = self._begin(database)
                    self._read(database, plan, decoder, columns)
                except SnapshotGone as error:
                    self._earlier = self._spill.read_plan()
                    log.warning("%s; the snapshot ended with its connection", error)
                else:
                    return plan
        except ConnectionLost as error:
            raise StorageError(f"{error}; run again to go on") from None
        finally:
            database.close()
        raise StorageError(
            f"{self._query.address.shown}: the connection that holds the snapshot was lost "
            f"{_SNAPSHOTS} times; run again"
        )

    def _begin(self, database: Database) -> tuple[ReadPlan, RowDecoder, str]:
        """Take a snapshot, and plan the ranges, or keep those of an earlier run."""
        database.begin()
        decoder, columns = self._make_decoder(database)
        began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        oldest = tuple(time.isoformat() for time in database.oldest_change())
        earlier = self._earlier
        if earlier is not None and self._may_keep(database, earlier):
            plan = replace(earlier, state=database.state, began=began, oldest=oldest)
            decoder.d = plan.d
        else:
            self._spill.clear()
            partitions = self._plan(database, columns)
            plan = ReadPlan(
                self._asked, database.state, began, oldest, decoder.id_column, decoder.d, partitions
            )
        self._spill.write_plan(plan)
        return plan, decoder, columns

    def _may_keep(self, database: Database, earlier: ReadPlan) -> bool:
        """Whether the ranges of an earlier run stay; say what happens to them."""
        count, done = len(earlier.partitions), len(self._spill.all_done(earlier))
        if earlier.state and earlier.state == database.state:
            log.info("%s: %d of %d ranges are there", self._spill.root, done, count)
            return True
        where = (
            f"{self._query.address.shown}: {done} of {count} ranges were read at {earlier.began}"
        )
        if self._query.keep_partitions:
            log.warning("%s and stay; the others are read as they are now", where)
            return True
        if done:
            log.warning(
                "%s, from another state of the database: all are read again (keep_partitions, "
                "--keep-partitions would keep them)",
                where,
            )
        return False

    def _make_decoder(self, database: Database) -> tuple[RowDecoder, str]:
        """Look at the query's columns and first rows; return the decoder and what to select."""
        sql, where = self._query.rows, self._query.address.shown
        probed = self._probe(database, sql)
        if probed is None:
            kind = InvalidSource if self._query.since is None else NothingNew
            raise kind(f"{where}: the query has no rows; 1 or more expected")
        asked = self._asked
        vectors = choose_vector_column(
            probed.schema,
            database.type_names(probed.schema),
            asked["vector_column"],
            self._query.bytes_type,
            where,
        )
        ids, key = asked["id_column"], self._query.partition_by
        for name in filter(None, (ids, key, self._query.since_column)):
            if name not in probed.schema.names:
                raise InvalidSource(
                    f"{where}: columns {', '.join(probed.schema.names)} found; {name!r} expected "
                    "among them"
                )
        if ids is None and key is not None and pa.types.is_integer(probed.schema.field(key).type):
            ids = key
        decoder = RowDecoder(vectors, ids, key, where, lenient=asked["skip_bad"])
        decoder.find_dimension(probed)
        if not decoder.d:
            raise InvalidSource(
                f"{where}: no vector in column {vectors.name!r} of the first "
                f"{probed.num_rows} rows; vectors expected"
            )
        used = (vectors.name, ids, key, self._query.since_column)
        names = dict.fromkeys(name for name in used if name is not None)
        return decoder, ", ".join(map(quoted, names))

    def _probe(self, database: Database, sql: str) -> Any:
        """Return the first rows as one batch; None if there are none."""
        connection = database.connect()
        sql = f"select * from ({sql}) as teravec_rows limit {_PROBED_ROWS}"
        try:
            with closing(connection.batches(sql, MIB)) as batches:
                return next((batch for batch in batches if batch.num_rows), None)
        finally:
            connection.close()

    def _plan(self, database: Database, columns: str) -> tuple[Partition, ...]:
        key, sql = self._query.partition_by, self._query.rows
        if key is None:
            return (Partition(),)
        name = quoted(key)
        bounds = f"select min({name}) as least, max({name}) as most from ({sql}) as teravec_rows"
        least, most = database.one_row(bounds)
        partitions = plan_partitions(
            key,
            least,
            most,
            rows=database.count(sql),
            readers=min(self._query.readers, database.most_readers),
            fewest_rows=self._query.fewest_rows,
        )
        if len(partitions) > 2 and database.scans_whole(partitions[0].select(sql, columns)):
            log.warning(
                "%s: each of the %d ranges of %s reads a whole table; an index on the column makes "
                "this much faster",
                self._query.address.shown,
                len(partitions),
                key,
            )
        return partitions

    def _read(self, database: Database, plan: ReadPlan, decoder: RowDecoder, columns: str) -> None:
        wanted = set(range(len(plan.partitions))) - set(self._spill.all_done(plan))
        readers = min(
            self._query.readers,
            database.most_readers,
            len(wanted) or 1,
            max(1, self._memory_bytes // _READER_BYTES),
        )
        share = (self._memory_bytes // readers - _READER_BYTES) // _COPIES
        least, most = _BATCH_BYTES
        sizes = ReadSizes(readers, min(most, max(least, share)))
        reader = PartitionReader(database, self._spill, decoder, sizes, self._query.since_column)
        queries = {
            number: plan.partitions[number].select(self._query.rows, columns)
            for number in sorted(wanted)
        }
        with self._progress.stage("read", 0, "vectors") as bar:
            reader.read(queries, bar)
