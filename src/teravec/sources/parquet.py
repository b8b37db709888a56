"""Parquet files, decoded a few rows at a time.

Memory never holds a whole row group or column chunk: chunks are read through a small buffer, and
batches have a bounded number of rows. Only a page cannot be split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from teravec.sources.columnar import ColumnTable, arrow_errors
from teravec.sources.packed import OpenSource, open_file
from teravec.sources.remote import SourcePath, as_file
from teravec.storage.positioned import PositionedFile

__all__ = ["ParquetTable"]

_BUFFER_BYTES = 1 << 20
_REMOTE_BYTES = 8 << 20  # one request, whose bytes take longer than its way


class ParquetTable(ColumnTable):
    """The footer of a Parquet file; the file itself is open only while a column is decoded."""

    def __init__(self, path: SourcePath) -> None:
        with arrow_errors(path), open_file(path) as handle, _opened(path, handle) as file:
            footer = file.metadata
            rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            super().__init__(path, handle.size, file.schema_arrow, rows)
            self._footer, self._value_bytes = footer, dict[str, float]()

    def value_bytes(self, column: str) -> float:
        """Return the largest mean of a row group: its bytes before compression, a row."""
        if column not in self._value_bytes:
            self._value_bytes[column] = self._measure(column)
        return self._value_bytes[column]

    def _measure(self, column: str) -> float:
        most = 1.0
        for number in range(self._footer.num_row_groups):
            group = self._footer.row_group(number)
            chunks = [group.column(i) for i in range(group.num_columns)]
            mine = [c for c in chunks if c.path_in_schema.split(".")[0] == column]
            size = sum(chunk.total_uncompressed_size for chunk in mine)
            most = max(most, size / max(1, group.num_rows))
        return most

    def arrays(self, column: str, group: int, rows: int) -> Iterator[Any]:
        groups = range(group, len(self.starts) - 1)
        with (
            open_file(self.path) as handle,
            _opened(self.path, handle, metadata=self._footer) as file,
        ):
            for batch in file.iter_batches(rows, groups, [column], use_threads=False):
                yield batch.column(batch.schema.get_field_index(column))


def _opened(path: SourcePath, handle: OpenSource, **known: Any) -> Any:
    """Open a file with pyarrow, which by default reads a whole column chunk at once."""
    here = isinstance(handle, PositionedFile)
    return pq.ParquetFile(
        path if isinstance(handle, PositionedFile) else pa.PythonFile(as_file(handle), "r"),
        buffer_size=_BUFFER_BYTES if here else _REMOTE_BYTES,
        pre_buffer=False,
        memory_map=False,
        **known,
    )
