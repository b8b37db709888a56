"""Compaction: several segments into few, without the rows that are hidden, in bounded memory.

The result has the lists' rows in the order of the segments. Every byte that is read is checked. Two
passes: the first reads the ids of segments with hidden rows and counts what is left of each list;
the second writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from teravec.engines.engine import Steps
from teravec.engines.resources import Resources
from teravec.memory import require
from teravec.segments.delete_set import DeleteSet, HiddenIds, is_deleted, read_deleted
from teravec.segments.gathering import PIECE_BYTES, gather_columns
from teravec.segments.merge import MergeOptions
from teravec.segments.row_order import RowOrder
from teravec.segments.segment import Segment
from teravec.segments.slice_files import SliceFiles, SliceWriter
from teravec.segments.slice_plan import slice_count, slice_ranges
from teravec.segments.voided import VoidedLists, read_voided_sets, valid_sizes
from teravec.storage.columnfile import ColumnFile
from teravec.storage.concatenation import concatenate
from teravec.storage.files import allow_open_files
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ID_BYTES, ListFile
from teravec.storage.rowfile import RowFile

__all__ = ["compact"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_WINDOW_BYTES = 16 << 20  # as the merge stage has it
_COUNTED_ROWS = 1 << 20  # ids read at a time by the first pass
_TABLE_SHARE = 16  # of the memory, for a table of deleted ids
_TABLE_BYTES = 96  # per list and segment: table entries, sizes and first rows


@dataclass(frozen=True)
class _Compactor:
    """A worker's input: the segments, all delete sets, and all voided lists."""

    index: IndexPaths
    segments: tuple[Segment, ...]
    deletes: tuple[DeleteSet, ...]
    voided: tuple[VoidedLists, ...]
    options: MergeOptions
    memory_bytes: int
    threads: int

    def make(self) -> _Opened:
        allow_open_files(3 * len(self.segments))
        table_bytes = self.memory_bytes // _TABLE_SHARE
        deleted = read_deleted(self.index, self.deletes, self.segments, table_bytes)
        voided = read_voided_sets(self.index, self.voided, self.segments)
        return _Opened(self, deleted, voided)


@dataclass(frozen=True)
class _Opened:
    plan: _Compactor
    deleted: list[HiddenIds]
    voided: list[Int64]


@dataclass(frozen=True)
class _Task:
    """One new segment: its files, and the visible rows of its lists, (n,) int64."""

    files: SliceFiles
    sizes: Int64


def compact(
    paths: IndexPaths,
    segments: Sequence[Segment],
    deletes: Sequence[DeleteSet],
    voided: Sequence[VoidedLists],
    options: MergeOptions,
    resources: Resources,
) -> list[Segment]:
    """Write the visible rows of some segments into new ones.

    New segments that are sealed already are checked and kept, so a killed compaction goes on.

    Parameters
    ----------
    paths : IndexPaths
        ``slice``, ``fine`` and ``columns`` name the new files.
    segments : sequence of Segment
        In the manifest's order, whole layers.
    deletes : sequence of DeleteSet
    voided : sequence of VoidedLists
    options : MergeOptions
        Of the index; ``ntotal`` is not used.
    resources : Resources

    Returns
    -------
    list of Segment
        In list order; together they have all lists. Their sequences are those of all the segments.
    """
    engine, nlist = resources.engine, options.nlist
    table_bytes = _TABLE_BYTES * nlist * len(segments)
    require(table_bytes + (32 << 20), engine.memory_bytes, f"compacting {nlist:,} lists")
    compactor = _Compactor(
        paths,
        tuple(segments),
        tuple(deletes),
        tuple(voided),
        options,
        engine.memory_bytes - table_bytes,
        engine.threads,
    )
    sizes = _count_visible(compactor, resources)
    total = int(sizes.sum())
    count = slice_count(None, nlist, total * options.row_bytes)
    tasks = []
    for number, lists in enumerate(slice_ranges(sizes, count) if total else [(0, nlist)]):
        part = sizes[slice(*lists)]
        files = SliceFiles(
            paths.slice(number),
            paths.fine(number),
            paths.columns(number),
            lists,
            int(part.sum()),
            total,
            options.model_tag,
            options.code_size,
            options.sketch_size,
            options.schema,
            engine.threads,
            engine.memory_bytes // 8,
        )
        tasks.append(_Task(files, part))
    read = sum(segment.ntotal for segment in segments) * options.row_bytes
    with resources.progress.stage("compact", read, "bytes") as bar:
        made = list(engine.run(compactor, _write_segment, tasks, bar))
    sequences = (
        min(segment.sequences[0] for segment in segments),
        max(segment.sequences[1] for segment in segments),
    )
    through = max((entry.sequence for entry in deletes), default=0)
    voids_through = max((entry.sequence for entry in voided), default=0)
    return [
        replace(entry, sequences=sequences, deletes_through=through, voids_through=voids_through)
        for entry in made
    ]


