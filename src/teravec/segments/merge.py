"""The merge stage: it turns all shards into slices, in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from teravec.engines.block_sizes import USUAL_SIZES, BlockSizes
from teravec.engines.engine import Steps
from teravec.engines.resources import Resources
from teravec.errors import MissingFile
from teravec.memory import require
from teravec.segments.gathering import PIECE_BYTES, gather_columns
from teravec.segments.row_order import RowOrder
from teravec.segments.segment import Segment
from teravec.segments.shard import columns_of_shard, sealed_shards
from teravec.segments.slice_files import SliceFiles
from teravec.segments.slice_plan import (
    ListRange,
    SealedRange,
    check_coverage,
    in_row_order,
    slice_count,
    slice_ranges,
)
from teravec.storage.columnfile import ColumnFile, ColumnFileHeader
from teravec.storage.concatenation import concatenate
from teravec.storage.files import allow_open_files
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ID_BYTES, ListFile
from teravec.storage.store import StorePath

__all__ = ["MergeOptions", "merge", "plan_span", "plan_window"]

Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_TABLE_ENTRY = 64  # bytes per list and shard: its table entry, read and kept, and its first row


@dataclass(frozen=True)
class MergeOptions:
    """Options of the merge stage.

    Parameters
    ----------
    model_tag : int
        Checksum of the model that must have encoded the shards.
    code_size, sketch_size : int
        Bytes of a vector's code, and of the sketch in it; a sketch of 0 bytes means one stage.
    nlist, ntotal : int
        Lists of the model, vectors of the source.
    slices : int, optional
        Not given: slices of about 1 GiB.
    schema : pyarrow.Schema, optional
        Of the columns; None without any.
    """

    model_tag: int
    code_size: int
    sketch_size: int
    nlist: int
    ntotal: int
    slices: int | None
    schema: Any = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector in a shard: code and id."""
        return self.code_size + ID_BYTES


