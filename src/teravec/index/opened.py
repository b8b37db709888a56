"""An index opened for reading: the model in memory, slices open, lists on disk."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile, ForeignFile, InvalidArgument
from teravec.index.manifest import Manifest, read_manifest, read_model_description
from teravec.model.model import Model
from teravec.segments.entry import SliceEntry
from teravec.storage.device_cache import find_gap_bytes
from teravec.storage.files import allow_open_files
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile
from teravec.storage.rowfile import RowFile
from teravec.storage.store import OpenFile, ReadFiles, Store, check_size

__all__ = ["OPENED_LIST_BYTES", "Lists", "OpenedIndex"]

Lists = tuple[int, int] | tuple[tuple[int, int], ...]

OPENED_LIST_BYTES = 48
"""Memory per list of an open index: its table entry, start and size."""


class OpenedIndex:
    """The manifest, model and slice files of an index.

    Opening reads and checks everything except the lists, which are checked when they are read. It
    takes memory for the centroids and about 48 bytes per list.

    Attributes
    ----------
    store : Store
    manifest : Manifest
    model : Model
    slices : list of ListFile
        In list order.
    read_files : ReadFiles
        The same files, for reads at random places.
    fine : list of RowFile
        Row files of the same slices in a two-stage codec; else empty.
    fine_read_files : ReadFiles
        The same files, for reads at random places.
    sizes : ndarray of shape (nlist,), int64
        Vectors in each list; 0 for lists that are not open.
    bounds : ndarray of shape (nslices + 1,), int64
        First list of each open slice, and the end of the last.
    gap_bytes : int
        Largest gap between two ranges of a file for which one read of both is cheaper:
        ``bench-disk``'s measurement of this file system, or the store's default.
    ranges : tuple of (int, int)
        The requested lists, as ranges [start, stop), ascending; or all.

    Parameters
    ----------
    where : path-like or Store
        The index's directory, or the store of its files.
    lists : tuple of int or tuple of tuples of int, optional
        Open only the slices that hold some of lists [start, stop), or of several such ranges, which
        ascend; other slices may be missing. An empty range opens no slice, which is enough for the
        coarse step of a search.

    Raises
    ------
    InvalidArgument
        The index does not have these lists.
    MissingFile, CorruptFile, ForeignFile, IncompatibleVersion
        A file does not match the manifest; the message names it.
    """

    def __init__(self, where: str | Path | Store, lists: Lists | None = None) -> None:
        self.paths = IndexPaths(where)
        self.store = self.paths.store
        self.manifest: Manifest = read_manifest(self.paths)
        # Check the model first: another model's checksums would make sound files look corrupt.
        read_model_description(self.paths, self.manifest)
        self.model = Model.read(self.paths.model)
        self.ranges = _ranges_of(lists, self.manifest.nlist)
        measured = find_gap_bytes(self.paths.slices, self.paths.device)
        self.gap_bytes = self.store.gap_bytes if measured is None else measured
        self.slices: list[ListFile] = []
        self.fine: list[RowFile] = []
        entries = [e for e in self.manifest.slices if self._wants(e)]
        allow_open_files(len(entries) * (4 if self.model.codec.sketch_bits else 2))
        try:
            for entry in entries:
                self.slices.append(self._open_slice(entry))
                if self.model.codec.sketch_bits:
                    self.fine.append(self._open_fine(entry))
            self.read_files: ReadFiles = self.store.group([s.file for s in self.slices])
            self.fine_read_files: ReadFiles = self.store.group([f.file for f in self.fine])
        except BaseException:
            self.close()
            raise
        self.sizes = np.zeros(self.manifest.nlist, np.int64)
        for file in self.slices:
            self.sizes[slice(*file.lists)] = file.sizes
        first = self.slices[0].lists[0] if self.slices else 0
        self.bounds = np.array([first, *(file.lists[1] for file in self.slices)], np.int64)

    def _wants(self, entry: SliceEntry) -> bool:
        first, end = entry.lists
        return any(first < stop and end > start for start, stop in self.ranges)

    def is_open(self, list_nos: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which of these lists (n,) are among the requested ones."""
        bounds = np.array(self.ranges, np.int64).ravel()  # inside a range after an odd number
        opened: npt.NDArray[np.bool_] = np.searchsorted(bounds, list_nos, side="right") % 2 == 1
        return opened

    def _open_slice(self, entry: SliceEntry) -> ListFile:
        file = ListFile(self._open_file(entry.file, entry.size))
        if file.seal != entry.checksum or file.lists != entry.lists:
            file.close()
            raise ForeignFile(
                f"{file.path}: lists {file.lists} with seal {file.seal} found, "
                f"{entry.lists} with seal {entry.checksum} expected"
            )
        return file

    def _open_fine(self, entry: SliceEntry) -> RowFile:
        if entry.fine is None:
            raise CorruptFile(f"{self.paths.manifest}: {entry.file} has no finer codes")
        file = RowFile(self._open_file(entry.fine.file, entry.fine.size))
        page_bytes = (self.fine[0] if self.fine else file).header.page_bytes
        found = file.seal, file.header.ntotal, file.header.page_bytes
        if found != (entry.fine.checksum, entry.ntotal, page_bytes):
            file.close()
            raise ForeignFile(
                f"{file.path}: {file.header.ntotal:,} rows in pages of {file.header.page_bytes} "
                f"bytes with seal {file.seal} found, {entry.ntotal:,} in pages of {page_bytes} "
                f"with seal {entry.fine.checksum} expected"
            )
        return file

    def _open_file(self, name: str, size: int) -> OpenFile:
        file = self.paths.file(name).open()
        try:
            check_size(file, size)
        except BaseException:
            file.close()
            raise
        return file

    @property
    def ntotal(self) -> int:
        """Number of vectors in the index, in all of its slices."""
        return self.manifest.ntotal

    @property
    def memory_bytes(self) -> int:
        """Approximate memory of the open index."""
        return self.model.memory_bytes + OPENED_LIST_BYTES * self.manifest.nlist

    def close(self) -> None:
        """Close the files."""
        for file in self.slices:
            file.close()
        for rows in self.fine:
            rows.close()

    def __enter__(self) -> OpenedIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ranges_of(lists: Lists | None, nlist: int) -> tuple[tuple[int, int], ...]:
    """Return the ranges of lists asked for, or raise InvalidArgument."""
    if lists is None:
        return ((0, nlist),)
    ranges: list[tuple[int, int]] = []
    for each in (lists,) if not lists or isinstance(lists[0], int) else lists:
        start, stop = cast(tuple[int, int], each)
        if not (ranges[-1][1] if ranges else 0) <= start <= stop <= nlist:
            raise InvalidArgument(f"lists {start}:{stop} asked for; the index has {nlist:,}")
        ranges.append((start, stop))
    return tuple(ranges)
