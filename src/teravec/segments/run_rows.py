"""Rows of some lists in some segments, by list, segment and row; each run is verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.segments.delete_set import DeleteSet, read_deleted
from teravec.segments.segment import Segment
from teravec.segments.voided import VoidedLists, read_voided_sets, valid_sizes
from teravec.storage.columnfile import ColumnFile
from teravec.storage.files import allow_open_files, byte_view
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ID_BYTES, ListFile
from teravec.storage.rowfile import RowFile

__all__ = ["RunRows", "RunSource", "RunsBlock"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class RunSource:
    """Where rows come from: segments of a version, and what is hidden or void in them.

    Parameters
    ----------
    index : IndexPaths
    segments : tuple of Segment
    deletes : tuple of DeleteSet
    voided : tuple of VoidedLists
    """

    index: IndexPaths
    segments: tuple[Segment, ...]
    deletes: tuple[DeleteSet, ...]
    voided: tuple[VoidedLists, ...]

    def sizes(self, nlist: int) -> list[Int64]:
        """Return the vectors of each list in each segment, (nlist,), voided runs left out."""
        found = []
        voided = read_voided_sets(self.index, self.voided, self.segments)
        for segment, gone in zip(self.segments, voided, strict=True):
            sizes = np.zeros(nlist, np.int64)
            with ListFile(self.index.file(segment.file)) as file:
                sizes[slice(*segment.lists)] = valid_sizes(file.sizes, segment.lists[0], gone)
            found.append(sizes)
        return found


@dataclass(frozen=True)
class RunsBlock:
    """Visible rows that were read together.

    Attributes
    ----------
    list_nos : ndarray of shape (n,), int64
        The list of each row; equal ones follow each other.
    codes : ndarray of shape (n, code_size), uint8
        In a two-stage codec sketches and finer codes side by side, as shards have them.
    ids : ndarray of shape (n,), int64
    segment_nos, rows : ndarray of shape (n,), int64
        The number of each row's segment, and its row there.
    read : int
        Rows that were read, hidden ones too.
    """

    list_nos: Int64
    codes: Bytes
    ids: Int64
    segment_nos: Int64
    rows: Int64
    read: int


class RunRows:
    """Reads rows of some lists by their numbers: list after list, in each segment after segment.

    Parameters
    ----------
    source : RunSource
    lists : ndarray of shape (n,), int64
        Ascending and distinct.
    """

    def __init__(self, source: RunSource, lists: Int64) -> None:
        self._source = source
        self._deleted = read_deleted(source.index, source.deletes, source.segments)
        allow_open_files(3 * len(source.segments))
        self._stack = ExitStack()
        voided = read_voided_sets(source.index, source.voided, source.segments)
        columns = []
        self._files: list[ListFile] = []
        for number, (segment, gone) in enumerate(zip(source.segments, voided, strict=True)):
            columns.append(self._runs_of(number, segment, gone, lists))
        self._fine: list[RowFile] = []
        self.columns: list[ColumnFile] = []
        for segment in source.segments:
            if segment.fine is not None:
                rows = RowFile(source.index.file(segment.fine.file))
                self._fine.append(self._stack.enter_context(rows))
            if segment.columns is not None:
                kept = ColumnFile(source.index.file(segment.columns.file))
                self.columns.append(self._stack.enter_context(kept))
        runs = np.concatenate(columns) if columns else np.empty((0, 6), np.int64)
        runs = runs[np.argsort(runs[:, 0], kind="stable")]
        self._lists, self._segments, self._firsts = runs[:, 0], runs[:, 1], runs[:, 2]
        self._sizes = runs[:, 3]
        self._checksums = np.ascontiguousarray(runs[:, 4:]).view(np.uint64)
        self._ends = np.cumsum(self._sizes)

    def _runs_of(self, number: int, segment: Segment, gone: Int64, lists: Int64) -> Int64:
        """List, segment, first row, size and both checksums of a segment's runs, (n, 6)."""
        path = self._source.index.file(segment.file)
        start, stop = segment.lists
        at = lists[slice(*np.searchsorted(lists, (start, stop)).tolist())] - start
        with ListFile(path) as file:
            sizes = valid_sizes(file.sizes, start, gone)[at]
            at, sizes = at[sizes > 0], sizes[sizes > 0]
            checksums = [file.code_checksums[at], file.id_checksums[at]]
            parts = [at + start, np.full(len(at), number), file.starts[at], sizes]
        self._files.append(self._stack.enter_context(ListFile(path, lists=(start, start))))
        return np.stack([*parts, *(c.view(np.int64) for c in checksums)], axis=1)

    @property
    def nrows(self) -> int:
        """Rows of all runs, hidden ones too."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows_of(self, list_no: int) -> tuple[int, int]:
        """Return the rows [start, stop) of a list."""
        first, stop = np.searchsorted(self._lists, (list_no, list_no + 1)).tolist()
        ends = self._ends
        return (int(ends[first - 1]) if first else 0), (int(ends[stop - 1]) if stop else 0)

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def blocks(self, start: int, stop: int, block_rows: int) -> Iterator[RunsBlock]:
        """Yield the visible rows among rows [start, stop), in their order.

        A run is verified before its last rows are yielded. One that lies in the range in part is
        read whole all the same.

        Raises
        ------
        CorruptFile
            The message names the file and the list.
        """
        run = int(np.searchsorted(self._ends, start, side="right"))
        while run < len(self._ends) and self._begin(run) < stop:
            last, rows = run, 0
            while last < len(self._ends) and self._ends[last] <= stop:
                if self._begin(last) < start or rows + self._sizes[last] > block_rows:
                    break
                rows += int(self._sizes[last])
                last += 1
            if last > run:
                yield self._block([self._whole(each) for each in range(run, last)])
                run = last
            else:
                yield from self._parts(run, start, stop, block_rows)
                run += 1

    def _begin(self, run: int) -> int:
        return int(self._ends[run] - self._sizes[run])

    def _whole(self, run: int) -> tuple[int, int, Bytes, Int64]:
        file, first = self._files[self._segments[run]], int(self._firsts[run])
        codes = file.read_codes(first, first + int(self._sizes[run]))
        ids = file.read_ids(first, first + int(self._sizes[run]))
        for part, data, column in (("codes", codes, 0), ("ids", ids, 1)):
            self._check(run, part, xxhash.xxh3_64_intdigest(byte_view(data)), column)
        return run, first, codes, ids

    def _parts(self, run: int, start: int, stop: int, block_rows: int) -> Iterator[RunsBlock]:
        """Yield the rows of one run that lie in the range, while all of it is verified."""
        file, first = self._files[self._segments[run]], int(self._firsts[run])
        begin, size = self._begin(run), int(self._sizes[run])
        digests = xxhash.xxh3_64(), xxhash.xxh3_64()
        for low in range(0, size, block_rows):
            high = min(low + block_rows, size)
            codes = file.read_codes(first + low, first + high)
            ids = file.read_ids(first + low, first + high)
            digests[0].update(byte_view(codes))
            digests[1].update(byte_view(ids))
            if high == size:
                for column, part in enumerate(("codes", "ids")):
                    self._check(run, part, digests[column].intdigest(), column)
            inside = slice(max(0, start - begin - low), max(0, min(high, stop - begin) - low))
            if inside.start < inside.stop:
                rows = first + low + inside.start
                yield self._block([(run, rows, codes[inside], ids[inside])])

    def _check(self, run: int, part: str, found: int, column: int) -> None:
        expected = int(self._checksums[run, column])
        if found != expected:
            file = self._files[self._segments[run]]
            raise file.mismatch(int(self._lists[run]), part, found, expected)

    def _block(self, pieces: Sequence[tuple[int, int, Bytes, Int64]]) -> RunsBlock:
        counts = [len(ids) for _, _, _, ids in pieces]
        runs = np.array([run for run, *_ in pieces])
        list_nos = np.repeat(self._lists[runs], counts)
        segments = np.repeat(self._segments[runs], counts)
        rows = np.concatenate([first + np.arange(len(i)) for _, first, _, i in pieces])
        codes = np.concatenate([codes for _, _, codes, _ in pieces])
        ids = np.concatenate([ids for *_, ids in pieces])
        if self._fine:
            fine = [self._read_fine(run, first, len(i)) for run, first, _, i in pieces]
            codes = np.concatenate([codes, np.concatenate(fine)], axis=1)
        visible = np.ones(len(ids), np.bool_)
        for number in np.unique(segments).tolist():
            mine = segments == number
            ids[mine] += self._source.segments[number].id_base
            visible[mine] = ~self._deleted[number].find(ids[mine])
        if not visible.all():
            list_nos, segments, rows = list_nos[visible], segments[visible], rows[visible]
            codes, ids = codes[visible], ids[visible]
        return RunsBlock(list_nos, codes, ids, segments, rows, len(visible))

    def _read_fine(self, run: int, first: int, count: int) -> Bytes:
        rows: Bytes = self._fine[self._segments[run]].read_rows(first, first + count)
        codes: Bytes = rows[:, :-ID_BYTES]
        return codes
