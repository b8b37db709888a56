"""The columns of an open index: rows by segment or by place, verified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.errors import InvalidArgument
from teravec.index.opened import OpenedIndex

__all__ = ["IndexColumns"]

Int64 = npt.NDArray[np.int64]


class IndexColumns:
    """Reads columns of an open index.

    Rows are those of a segment's list file, in the same order: list after list. A place is
    ``run << 32 | row in the run``, as scanners return it. Every byte is verified before it is
    decoded. Threads may share the object.

    Parameters
    ----------
    index : OpenedIndex
        Stays open as long as columns are read.

    Attributes
    ----------
    schema : pyarrow.Schema
        Empty if the index keeps no columns.
    text_ids : str or None
        The column of the ids, if they are texts.
    """

    def __init__(self, index: OpenedIndex) -> None:
        self._index = index
        self.schema = index.manifest.schema or pa.schema([])
        self.text_ids = index.manifest.text_ids

    def check(self, names: Sequence[str]) -> list[str]:
        """Return the names, or raise InvalidArgument with those that there are."""
        for name in names:
            if name not in self.schema.names:
                known = ", ".join(self.schema.names) or "none: it was built without columns"
                raise InvalidArgument(f"column {name!r} asked for; {self._index.paths} has {known}")
        if len(set(names)) < len(names):
            raise InvalidArgument(f"columns {', '.join(names)} asked for, each once expected")
        return list(names)

    def read(self, segment: int, start: int, stop: int, names: Sequence[str]) -> Any:
        """Read rows [start, stop) of an open segment, by its number, as a pyarrow.Table.

        Raises
        ------
        CorruptFile
            A chunk is damaged; the message names the file.
        """
        return self._index.column_files[segment].read(start, stop, names)

    def take_rows(self, segment: int, rows: Int64, names: Sequence[str]) -> Any:
        """Read rows (n,) of an open segment, in any order, as a pyarrow.Table. Raises as `read`."""
        return self._index.column_files[segment].take(rows, names)

    def take(self, places: Int64, names: Sequence[str]) -> Any:
        """Read the rows at some places, in their order, as a pyarrow.Table.

        Parameters
        ----------
        places : ndarray of shape (n,), int64
            -1 for no row: all of its columns are null.
        names : sequence of str
            As ``check`` returned them.

        Raises
        ------
        CorruptFile
        """
        if not names:
            return pa.table({})
        fields = [self.schema.field(name) for name in names]
        found = np.flatnonzero(places >= 0)
        if len(found) < len(places):
            fields = [field.with_nullable(True) for field in fields]
        schema = pa.schema(fields)
        segments, rows = self._index.find_rows(places[found])
        tables, order = [schema.empty_table()], [np.empty(0, np.int64)]
        for number in np.unique(segments).tolist():
            mine = np.flatnonzero(segments == number)
            tables.append(self.take_rows(number, rows[mine], names).cast(schema))
            order.append(found[mine])
        at = np.full(len(places), -1, np.int64)
        where = np.concatenate(order)
        at[where] = np.arange(len(where))
        indices = pa.array(at, mask=at < 0)
        return pa.concat_tables(tables).take(indices)
