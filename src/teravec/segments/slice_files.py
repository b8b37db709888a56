"""The files of one slice: a list file and, in a two-stage codec, a row file of fine codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.segments.segment import RowsEntry, Segment
from teravec.segments.slice_plan import ListRange
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

__all__ = ["SliceFiles"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SliceFiles:
    """The expected files of a slice.

    In a two-stage codec, shards hold both codes side by side. A slice separates them: the list
    file has the sketches, which a search scans, and the row file the fine codes, each with its id.

    Parameters
    ----------
    path, fine_path : StorePath
        The list file; the row file, which exists only in a two-stage codec.
    lists : tuple of int
    ntotal, row_stop : int
        Vectors of the slice; rows of the source.
    model_tag : int
        Checksum of the model.
    code_size, sketch_size : int
        Bytes of a vector's code, and of the sketch in it; a sketch of 0 bytes means one stage.
    """

    path: StorePath
    fine_path: StorePath
    lists: ListRange
    ntotal: int
    row_stop: int
    model_tag: int
    code_size: int
    sketch_size: int

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
        return self._list_file_is_sealed() and (not self.sketch_size or self._row_file_is_sealed())

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

    @contextmanager
    def writing(self, sizes: Int64) -> Iterator[Callable[[Bytes, Int64], None]]:
        """Publish the files; the body must write all codes (n, code_size) and ids, in order."""
        with ExitStack() as stack:
            fine = None
            if self.sketch_size:
                rows = stack.enter_context(self.fine_path.publish(verify_rows))
                fine = RowFileWriter(rows, self._fine_header)
            file = stack.enter_context(self.path.publish(verify_lists))
            lists = stack.enter_context(ListFileWriter(file, self._header, sizes))

            def write(codes: Bytes, ids: Int64) -> None:
                if fine is None:
                    lists.write(codes, ids)
                    return
                lists.write(np.ascontiguousarray(codes[:, : self.sketch_size]), ids)
                id_bytes = ids.astype("<i8")[:, None].view(np.uint8)
                fine.write(np.concatenate([codes[:, self.sketch_size :], id_bytes], axis=1))

            yield write
            lists.finish()
            if fine is not None:
                fine.finish()

    def entry(self) -> Segment:
        """Return the manifest's entry of the sealed files."""
        fine = None
        if self.sketch_size:
            with RowFile(self.fine_path) as rows:
                fine = RowsEntry(self.fine_path.name, rows.header.file_size, rows.seal)
        with ListFile(self.path) as file:
            return Segment(
                self.path.name, self.lists, self.ntotal, file.header.file_size, file.seal, fine=fine
            )
