"""Readers of ranges: threads that take one range after another, each with a connection."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from teravec.progress import Bar
from teravec.sources.databases.database import Connection, ConnectionLost, Database
from teravec.sources.databases.decoding import RowDecoder
from teravec.sources.databases.plan import Done, Spill
from teravec.sources.databases.watermark import Watermark
from teravec.sources.held import HeldFile, hold_array
from teravec.sources.spool import spool

__all__ = ["PartitionReader", "ReadSizes"]

log = logging.getLogger(__name__)

_DELAYS_S = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Waits between the tries of one range."""


@dataclass(frozen=True)
class ReadSizes:
    """How much is read at once.

    Parameters
    ----------
    readers : int
        Connections.
    batch_bytes : int
        Of a batch, about.
    delays_s : tuple of float
        Waits before a range is tried again; then its error ends the read.
    """

    readers: int
    batch_bytes: int
    delays_s: tuple[float, ...] = _DELAYS_S


class PartitionReader:
    """Reads ranges into their sealed files."""

    def __init__(
        self,
        database: Database,
        spill: Spill,
        decoder: RowDecoder,
        sizes: ReadSizes,
        since_column: str | None,
    ) -> None:
        self._database, self._spill = database, spill
        self._decoder, self._sizes, self._since_column = decoder, sizes, since_column
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._open: set[Connection] = set()
        self._waiting: deque[tuple[int, str]] = deque()
        self._working = 0  # readers that will take another range

    def read(self, queries: dict[int, str], bar: Bar) -> None:
        """Read and seal ranges; the first error ends all readers and is raised.

        Parameters
        ----------
        queries : dict of int to str
            The SELECT of each range.
        bar : Bar
            Counts vectors.

        Raises
        ------
        ConnectionLost, SnapshotGone, InvalidSource, StorageError
        """
        counted = _Counted(bar)
        self._waiting.extend(queries.items())
        self._working = self._sizes.readers
        with ThreadPoolExecutor(self._sizes.readers, thread_name_prefix="teravec-db") as pool:
            futures = [pool.submit(self._work, counted) for _ in range(self._working)]
            try:
                ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in ended:
                    future.result()
            finally:  # Ctrl-C too
                self._stop.set()
                with self._lock:
                    for connection in self._open:
                        connection.cancel()

    def _work(self, counted: _Counted) -> None:
        connection: Connection | None = None
        try:
            while (taken := self._take()) is not None:
                connection = self._try(connection, *taken, counted)
        except _Stopped:
            return
        finally:
            self._drop(connection)

    def _try(
        self, connection: Connection | None, number: int, sql: str, counted: _Counted
    ) -> Connection:
        """Read one range, as often as its connection is lost; return the connection."""
        for delay in (*self._sizes.delays_s, None):
            try:
                if connection is None:
                    connection = self._connect()
                self._read_range(connection, number, sql, counted)
            except ConnectionLost as error:
                self._drop(connection)
                connection = None
                if delay is None:
                    self._leave(number, sql, error)
                    raise _Stopped from None
                log.warning("%s; range %d is read again", error, number)
                if self._stop.wait(delay):
                    break
            except BaseException:
                self._drop(connection)  # it may have been opened here
                raise
            else:
                return connection
        raise _Stopped

    def _take(self) -> tuple[int, str] | None:
        """Take the next range; without one, count this reader out."""
        with self._lock:
            if self._waiting and not self._stop.is_set():
                return self._waiting.popleft()
            self._working -= 1
            return None

    def _leave(self, number: int, sql: str, error: ConnectionLost) -> None:
        """Give a range back to readers that still work, or raise if this was the last one."""
        with self._lock:
            self._working -= 1
            if not self._working:
                raise error
            self._waiting.append((number, sql))
        log.warning("%s; %d other readers go on", error, self._working)

    def _connect(self) -> Connection:
        connection = self._database.connect()
        with self._lock:
            self._open.add(connection)
        return connection

    def _drop(self, connection: Connection | None) -> None:
        if connection is not None:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _read_range(self, connection: Connection, number: int, sql: str, counted: _Counted) -> None:
        self._spill.forget(number)  # rows without a record are of another state, or damaged
        found = _Found()
        try:
            with closing(self._blocks(connection, sql, found)) as blocks:
                first = next(blocks, None)
                if first is not None:
                    spool(chain([first], blocks), self._spill.rows(number), counted, skip_bad=True)
        except BaseException:
            if self._stop.is_set():
                raise _Stopped from None
            raise
        self._spill.write_done(number, found.done())

    def _blocks(
        self, connection: Connection, sql: str, found: _Found
    ) -> Generator[HeldFile, None, None]:
        with closing(connection.batches(sql, self._sizes.batch_bytes)) as batches:
            for batch in batches:
                if self._stop.is_set():
                    raise _Stopped
                if batch.num_rows:
                    yield self._decode(batch, found)

    def _decode(self, batch: Any, found: _Found) -> HeldFile:
        rows = self._decoder.decode(batch)
        found.rows += len(rows.vectors)
        found.bad += rows.bad
        found.keys += rows.keys
        if self._since_column is not None:
            column = batch.column(batch.schema.get_field_index(self._since_column))
            seen = Watermark.observe(column, rows.vectors, rows.ids)
            found.watermark = found.watermark.joined(seen)
        block = hold_array(Path(self._database.address.shown), rows.vectors)
        if rows.ids is not None:
            block.hold_ids(rows.ids)
        return block


class _Found:
    """Counts of one range."""

    def __init__(self) -> None:
        self.rows = self.bad = 0
        self.keys: list[str] = []
        self.watermark = Watermark()

    def done(self) -> Done:
        """Return what the sealed range has."""
        return Done(self.rows, self.bad, tuple(self.keys[:3]), self.watermark)


class _Stopped(Exception):
    """Another reader failed."""


class _Counted:
    """Progress of all readers on one bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._lock = bar, threading.Lock()

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """Return itself: the ranges are one stage."""
        return nullcontext(self)

    def advance(self, amount: int) -> None:
        """Count rows."""
        with self._lock:
            self._bar.advance(amount)