def _count_visible(compactor: _Compactor, resources: Resources) -> Int64:
    """Count the visible rows of each list, (nlist,)."""
    opened, sizes = compactor.make(), np.zeros(compactor.options.nlist, np.int64)
    parts = list(zip(compactor.segments, opened.deleted, opened.voided, strict=True))
    total = sum(segment.ntotal for segment, deleted, _ in parts if deleted.any)
    with resources.progress.stage("count", total, "ids") as bar:
        for segment, deleted, voided in parts:
            with ListFile(compactor.index.file(segment.file)) as file:
                lists = sizes[slice(*segment.lists)]
                valid = valid_sizes(file.sizes, segment.lists[0], voided)
                lists += valid
                for start in range(0, segment.ntotal if deleted.any else 0, _COUNTED_ROWS):
                    stop = min(start + _COUNTED_ROWS, segment.ntotal)
                    hidden = deleted.find(file.read_ids(start, stop) + segment.id_base)
                    rows = start + np.flatnonzero(hidden)
                    at = np.searchsorted(file.starts, rows, side="right") - 1
                    lists -= np.bincount(at[valid[at] > 0], minlength=len(lists))
                    bar.advance(stop - start)
    return sizes


def _write_segment(opened: _Opened, task: _Task) -> Steps[Segment]:
    files = task.files
    if files.are_sealed():
        yield files.ntotal * opened.plan.options.row_bytes
        return files.entry()
    with files.writing(task.sizes) as writer:
        for start, stop in _spans(opened.plan.segments, files.lists):
            yield from _write_visible_rows(opened, start, stop, writer)
    return files.entry()


def _spans(segments: Sequence[Segment], lists: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Cut lists into ranges that lie within one segment of each layer."""
    edges = {lists[0], lists[1]}
    edges |= {edge for segment in segments for edge in segment.lists}
    inside = sorted(edge for edge in edges if lists[0] <= edge <= lists[1])
    yield from pairwise(inside)


def _write_visible_rows(
    opened: _Opened, start: int, stop: int, writer: SliceWriter
) -> Iterator[int]:
    """Write the visible rows of lists [start, stop); yield the bytes read."""
    plan = opened.plan
    which = [i for i, s in enumerate(plan.segments) if s.lists[0] <= start and stop <= s.lists[1]]
    if not which:  # lists that are younger than all of these segments
        return
    window = min(_WINDOW_BYTES, plan.memory_bytes // (6 * (plan.threads + 2)))
    with ExitStack() as stack:
        files = [
            stack.enter_context(
                ListFile(plan.index.file(plan.segments[i].file), lists=(start, stop))
            )
            for i in which
        ]
        fine = [
            stack.enter_context(RowFile(plan.index.file(entry.file)))
            for i in which
            if (entry := plan.segments[i].fine) is not None
        ]
        columns = [
            stack.enter_context(ColumnFile(plan.index.file(entry.file)))
            for i in which
            if (entry := plan.segments[i].columns) is not None
        ]
        order, at = RowOrder.of(files), 0
        voided = any(len(opened.voided[i]) for i in which)
        for codes, ids in concatenate(files, window, plan.threads):
            file_nos, rows = order.take(at, at + len(ids))
            list_nos = start + order.take_lists(at, at + len(ids)) if voided else None
            at += len(ids)
            visible = np.ones(len(ids), np.bool_)
            for number, i in enumerate(which):
                mine = file_nos == number
                ids[mine] += plan.segments[i].id_base
                hidden = opened.deleted[i].find(ids[mine])
                if list_nos is not None:
                    hidden |= is_deleted(list_nos[mine], opened.voided[i])
                visible[mine] = ~hidden
            read = codes.nbytes + ids.nbytes
            if fine:
                codes = np.concatenate([codes, _fine_codes(fine, file_nos, rows)], axis=1)
            writer.write(np.ascontiguousarray(codes[visible]), ids[visible])
            if columns:
                pieces = gather_columns(
                    columns, file_nos[visible], rows[visible], min(PIECE_BYTES, window)
                )
                for table in pieces:
                    writer.write_columns(table)
            yield read


def _fine_codes(fine: Sequence[RowFile], file_nos: Int64, rows: Int64) -> Bytes:
    """Read the finer codes of rows (n,) of some files; those of each file are consecutive."""
    width = fine[0].header.row_size - ID_BYTES
    codes = np.empty((len(rows), width), np.uint8)
    for number, file in enumerate(fine):
        mine = np.flatnonzero(file_nos == number)
        if len(mine):
            held = file.read_rows(int(rows[mine[0]]), int(rows[mine[-1]]) + 1)
            codes[mine] = held[:, :width]
    return codes
