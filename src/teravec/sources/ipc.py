"""Arrow files and streams (.arrow, .arrows, .ipc, .feather), read a few rows at a time.

Batches are read in pieces, so a batch may be larger than memory. A column with a dictionary, or
of views or runs, is an exception: it is decoded one whole batch at a time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from teravec.sources.columnar import ColumnTable, arrow_errors
from teravec.sources.ipc_messages import Layout, metadata_errors, read_batch, read_layout
from teravec.sources.ipc_pieces import ALIGNED_ROWS, BatchColumn, is_readable
from teravec.sources.packed import OpenSource, open_file, read_exactly
from teravec.sources.remote import SourcePath, as_file
from teravec.storage.positioned import PositionedFile

__all__ = ["IpcTable"]


class IpcTable(ColumnTable):
    """The schema and batch sizes; the file is open only while a column is decoded."""

    def __init__(self, path: SourcePath) -> None:
        self._layout = read_layout(path)
        self.path = path
        with arrow_errors(path), self._open_reader(len(self._layout.rows)) as reader:
            super().__init__(path, self._layout.size, reader.schema, self._layout.rows)

    def arrays(self, column: str, group: int, rows: int) -> Iterator[Any]:
        number = self.schema.get_field_index(column)
        rows += -rows % ALIGNED_ROWS
        with ExitStack() as stack:
            file = stack.enter_context(open_file(self.path))
            for batch in range(group, len(self._layout.rows)):
                with metadata_errors(self.path):
                    message = read_batch(file, int(self._layout.offsets[batch]), self._layout.size)
                    pieces = None
                    if self._layout.is_little and is_readable(self.schema.field(number).type):
                        pieces = BatchColumn(file, message, self.schema, number)
                if pieces is None:
                    yield from self._decode_whole(number, batch)
                    return
                for start in range(0, message.rows, rows):
                    with metadata_errors(self.path):
                        piece = pieces.read(start, min(start + rows, message.rows))
                    yield piece

    def _decode_whole(self, number: int, batch: int) -> Iterator[Any]:
        """Yield the column batch by batch from this batch on, as pyarrow decodes it."""
        with self._open_reader(batch, [number]) as reader:
            if not self._layout.is_stream:
                for later in range(batch, reader.num_record_batches):
                    yield reader.get_batch(later).column(0)
                return
            for later in reader:
                yield later.column(0)

    @contextmanager
    def _open_reader(self, batch: int, columns: list[int] | None = None) -> Iterator[Any]:
        """Open pyarrow's reader; for a stream, the reader begins at this batch."""
        options = pa.ipc.IpcReadOptions(included_fields=columns, use_threads=False)
        if not self._layout.is_stream:
            with (
                open_file(self.path) as file,
                _as_arrow(self.path, file) as native,
                pa.ipc.open_file(native, options=options) as reader,
            ):
                yield reader
            return
        with (
            open_file(self.path) as file,
            pa.PythonFile(_Spliced(file, self._layout, batch), "r") as spliced,
            pa.ipc.open_stream(spliced, options=options) as reader,
        ):
            yield reader


def _as_arrow(path: SourcePath, file: OpenSource) -> Any:
    """Return a file as pyarrow reads it: a local one by itself."""
    if isinstance(file, PositionedFile):
        return pa.OSFile(str(path))
    return pa.PythonFile(as_file(file), "r")


class _Spliced(io.RawIOBase):
    """A stream without its first batches: schema and dictionaries, then all from one batch on."""

    def __init__(self, file: OpenSource, layout: Layout, batch: int) -> None:
        super().__init__()
        start = int(layout.offsets[batch]) if batch < len(layout.rows) else layout.size
        before = [piece for piece in layout.preamble if piece[0] < start]
        self._pieces = [*before, (start, layout.size)]
        self._file = file

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read from the first piece that has bytes left."""
        while self._pieces:
            start, stop = self._pieces[0]
            if start < stop:
                out = np.frombuffer(buffer, np.uint8)[: stop - start]
                read_exactly(self._file, out, start)
                self._pieces[0] = (start + len(out), stop)
                return len(out)
            self._pieces.pop(0)
        return 0
