"""The methods of a served index that return tables."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.arguments import flag, whole_number
from teravec.errors import InvalidArgument, LimitExceeded, OtherIndex, ProtocolError
from teravec.filters.filter import FilterArgument
from teravec.search.request import checked_k, checked_radius
from teravec.search.rows import as_numbers, results_of_lims
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.details import ServedColumns
from teravec.serving.wire.protocol import LARGEST_VERSION, Answer, GetRequest, SearchRequest, Wanted
from teravec.sources import parse_columns
from teravec.storage.text_ids import as_texts

__all__ = ["RemoteTables"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_MOST_IDS = 4096  # of a request: all ids of the index are read for each
_TEXT_BYTES = 256 << 10  # of ids that are texts, in a request's header
_NO_IDS = np.empty(0, np.int64)


class _Connected(Protocol):
    """What these methods need of a served index."""

    ntotal: int
    _queries: int
    _version: str

    @property
    def _served_columns(self) -> ServedColumns: ...

    def _deadline(self, timeout_s: float | None) -> Deadline: ...

    def _ask(
        self,
        queries: Float32,
        wanted: Wanted,
        nprobe: int | None,
        recall: float | None,
        candidates: int | None,
        filter: FilterArgument | None,
        columns: list[str] | None,
        vectors: bool,
        min_version: int | None,
        timeout_s: float | None,
        allow_partial: bool,
    ) -> list[Answer]: ...

    def _ask_one(
        self,
        method: str,
        request: SearchRequest | GetRequest,
        size: int,
        check: Callable[[Answer], None],
        deadline: Deadline,
    ) -> Answer: ...


class RemoteTables:
    """The methods of a served index that return tables."""

    @property
    def columns(self: _Connected) -> Any:
        """Names and types of the columns that the index keeps, a pyarrow.Schema."""
        return self._served_columns.schema

    @property
    def has_text_ids(self: _Connected) -> bool:
        """Whether ids are texts, for which numbers stand in what ``search`` returns."""
        try:
            return self._served_columns.text_ids is not None
        except InvalidArgument:  # an older server, which gives the numbers
            return False

    def query(
        self: _Connected,
        queries: Any,
        k: int = 10,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        candidates: int | None = None,
        columns: Sequence[str] | str | None = None,
        vectors: bool = False,
        filter: FilterArgument | None = None,
        min_version: int | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Find each query's nearest vectors, and return them with columns, as a table.

        Parameters
        ----------
        queries, k, nprobe, recall, candidates, filter, min_version, timeout_s
            As for ``search``.
        columns : sequence of str or str, optional
            Columns of the index to return too, or "all".
        vectors : bool
            Return the vectors too.

        Returns
        -------
        pyarrow.Table
            As from ``Index.query``.

        Raises
        ------
        TeravecError
            As ``search``.
        """
        answers = self._ask(
            queries,
            Wanted(k=checked_k(k)),
            nprobe,
            recall,
            candidates,
            filter,
            list(parse_columns(columns)),
            flag(vectors, "vectors"),
            min_version,
            timeout_s,
            False,
        )
        return _joined_tables(answers)

    def range_query(
        self: _Connected,
        queries: Any,
        radius: float,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        columns: Sequence[str] | str | None = None,
        vectors: bool = False,
        filter: FilterArgument | None = None,
        min_version: int | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Find all vectors within a radius of each query, and return them with columns, as a table.

        Parameters as for ``range_search`` and ``query``; returns as ``query``.
        """
        answers = self._ask(
            queries,
            Wanted(radius=checked_radius(radius)),
            nprobe,
            recall,
            None,
            filter,
            list(parse_columns(columns)),
            flag(vectors, "vectors"),
            min_version,
            timeout_s,
            False,
        )
        return _joined_tables(answers)

    def get(
        self: _Connected,
        ids: Any,
        columns: Sequence[str] | str | None = None,
        *,
        vectors: bool = False,
        min_version: int | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Return rows by id, as a table: see ``Index.get``.

        Parameters
        ----------
        ids, columns, vectors
            As for ``Index.get``.
        min_version, timeout_s : optional
            As for ``search``.

        Raises
        ------
        TeravecError
            As ``search``.
        """
        kept = self._served_columns
        names = None if columns is None else list(parse_columns(columns))
        text = kept.text_ids is not None
        asked = as_texts(ids, kept.schema.field(kept.text_ids).type) if text else as_numbers(ids)
        if min_version is not None:
            min_version = whole_number(min_version, "min_version", 0, LARGEST_VERSION)

        def request(part: Any) -> GetRequest:
            texts = _as_strings(part) if text else None
            numbers = _NO_IDS if text else part.to_numpy()
            wanted = names, flag(vectors, "vectors")
            return GetRequest(numbers, texts, *wanted, min_version=min_version)

        most = min(self._queries, _MOST_IDS)
        if text:
            longest = max(1, asked.nbytes // max(1, len(asked)))
            most = max(1, min(most, _TEXT_BYTES // (2 * longest)))
        runs = _Runs(self, asked, request, most)
        return runs.table(self._deadline(timeout_s))[1]

    def rows_of(
        self: _Connected, ids: Int64, columns: Sequence[str] | str | None, *, vectors: bool = False
    ) -> Any:
        """Return columns of rows by the numbers of their ids: see ``Searchable``."""
        kept, names = self._served_columns, list(parse_columns(columns))
        if not names and kept.text_ids is None and not vectors:
            return None
        wanted, at = np.unique(ids, return_inverse=True)

        def request(part: Any) -> GetRequest:
            return GetRequest(part.to_numpy(), None, names, vectors, version=self._version)

        runs = _Runs(self, pa.array(wanted), request, min(self._queries, _MOST_IDS))
        found, table = runs.table(self._deadline(None))
        places = np.full(len(wanted), -1, np.int64)
        places[found] = np.arange(len(found))
        table = table if kept.text_ids is not None else table.drop_columns(["id"])
        return table.take(pa.array(places[at], mask=places[at] < 0))


class _Runs:
    """Ids, asked for some at a time, all of one version."""

    def __init__(
        self, index: _Connected, asked: Any, request: Callable[[Any], GetRequest], most: int
    ) -> None:
        self._index, self._asked, self._request, self._most = index, asked, request, most

    def table(self, deadline: Deadline) -> tuple[Int64, Any]:
        """Return the positions of the ids that were found, and their rows, with the ids."""
        while True:
            try:
                return self._table_once(deadline)
            except OtherIndex:
                if self._request(self._asked.slice(0, 0)).version is not None:
                    raise
                deadline.check()  # it was closed meanwhile: start anew, to mix no versions

    def _table_once(self, deadline: Deadline) -> tuple[Int64, Any]:
        tables: list[Any] = []
        positions = [np.empty(0, np.int64)]
        start, version = 0, self._request(self._asked.slice(0, 0)).version
        named = version is not None
        while start < max(1, len(self._asked)):
            part = self._asked.slice(start, self._most)
            request = self._request(part)
            try:
                answer = self._ask(request, version, deadline)
            except LimitExceeded:
                if len(part) <= 1:
                    raise
                self._most = -(-len(part) // 4)
                continue
            if named and answer.version != version:
                raise ProtocolError(f"version {answer.version} answered, {version} asked for")
            version = answer.version
            found = part.take(pa.array(answer.ids))
            table = pa.table({"id": found})
            for name in [] if answer.table is None else answer.table.column_names:
                if name == "id":  # texts, where their numbers were asked for
                    table = table.set_column(0, name, answer.table[name])
                    continue
                table = table.append_column(answer.table.schema.field(name), answer.table[name])
            tables.append(table)
            positions.append(start + answer.ids)
            start += max(1, len(part))
        return np.concatenate(positions), pa.concat_tables(tables)

    def _ask(self, request: GetRequest, version: str | None, deadline: Deadline) -> Answer:
        def check(answer: Answer) -> None:
            ids = answer.ids
            if (ids[1:] <= ids[:-1]).any() or (
                len(ids) and not 0 <= int(ids[0]) <= int(ids[-1]) < request.rows
            ):
                raise ProtocolError("rows of other ids than those asked for")

        size = 8 * self._index.ntotal
        request = replace(request, version=version)
        return self._index._ask_one("get", request, size, check, deadline)


def _joined_tables(answers: list[Answer]) -> Any:
    """Join answers to consecutive queries into a table of results."""
    first, tables = 0, []
    for answer in answers:
        table = results_of_lims(answer.lims, answer.distances, answer.ids, answer.table)
        tables.append(table.set_column(0, "query", pa.array(table["query"].to_numpy() + first)))
        first += len(answer.counts)
    return pa.concat_tables(tables)


def _as_strings(texts: Any) -> list[str]:
    """Return ids that are texts, or UUIDs of 16 bytes, as strings."""
    if pa.types.is_fixed_size_binary(texts.type):
        return [str(uuid.UUID(bytes=value)) for value in texts.to_pylist()]
    return [str(value) for value in texts.to_pylist()]
