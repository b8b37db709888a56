"""Rows of an index whose lists several servers have: found by all, read where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.index.columns import IndexColumns
from teravec.index.opened import OpenedIndex
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.serving.coordinator.rounds import FindRound, TakeRound
from teravec.serving.coordinator.servers import AskedServers
from teravec.serving.coordinator.shares import PlacePairs

__all__ = ["ServerRows"]

Int64 = npt.NDArray[np.int64]

_ROW_BYTES = 64 << 10  # to read, for a row


class ServerRows:
    """Reads rows through servers; see ``RowReader``.

    Parameters
    ----------
    servers : AskedServers
        If it allows partial answers, rows of lists without a live owner are not found.
    """

    def __init__(self, servers: AskedServers) -> None:
        self._servers, self._index = servers, servers.index

    @property
    def opened(self) -> OpenedIndex:
        """The index's manifest."""
        return self._index.steps.opened

    def find(self, ids: Int64, list_nos: Int64 | None) -> Int64:
        """Find rows: each server looks in its lists, and the newest row counts."""
        places = np.full(len(ids), -1, np.int64)
        pairs = self._servers.every_list(list_nos)
        if not len(ids) or not len(pairs):
            return places
        round = FindRound(self._index.version, ids, self._index.lists_of)
        parts, left = self._servers.ask(round, pairs)
        self._servers.count(pairs, left)
        nlist = self._index.nlist
        for part in parts:
            found = part.answer.ids
            layers, known = ((each >> PLACE_BITS) // nlist for each in (found, places))
            newer = (found >= 0) & ((layers > known) | ((layers == known) & (found < places)))
            places[newer] = found[newer]
        return places

    def take(self, places: Int64, names: Sequence[str], *, vectors: bool) -> Any:
        """Read rows from the servers that have them."""
        schema = self._schema(names, vectors=vectors)
        asked = np.unique(places[places >= 0])
        found, tables = [np.empty(0, np.int64)], [schema.empty_table()]
        if len(asked) and len(schema):
            rows = np.zeros(len(asked), np.int64)
            pairs = PlacePairs.of_places(rows, asked, self._index.lists_of(asked), _ROW_BYTES)
            round = TakeRound(self._index.version, names, vectors, schema)
            parts, left = self._servers.ask(round, pairs)
            self._servers.count(pairs, left)
            found += [part.answer.ids for part in parts]
            tables += [part.answer.table for part in parts]
        at = np.concatenate(found)
        order = np.argsort(at)
        where = np.searchsorted(at, places, sorter=order)
        where[where == len(at)] = 0
        if not len(at):
            indices = pa.nulls(len(places), pa.int64())
        else:
            where = order[where]
            indices = pa.array(where, mask=at[where] != places)
        return pa.concat_tables(tables).take(indices)

    def _schema(self, names: Sequence[str], *, vectors: bool) -> Any:
        fields = [IndexColumns(self.opened).schema.field(name) for name in names]
        if vectors:
            fields.append(pa.field("vector", pa.list_(pa.float32(), self._index.d)))
        return pa.schema(fields)
