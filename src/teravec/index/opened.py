"""An index opened for reading: the model in memory, segments open, lists on disk."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from teravec.errors import CorruptFile, InvalidArgument
from teravec.index.calibration import Calibration, read_calibration
from teravec.index.first_reads import FirstReads
from teravec.index.manifest import Manifest, read_manifest, read_model_description
from teravec.index.open_segment import OpenSegment
from teravec.index.runs import Runs
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.model.model import Model
from teravec.segments.delete_set import DeletedIds
from teravec.segments.segment import Segment
from teravec.segments.voided import read_voided_sets, valid_sizes
from teravec.storage.device_cache import find_gap_bytes
from teravec.storage.files import allow_open_files
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile
from teravec.storage.store import ReadFiles, Store

__all__ = ["OPENED_LIST_BYTES", "OPEN_END", "Lists", "OpenedIndex"]

Lists = tuple[int, int] | tuple[tuple[int, int], ...]

Int64 = npt.NDArray[np.int64]

OPEN_END = 1 << 62
"""As the end of a range of lists: the last list, also of versions that have more of them."""

OPENED_LIST_BYTES = 48
"""Memory per list of an open index: its table entry, start and size."""


class OpenedIndex:
    """The manifest, model and segment files of one version of an index.

    Opening reads and checks everything except the lists, which are checked when they are read. It
    takes memory for the centroids and about 48 bytes per list.

    Attributes
    ----------
    store : Store
    manifest : Manifest
    model : Model
    segments : list of ListFile
        In the manifest's order.
    read_files : ReadFiles
        The same files, for reads at random places.
    fine : list of RowFile
        Row files of the same segments in a two-stage codec; else empty.
    fine_read_files : ReadFiles
        The same files, for reads at random places.
    column_files : list of ColumnFile
        Column files of the same segments, if the index keeps columns; else empty.
    inverted_files : list of InvertedFile or None
        Inverted files of the same segments, of those that have one.
    runs : Runs
        The runs of the open segments.
    id_bases : ndarray of shape (nsegments,), int64
        What is added to the ids in each open segment's files.
    has_id_bases : bool
        Whether some of them are not 0.
    open_segments : list of OpenSegment
        The open files of each, which versions share.
    deleted_ids : DeletedIds
        The ids that its delete sets hide.
    deleted : list of HiddenIds
        For each open segment, the ids that are hidden in it.
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
        Open only the segments that hold some of lists [start, stop), or of several such ranges,
        which ascend; others may be missing. An empty range opens no segment, which is enough for
        the coarse step of a search.
    version : int, optional
        The version to open; the newest if not given.
    before : OpenedIndex, optional
        Another version of the same index, open for the same lists. What both have is opened and
        read once: the model, files of segments, delete sets.

    Raises
    ------
    InvalidArgument
        The index does not have these lists.
    MissingFile, CorruptFile, ForeignFile, IncompatibleVersion
        A file does not match the manifest; the message names it.
    """

    def __init__(
        self,
        where: str | Path | Store,
        lists: Lists | None = None,
        version: int | None = None,
        before: OpenedIndex | None = None,
    ) -> None:
        self.paths = IndexPaths(where)
        self.store = self.paths.store
        self._first = FirstReads(self.paths)
        try:
            self._open(lists, version, before)
        except BaseException:
            self._first.close()
            raise

    def _open(self, lists: Lists | None, version: int | None, before: OpenedIndex | None) -> None:
        self._first.begin()
        paths = self._first.paths
        self.manifest: Manifest = read_manifest(paths, version, noted=True)
        self._first.begin_sets(self.manifest, None if before is None else before.manifest)
        # Check the model first: another model's checksums would make sound files look corrupt.
        description = read_model_description(paths, self.manifest)
        if before is not None and before.manifest.model != self.manifest.model:
            before = None  # nothing that it has open is of use
        self.ranges = _ranges_of(lists, self.manifest.nlist)
        measured = find_gap_bytes(self.paths.slices, self.paths.device)
        self.gap_bytes = self.store.gap_bytes if measured is None else measured
        layers = self.manifest.layers
        entries = [
            (number, entry)
            for number, layer in enumerate(layers)
            for entry in layer
            if self._wants(entry)
        ]
        known = {} if before is None else {each.entry: each for each in before.open_segments}
        self._first.begin_segments(entry for _, entry in entries if entry not in known)
        if before is None:
            self._first.begin_model(self.manifest.model_path, description)
            directory = paths.file(self.manifest.model_path)
            self.model: Model = Model.read(directory, description)
        else:
            self.model = before.model
        self.id_bases = np.array([entry.id_base for _, entry in entries], np.int64)
        self.has_id_bases = bool(self.id_bases.any())
        self.deleted_ids: DeletedIds = DeletedIds(
            paths, self.manifest.deletes, None if before is None else before.deleted_ids
        )
        self.deleted = [self.deleted_ids.hidden_in(entry) for _, entry in entries]
        voided = read_voided_sets(paths, self.manifest.voided, [e for _, e in entries])
        each_files = (
            2 + 2 * bool(self.model.codec.sketch_bits) + 2 * (self.manifest.columns is not None)
        )
        allow_open_files(len(entries) * each_files)
        self.open_segments: list[OpenSegment] = []
        try:
            for _, entry in entries:
                self.open_segments.append(self._open_segment(entry, known.get(entry)))
            self.segments = [each.lists for each in self.open_segments]
            self.fine = [each.rows for each in self.open_segments if each.rows is not None]
            self.column_files = [
                each.columns for each in self.open_segments if each.columns is not None
            ]
            self.inverted_files = [each.inverted for each in self.open_segments]
            self.read_files: ReadFiles = self.store.group([s.file for s in self.segments])
            self.fine_read_files: ReadFiles = self.store.group([f.file for f in self.fine])
        except BaseException:
            self.close()
            raise
        columns = [
            (layer, file.lists[0], self._valid_sizes(entry, file, gone))
            for (layer, entry), file, gone in zip(entries, self.segments, voided, strict=True)
        ]
        self.runs = Runs.of(self.manifest.nlist, len(layers), columns)

    def _wants(self, entry: Segment) -> bool:
        first, end = entry.lists
        return any(first < stop and end > start for start, stop in self.ranges)

    def is_open(self, list_nos: Int64) -> npt.NDArray[np.bool_]:
        """Return which of these lists (n,) are among the requested ones."""
        bounds = np.array(self.ranges, np.int64).ravel()  # inside a range after an odd number
        opened: npt.NDArray[np.bool_] = np.searchsorted(bounds, list_nos, side="right") % 2 == 1
        return opened

    def _open_segment(self, entry: Segment, known: OpenSegment | None) -> OpenSegment:
        if known is not None:
            return known.hold()
        two_stages = bool(self.model.codec.sketch_bits)
        others = [each.rows.header for each in self.open_segments if each.rows is not None]
        page_bytes = others[0].page_bytes if others else None
        return OpenSegment(self._first.paths, entry, two_stages=two_stages, page_bytes=page_bytes)

    def _valid_sizes(self, entry: Segment, file: ListFile, voided: Int64) -> Int64:
        sizes = valid_sizes(file.sizes, file.lists[0], voided)
        if (found := int(sizes.sum())) != entry.valid:
            self.close()
            raise CorruptFile(
                f"{file.path}: {found:,} vectors in lists that are not voided found, "
                f"{entry.valid:,} expected"
            )
        return sizes

    @property
    def ntotal(self) -> int:
        """Number of vectors in the index, in all of its segments."""
        return self.manifest.ntotal

    @property
    def memory_bytes(self) -> int:
        """Approximate memory of the open index."""
        nruns = self.manifest.nlist * len(self.manifest.layers)
        directories: int = sum(file.directory_bytes for file in self.column_files)
        directories += sum(file.directory_bytes for file in self.inverted_files if file is not None)
        return (
            self.model.memory_bytes
            + OPENED_LIST_BYTES * nruns
            + self.deleted_ids.nbytes
            + directories
        )

    def number_ids(self, places: Int64, ids: Int64) -> Int64:
        """Return the ids of rows at places (n,), given the ids in their files; -1 stays."""
        if not self.has_id_bases:
            return ids
        found = ids >= 0
        segments = self.runs.segments_of(places[found] >> PLACE_BITS)
        ids[found] += self.id_bases[segments]
        return ids

    def find_rows(self, places: Int64) -> tuple[Int64, Int64]:
        """Return the open segment of each place (n,), and the row in the segment's files."""
        runs = places >> PLACE_BITS
        segments = self.runs.segments_of(runs)
        lists = runs - self.runs.firsts[segments]  # counted from the segment's first list
        rows = places & ((1 << PLACE_BITS) - 1)
        for number in np.unique(segments).tolist():
            mine = segments == number
            rows[mine] += self.segments[number].starts[lists[mine]]
        return segments, rows

    def read_calibration(self) -> Calibration | None:
        """Read this version's calibration; see ``read_calibration``."""
        return read_calibration(self._first.paths, self.manifest)

    def close(self) -> None:
        """Close the files that no other version has open."""
        self._first.close()
        segments, self.open_segments = self.open_segments, []
        for segment in segments:
            segment.close()

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
        stop = nlist if stop == OPEN_END else stop
        if not (ranges[-1][1] if ranges else 0) <= start <= stop <= nlist:
            raise InvalidArgument(f"lists {start}:{stop} asked for; the index has {nlist:,}")
        ranges.append((start, stop))
    return tuple(ranges)
