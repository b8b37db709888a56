"""Tables in memory: Arrow tables, and data frames that are converted a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from teravec.errors import InvalidSource
from teravec.sources.columnar import ColumnTable

__all__ = ["ArrowTable", "FrameTable"]

_GROUP_ROWS = 8192
"""Rows of a group. A read can start at any group for free, and converts no row before it."""

_LOOK_ROWS = 1000
"""Leading rows from which the type of a column of Python objects is inferred."""


def _plan_groups(n: int) -> list[int]:
    return [min(_GROUP_ROWS, n - start) for start in range(0, n, _GROUP_ROWS)]


class ArrowTable(ColumnTable):
    """A pyarrow.Table; its columns are sliced, never copied."""

    def __init__(self, path: Path, table: Any) -> None:
        super().__init__(path, table.nbytes, table.schema, _plan_groups(table.num_rows))
        self._table = table

    def arrays(self, column: str, group: int, rows: int) -> Iterator[Any]:
        whole = self._table.column(self.schema.get_field_index(column))
        for chunk in whole.slice(int(self.starts[group])).chunks:
            for start in range(0, len(chunk), rows):
                yield chunk.slice(start, rows)


class FrameTable(ColumnTable):
    """Columns of a pandas data frame, of arrays or of lists, converted block by block.

    Parameters
    ----------
    path : Path
        Its name in messages.
    columns : dict of str to sequence
        Each can be sliced by position: a pandas ``.iloc``, or an array of objects.
    n : int
        Number of rows.
    """

    def __init__(self, path: Path, columns: dict[str, Any], n: int) -> None:
        self._columns = columns
        schema = pa.schema(
            [(name, _infer_type(values[: min(n, _LOOK_ROWS)])) for name, values in columns.items()]
        )
        super().__init__(path, 0, schema, _plan_groups(n))

    def arrays(self, column: str, group: int, rows: int) -> Iterator[Any]:
        kind = self.schema.field(column).type
        for start in range(int(self.starts[group]), int(self.starts[-1]), rows):
            stop = min(start + rows, int(self.starts[-1]))
            try:
                yield from _to_chunks(self._columns[column][start:stop], kind)
            except (pa.ArrowException, TypeError, ValueError) as error:
                why = " ".join(str(error).split())
                raise InvalidSource(
                    f"{self.path}: column {column!r} is not {kind} in rows {start} to {stop - 1}: "
                    f"{why}"
                ) from error


def _to_chunks(values: Any, kind: Any = None) -> list[Any]:
    found = pa.array(values, type=kind, from_pandas=True)
    return found.chunks if isinstance(found, pa.ChunkedArray) else [found]


def _infer_type(values: Any) -> Any:
    """Infer the Arrow type of some values; null if they have no common type."""
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return pa.from_numpy_dtype(values.dtype)
    try:
        chunks = _to_chunks(values)
    except (pa.ArrowException, TypeError, ValueError):
        return pa.null()
    return chunks[0].type if chunks else pa.null()
