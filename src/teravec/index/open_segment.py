"""The open files of a segment, which versions of an index that have it share."""

from __future__ import annotations

import threading
from typing import TypeVar

from teravec.errors import CorruptFile, ForeignFile
from teravec.segments.segment import RowsEntry, Segment
from teravec.storage.columnfile import ColumnFile
from teravec.storage.invertedfile import InvertedFile
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile
from teravec.storage.rowfile import RowFile
from teravec.storage.store import OpenFile, Sealed, check_size

__all__ = ["OpenSegment"]

_File = TypeVar("_File", ColumnFile, InvertedFile)


class OpenSegment:
    """The list file of a segment, open, and its row file and column file where it has them.

    Whoever opened it, or called ``hold``, calls ``close``; the last one closes the files.

    Parameters
    ----------
    paths : IndexPaths
    entry : Segment
    two_stages : bool
        Whether the codec has two stages: then the segment must have a row file.
    page_bytes : int, optional
        What pages of the row file must have; not given: any.

    Attributes
    ----------
    entry : Segment
    lists : ListFile
    rows : RowFile, optional
        Where codes have two stages.
    columns : ColumnFile, optional
        Where the index keeps columns.
    inverted : InvertedFile, optional
        Where some of them are filterable.

    Raises
    ------
    MissingFile, CorruptFile, ForeignFile, IncompatibleVersion
    """

    def __init__(
        self, paths: IndexPaths, entry: Segment, *, two_stages: bool, page_bytes: int | None = None
    ) -> None:
        self.entry = entry
        self._users, self._lock = 1, threading.RLock()  # the collector may close it anywhere
        self.rows: RowFile | None = None
        self.columns: ColumnFile | None = None
        self.inverted: InvertedFile | None = None
        self.lists = _open_lists(paths, entry)
        try:
            if two_stages:
                self.rows = _open_rows(paths, entry, page_bytes)
            if entry.columns is not None:
                self.columns = _open_columns(ColumnFile, paths, entry, entry.columns)
            if entry.inverted is not None:
                self.inverted = _open_columns(InvertedFile, paths, entry, entry.inverted)
        except BaseException:
            self._close_all()
            raise

    def hold(self) -> OpenSegment:
        """Keep the files open until one more ``close``."""
        with self._lock:
            assert self._users > 0
            self._users += 1
        return self

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        self._close_all()

    def _close_all(self) -> None:
        for file in (self.lists, self.rows, self.columns, self.inverted):
            if file is not None:
                file.close()


def _open_lists(paths: IndexPaths, entry: Segment) -> ListFile:
    file = ListFile(_open_file(paths, entry.file, entry.size, entry.checksum))
    if file.seal != entry.checksum or file.lists != entry.lists:
        file.close()
        raise ForeignFile(
            f"{file.path}: lists {file.lists} with seal {file.seal} found, "
            f"{entry.lists} with seal {entry.checksum} expected"
        )
    return file


def _open_rows(paths: IndexPaths, entry: Segment, page_bytes: int | None) -> RowFile:
    if entry.fine is None:
        raise CorruptFile(f"{paths.manifest}: {entry.file} has no finer codes")
    file = RowFile(_open_file(paths, entry.fine.file, entry.fine.size, entry.fine.checksum))
    page_bytes = file.header.page_bytes if page_bytes is None else page_bytes
    found = file.seal, file.header.ntotal, file.header.page_bytes
    if found != (entry.fine.checksum, entry.ntotal, page_bytes):
        file.close()
        raise ForeignFile(
            f"{file.path}: {file.header.ntotal:,} rows in pages of {file.header.page_bytes} "
            f"bytes with seal {file.seal} found, {entry.ntotal:,} in pages of {page_bytes} "
            f"with seal {entry.fine.checksum} expected"
        )
    return file


def _open_columns(
    kind: type[_File], paths: IndexPaths, entry: Segment, columns: RowsEntry
) -> _File:
    file = kind(_open_file(paths, columns.file, columns.size, columns.checksum))
    if file.seal != columns.checksum or file.header.ntotal != entry.ntotal:
        file.close()
        raise ForeignFile(
            f"{file.path}: columns of {file.header.ntotal:,} rows with seal {file.seal} found, "
            f"{entry.ntotal:,} with seal {columns.checksum} expected"
        )
    return file


def _open_file(paths: IndexPaths, name: str, size: int, seal: str) -> OpenFile:
    file = paths.file(name).open(sealed=Sealed(size, seal))
    try:
        check_size(file, size)
    except BaseException:
        file.close()
        raise
    return file