def merge(paths: IndexPaths, options: MergeOptions, resources: Resources) -> list[Segment]:
    """Write every slice that is not sealed yet; return the manifest's entries of all slices.

    Raises
    ------
    MissingFile, ForeignFile, CorruptFile
        A shard is missing, belongs to another index, overlaps another shard, or is damaged. The
        message names it, and no slice with its bytes remains.
    """
    engine, shards = resources.engine, sealed_shards(paths)
    if not shards:
        raise MissingFile(f"{paths.shards}: there are no shards to merge")
    # One shard's entries of all lists, the sums of sizes, and a slice's entries being written.
    table_bytes = 8 * 8 * options.nlist
    require(table_bytes + (8 << 20), engine.memory_bytes, f"merging {options.nlist:,} lists")
    allow_open_files((2 if options.schema is not None else 1) * len(shards))
    sizes, ordered = _survey(shards, options)
    total_bytes = options.ntotal * options.row_bytes
    count = slice_count(options.slices, options.nlist, total_bytes)
    tasks = []
    for number, lists in enumerate(slice_ranges(sizes, count)):
        slice_sizes = sizes[slice(*lists)]
        files = SliceFiles(
            paths.slice(number),
            paths.fine(number),
            paths.columns(number),
            lists,
            int(slice_sizes.sum()),
            options.ntotal,
            options.model_tag,
            options.code_size,
            options.sketch_size,
            options.schema,
            engine.threads,
            engine.memory_bytes // 8,
        )
        tasks.append(_SliceTask(files, slice_sizes))
    merger = _Merger(
        tuple(ordered),
        options.row_bytes,
        plan_window(len(ordered), engine.memory_bytes, engine.threads, resources.sizes),
        plan_span(len(ordered), engine.memory_bytes, resources.sizes),
        engine.threads,
        min(PIECE_BYTES, engine.memory_bytes // 16),
    )
    sealed = []
    with resources.progress.stage("merge", total_bytes, "bytes") as bar:
        for entry in engine.run(merger, _merge_slice, tasks, bar):
            log.info("slice of lists %d to %d, seal %s", *entry.lists, entry.checksum)
            sealed.append(entry)
    return sealed


def _survey(shards: Sequence[StorePath], options: MergeOptions) -> tuple[Int64, list[StorePath]]:
    """Check that the shards fit together; return each list's size and the shards in row order."""
    sizes, ranges = np.zeros(options.nlist, np.int64), []
    for path in shards:
        with ListFile(path) as file:
            file.check_belongs(model=options.model_tag, code_size=options.code_size)
            ranges.append(SealedRange(file.header.row_start, file.header.row_stop, path))
            sizes += file.sizes
    check_coverage(ranges, options.ntotal)
    return sizes, [cast(StorePath, shard.path) for shard in in_row_order(ranges)]


@contextmanager
def _open_lists(shards: Sequence[StorePath], lists: ListRange) -> Iterator[list[ListFile]]:
    with ExitStack() as stack:
        yield [stack.enter_context(ListFile(path, lists=lists)) for path in shards]


@dataclass(frozen=True)
class _Merger:
    """A worker's input: all shards, in row order."""

    shards: tuple[StorePath, ...]
    row_bytes: int
    window_bytes: int
    span_lists: int
    threads: int
    piece_bytes: int

    def make(self) -> _Merger:
        """Raise the limit on open files; the shards are opened again for each slice."""
        allow_open_files(2 * len(self.shards))
        return self


def plan_window(
    shards: int, memory_bytes: int, threads: int, sizes: BlockSizes = USUAL_SIZES
) -> int:
    """Return the bytes that are concatenated at a time; a few such windows are in memory."""
    ideal = max(sizes.merge_window_bytes, shards * sizes.merge_read_bytes)
    return min(ideal, memory_bytes // (4 * (threads + 2)))


def plan_span(shards: int, memory_bytes: int, sizes: BlockSizes = USUAL_SIZES) -> int:
    """Return how many lists' table entries, of all shards, fit in a quarter of the memory."""
    fit = memory_bytes // (4 * _TABLE_ENTRY * shards)
    return max(1, min(fit, sizes.merge_span_lists))


@dataclass(frozen=True)
class _SliceTask:
    """One slice: its files, and the sizes of its lists, (n,) int64."""

    files: SliceFiles
    sizes: Int64


def _merge_slice(merger: _Merger, task: _SliceTask) -> Steps[Segment]:
    """Write a slice, unless it is sealed."""
    files = task.files
    if files.are_sealed():
        yield files.ntotal * merger.row_bytes
    else:
        yield from _write_slice(merger, files, task.sizes)
    return files.entry()


def _write_slice(merger: _Merger, files: SliceFiles, sizes: Int64) -> Iterator[int]:
    start, stop = files.lists
    span = merger.span_lists
    with files.writing(sizes) as writer, _open_columns(merger, files.schema) as columns:
        for first in range(start, stop, span):
            with _open_lists(merger.shards, (first, min(first + span, stop))) as opened:
                order, at = RowOrder.of(opened) if columns else None, 0
                for codes, ids in concatenate(opened, merger.window_bytes, merger.threads):
                    writer.write(codes, ids)
                    if order is not None:
                        rows = order.take(at, at + len(ids))
                        for table in gather_columns(columns, *rows, merger.piece_bytes):
                            writer.write_columns(table)
                    at += len(ids)
                    yield codes.nbytes + ids.nbytes


@contextmanager
def _open_columns(merger: _Merger, schema: Any) -> Iterator[list[ColumnFile]]:
    """Open the columns of all shards, in row order; none if there are no columns."""
    with ExitStack() as stack:
        files = []
        for path in merger.shards if schema is not None else ():
            file = stack.enter_context(ColumnFile(columns_of_shard(path)))
            with ListFile(path, lists=(0, 0)) as shard:
                header = shard.header
            expected = ColumnFileHeader(0, header.list_stop, header.ntotal, header.model)
            file.check_belongs(expected, schema)
            files.append(file)
        yield files
