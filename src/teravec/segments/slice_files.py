"""The files of one slice: a list file, and beside it fine codes, columns and inverted columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.segments.inverting import INVERTING_BYTES, invert_columns, inverted_schema
from teravec.segments.segment import RowsEntry, Segment
from teravec.segments.slice_plan import ListRange
from teravec.storage.columnfile import (
    ColumnFile,
    ColumnFileHeader,
    ColumnFileWriter,
    verify_columns,
)
from teravec.storage.invertedfile import MOST_ROWS, InvertedFile, verify_inverted
from teravec.storage.listfile import (
    ID_BYTES,
    ListFile,
    ListFileHeader,
    ListFileWriter,
    verify_lists,
)
from teravec.storage.rowfile import (
    RowFile,
    RowFileHeader,
    RowFileWriter,
    page_bytes_for,
    verify_rows,
)
from teravec.storage.store import StorePath

__all__ = ["SliceFiles", "SliceWriter"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SliceFiles:
    """The expected files of a slice.

    In a two-stage codec, shards hold both codes side by side. A slice separates them: the list
    file has the sketches, which a search scans, and the row file the fine codes, each with its id.

    Parameters
    ----------
    path, fine_path, columns_path : StorePath
        The list file; the row file, which exists only in a two-stage codec; the column file.
    lists : tuple of int
    ntotal, row_stop : int
        Vectors of the slice; rows of the source.
    model_tag : int
        Checksum of the model.
    code_size, sketch_size : int
        Bytes of a vector's code, and of the sketch in it; a sketch of 0 bytes means one stage.
    schema : pyarrow.Schema, optional
        Of the columns, some of which may be filterable; None without any.
    threads : int
        For encoding columns.
    memory_bytes : int
        For inverting columns.
    """

    path: StorePath
    fine_path: StorePath
    columns_path: StorePath
    lists: ListRange
    ntotal: int
    row_stop: int
    model_tag: int
    code_size: int
    sketch_size: int
    schema: Any = None
    threads: int = 1
    memory_bytes: int = INVERTING_BYTES

    @property
    def _inverted_path(self) -> StorePath:
        name = self.columns_path.name.removesuffix(".columns")
        return StorePath(self.columns_path.store, f"{name}.inverted")

    @property
    def _inverted_schema(self) -> Any:
        """Of the columns in the inverted file; None without one."""
        return None if self.ntotal >= MOST_ROWS else inverted_schema(self.schema)

    @property
    def _column_header(self) -> ColumnFileHeader:
        return ColumnFileHeader(*self.lists, self.ntotal, self.model_tag)

    @property
    def _header(self) -> ListFileHeader:
        code_size = self.sketch_size or self.code_size
        return ListFileHeader(code_size, *self.lists, 0, self.row_stop, self.ntotal, self.model_tag)

    @property
    def _fine_header(self) -> RowFileHeader:
        row_size = self.code_size - self.sketch_size + ID_BYTES
        return RowFileHeader(
            row_size, page_bytes_for(row_size), *self.lists, self.ntotal, self.model_tag
        )

    def are_sealed(self) -> bool:
        """Whether the files exist and have the expected content; every byte is checked.

        Files of another model are an error. A file of other lists counts as missing.
        """
        return (
            self._list_file_is_sealed()
            and (not self.sketch_size or self._row_file_is_sealed())
            and (self.schema is None or self._column_file_is_sealed())
            and (self._inverted_schema is None or self._inverted_file_is_sealed())
        )

    def _list_file_is_sealed(self) -> bool:
        if not self.path.exists():
            return False
        with ListFile(self.path) as file:
            file.check_belongs(model=self.model_tag, code_size=self._header.code_size)
            if file.lists != self.lists or file.header.ntotal != self.ntotal:
                return False
        verify_lists(self.path)  # now, while the shards still exist to write it again
        return True

    def _row_file_is_sealed(self) -> bool:
        if not self.fine_path.exists():
            return False
        with RowFile(self.fine_path) as file:
            file.check_belongs(model=self.model_tag, row_size=self._fine_header.row_size)
            if file.header != self._fine_header:
                return False
        verify_rows(self.fine_path)
        return True

    def _column_file_is_sealed(self) -> bool:
        if not self.columns_path.exists():
            return False
        with ColumnFile(self.columns_path) as file:
            if file.header != self._column_header or not file.schema.equals(self.schema):
                return False
        verify_columns(self.columns_path)
        return True

    def _inverted_file_is_sealed(self) -> bool:
        if not self._inverted_path.exists():
            return False
        with InvertedFile(self._inverted_path) as file:
            if file.header != self._column_header or not file.schema.equals(self._inverted_schema):
                return False
        verify_inverted(self._inverted_path)
        return True

    @contextmanager
    def writing(self, sizes: Int64) -> Iterator[SliceWriter]:
        """Publish the files; the body must write all codes, ids and columns, in order."""
        with ExitStack() as stack:
            fine = columns = None
            if self.schema is not None:
                opened = stack.enter_context(self.columns_path.publish(verify_columns))
                columns = ColumnFileWriter(opened, self._column_header, self.schema, self.threads)
            if self.sketch_size:
                rows = stack.enter_context(self.fine_path.publish(verify_rows))
                fine = RowFileWriter(rows, self._fine_header)
            file = stack.enter_context(self.path.publish(verify_lists))
            lists = stack.enter_context(ListFileWriter(file, self._header, sizes))
            yield SliceWriter(self.sketch_size, lists, fine, columns)
            lists.finish()
            if fine is not None:
                fine.finish()
            if columns is not None:
                columns.finish()
        if (schema := self._inverted_schema) is not None:
            with ColumnFile(self.columns_path) as kept:
                invert_columns(self._inverted_path, kept, schema, self.memory_bytes)

    def entry(self) -> Segment:
        """Return the manifest's entry of the sealed files."""
        fine = columns = inverted = None
        if self.sketch_size:
            with RowFile(self.fine_path) as rows:
                fine = RowsEntry(self.fine_path.name, rows.header.file_size, rows.seal)
        if self.schema is not None:
            with ColumnFile(self.columns_path) as kept:
                kept.check_belongs(self._column_header, self.schema)
                columns = RowsEntry(self.columns_path.name, kept.file.size, kept.seal)
        if self._inverted_schema is not None:
            with InvertedFile(self._inverted_path) as bins:
                inverted = RowsEntry(self._inverted_path.name, bins.file.size, bins.seal)
        with ListFile(self.path) as file:
            size = file.header.file_size
            return Segment(
                self.path.name,
                self.lists,
                self.ntotal,
                size,
                file.seal,
                fine=fine,
                columns=columns,
                inverted=inverted,
            )


@dataclass(frozen=True)
class SliceWriter:
    """The files of a slice while they are written, rows in order."""

    sketch_size: int
    lists: ListFileWriter
    fine: RowFileWriter | None
    columns: ColumnFileWriter | None

    def write(self, codes: Bytes, ids: Int64) -> None:
        """Append codes, uint8 (n, code_size), and ids (n,)."""
        if self.fine is None:
            self.lists.write(codes, ids)
            return
        self.lists.write(np.ascontiguousarray(codes[:, : self.sketch_size]), ids)
        id_bytes = ids.astype("<i8")[:, None].view(np.uint8)
        self.fine.write(np.concatenate([codes[:, self.sketch_size :], id_bytes], axis=1))

    def write_columns(self, table: Any) -> None:
        """Append rows of the columns, a pyarrow.Table."""
        assert self.columns is not None
        self.columns.write(table)
