"""Parquet files, decoded a few rows at a time.

Memory never holds a whole row group or column chunk: chunks are read through a small buffer, and
batches have a bounded number of rows. Only a page cannot be split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from teravec.sources.columnar import ColumnarFile, Columns, ColumnTable, arrow_errors
from teravec.sources.vectorfile import source_errors

__all__ = ["open_parquet"]

_BUFFER_BYTES = 1 << 20


def open_parquet(path: Path, columns: Columns) -> ColumnarFile:
    """Open a .parquet file; only its footer, and row 0 of free-length lists, are read."""
    return ColumnarFile(_ParquetTable(path), columns)


class _ParquetTable(ColumnTable):
    """The footer of a Parquet file; the file itself is open only while a column is decoded."""

    def __init__(self, path: Path) -> None:
        with source_errors(path):
            size = path.stat().st_size
        with arrow_errors(path), _open(path) as file:
            footer = file.metadata
            rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            super().__init__(path, size, file.schema_arrow, rows)

    def arrays(self, column: str, group: int, rows: int) -> Iterator[Any]:
        groups = range(group, len(self.starts) - 1)
        with _open(self.path) as file:
            for batch in file.iter_batches(rows, groups, [column], use_threads=False):
                yield batch.column(batch.schema.get_field_index(column))


def _open(path: Path) -> Any:
    # By default pyarrow reads a whole column chunk at once.
    return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False, memory_map=False)
