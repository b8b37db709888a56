"""Moving rows to the lists of a derived model: those of lists that are void from then on.

A row that stays in its list keeps its code byte for byte. One that moves is decoded from its finest
code, and encoded again. Rows are encoded into shards, as those of a source are, and the shards are
merged into segments: in bounded memory, on any engine, and resumable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.engines.engine import Held, Steps
from teravec.engines.resources import Resources
from teravec.engines.threads import ahead
from teravec.kernels.assignment import CentroidAssigner
from teravec.memory import require
from teravec.model.model import Model
from teravec.segments.gathering import PIECE_BYTES, gather_columns
from teravec.segments.merge import MergeOptions, merge
from teravec.segments.run_rows import RunRows, RunsBlock, RunSource
from teravec.segments.segment import Segment
from teravec.segments.shard import EncodedRows, sealed_ranges, write_shard
from teravec.segments.shard_columns import COLUMN_SHARE, ROW_BYTES, ColumnSource
from teravec.segments.shard_plan import (
    RowRange,
    fixed_bytes,
    missing_ranges,
    rows_in_memory,
    shard_ranges,
)
from teravec.storage.layout import IndexPaths
from teravec.storage.store import StorePath

__all__ = ["Destinations", "count_leaving", "move_rows", "moving_bytes"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_BLOCK_BYTES = 4 << 20  # of float32 vectors decoded at a time
_RUN_BYTES = 96  # per list and segment: its table entry while it is read, and what is kept of it


@dataclass(frozen=True)
class Destinations:
    """Where rows of some lists may go.

    Parameters
    ----------
    lists : ndarray of shape (n,), int64
        Lists of the parent model, ascending.
    targets : ndarray of shape (n, m), int64
        Lists of the derived model that are compared for each; -1 fills the rows. A list that keeps
        its centroid is its own first target, so that equal distances move nothing.
    """

    lists: Int64
    targets: Int64

    def of(self, list_no: int) -> Int64:
        """Return the targets of a list."""
        row: Int64 = self.targets[int(np.searchsorted(self.lists, list_no))]
        targets: Int64 = row[row >= 0]
        return targets

    def joined(self, other: Destinations) -> Destinations:
        """Return these and those of other lists."""
        lists = np.concatenate([self.lists, other.lists])
        width = max(self.targets.shape[1], other.targets.shape[1])
        targets = np.full((len(lists), width), -1, np.int64)
        targets[: len(self.lists), : self.targets.shape[1]] = self.targets
        targets[len(self.lists) :, : other.targets.shape[1]] = other.targets
        order = np.argsort(lists)
        return Destinations(lists[order], targets[order])

    def only(self, lists: Int64) -> Destinations:
        """Return those of some of the lists."""
        return Destinations(lists, self.targets[np.searchsorted(self.lists, lists)])


def moving_bytes(nlist: int, nsegments: int, model_bytes: int) -> int:
    """Return a worker's memory without its shard's rows: two models, tables, blocks."""
    return fixed_bytes(2 * model_bytes) + _RUN_BYTES * nlist * (nsegments + 1)


@dataclass(frozen=True)
class _MoverMaker:
    """The maker of a worker's mover."""

    paths: IndexPaths
    parent: StorePath
    source: RunSource
    destinations: Held[Destinations]
    threads: int
    schema: Any = None
    column_bytes: int = 0

    def make(self) -> _Mover:
        """Read both models and the tables of the segments."""
        destinations = self.destinations.get()
        return _Mover(
            self,
            Model.read(self.parent),
            Model.read(self.paths.model),
            RunRows(self.source, destinations.lists),
            destinations,
        )


@dataclass(frozen=True)
class _Mover:
    plan: _MoverMaker
    parent: Model
    model: Model
    rows: RunRows
    destinations: Destinations

    def blocks(self, rows: RowRange) -> Iterator[tuple[RunsBlock, Float32, Int64]]:
        """Yield rows, their decoded vectors, and the lists that they belong to now."""
        block_rows = max(1, _BLOCK_BYTES // (4 * self.model.description.d_index))
        for block in ahead(self.rows.blocks(*rows, block_rows)):
            vectors = self.parent.decode(block.codes, block.list_nos)
            yield block, vectors, self._assign(block.list_nos, vectors)

    def _assign(self, list_nos: Int64, vectors: Float32) -> Int64:
        assigned = np.empty(len(list_nos), np.int64)
        bounds = np.flatnonzero(np.diff(list_nos, prepend=-1, append=-1))
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            targets = self.destinations.of(int(list_nos[start]))
            assigner = CentroidAssigner.exact(self.model.centroids[targets])
            nearest, _ = assigner.assign(vectors[start:stop], threads=self.plan.threads)
            assigned[start:stop] = targets[nearest]
        return assigned

    def keeps_centroid(self, list_nos: Int64) -> npt.NDArray[np.bool_]:
        """Return which of the parent's lists (n,) have the same centroid in the derived model."""
        same: npt.NDArray[np.bool_] = (
            self.parent.centroids[list_nos] == self.model.centroids[list_nos]
        ).all(1)
        return same


def count_leaving(
    paths: IndexPaths,
    parent: StorePath,
    source: RunSource,
    destinations: Destinations,
    resources: Resources,
) -> Int64:
    """Count the visible rows of each list that another list is nearer to, (n,)."""
    engine = resources.engine
    maker = _MoverMaker(paths, parent, source, engine.hold(destinations), engine.threads)
    rows = RunRows(source, destinations.lists)
    nrows = rows.nrows
    rows.close()
    ranges = shard_ranges(nrows, None, 1 << 20, engine.workers) if nrows else []
    total = np.zeros(len(destinations.lists), np.int64)
    with resources.progress.stage("compare", nrows, "vectors") as bar:
        for counts in engine.run(maker, _count, ranges, bar):
            total += counts
    return total


def _count(mover: _Mover, rows: RowRange) -> Steps[Int64]:
    lists = mover.destinations.lists
    counts = np.zeros(len(lists), np.int64)
    for block, _, assigned in mover.blocks(rows):
        leaving = block.list_nos[assigned != block.list_nos]
        counts += np.bincount(np.searchsorted(lists, leaving), minlength=len(lists))
        yield block.read
    return counts


def move_rows(
    paths: IndexPaths,
    parent: StorePath,
    source: RunSource,
    destinations: Destinations,
    resources: Resources,
    schema: Any = None,
) -> list[Segment]:
    """Write the visible rows of some lists into new segments, in the lists they belong to now.

    Parameters
    ----------
    paths : IndexPaths
        Names the shards, the new segments, and the derived model.
    parent : StorePath
        The model that encoded the rows.
    source : RunSource
    destinations : Destinations
    resources : Resources
    schema : pyarrow.Schema, optional
        Of the columns.

    Returns
    -------
    list of Segment
        Empty if the segments have no such rows. Their sequences are those of all the segments.
    """
    engine = resources.engine
    rows = RunRows(source, destinations.lists)
    nrows = rows.nrows
    rows.close()
    if not nrows:
        return []
    model = Model.read(paths.model).description
    fixed = moving_bytes(model.nlist, len(source.segments), model.memory_bytes)
    require(fixed + (16 << 20), engine.memory_bytes, f"rebalancing {model.nlist:,} lists")
    free, row_size, column_bytes = engine.memory_bytes - fixed, model.code_size, 0
    if schema is not None:
        column_bytes = free // COLUMN_SHARE
        free, row_size = free - column_bytes, model.code_size + ROW_BYTES + 16
    ranges = shard_ranges(nrows, None, rows_in_memory(row_size, free), engine.workers)
    maker = _MoverMaker(
        paths, parent, source, engine.hold(destinations), engine.threads, schema, column_bytes
    )
    missing = missing_ranges(ranges, sealed_ranges(paths, model))
    with resources.progress.stage("move", sum(b - a for a, b in missing), "vectors") as bar:
        for _ in engine.run(maker, _write, missing, bar):
            pass
    options = MergeOptions(
        model.tag, model.code_size, model.sketch_size, model.nlist, nrows, None, schema
    )
    made = merge(paths, options, resources)
    sequences = (
        min(segment.sequences[0] for segment in source.segments),
        max(segment.sequences[1] for segment in source.segments),
    )
    return [replace(entry, sequences=sequences) for entry in made if entry.ntotal]


def _write(mover: _Mover, rows: RowRange) -> Steps[StorePath]:
    model, threads, count = mover.model, mover.plan.threads, rows[1] - rows[0]
    codes = np.empty((count, model.code_size), np.uint8)
    ids, list_nos = np.empty(count, np.int64), np.empty(count, np.int32)
    columns_of = count if mover.rows.columns else 0
    file_nos, places = np.empty(columns_of, np.int64), np.empty(columns_of, np.int64)
    stop = clipped = 0
    for block, vectors, assigned in mover.blocks(rows):
        at = slice(stop, stop + len(block.ids))
        stop = at.stop
        codes[at], ids[at], list_nos[at] = block.codes, block.ids, assigned
        moved = assigned != block.list_nos
        moved |= ~mover.keeps_centroid(block.list_nos)
        if moved.any():
            to, chosen = assigned[moved].astype(np.int32), np.ascontiguousarray(vectors[moved])
            codes[at][moved] = model.encode(chosen, to, threads)
            clipped += model.count_clipped(chosen, to, threads)
        if columns_of:
            file_nos[at], places[at] = block.segment_nos, block.rows
        yield block.read
    encoded = EncodedRows(codes[:stop], ids[:stop], list_nos[:stop], clipped)
    columns = None
    if mover.plan.schema is not None:
        found = file_nos[:stop], places[:stop]
        columns = ColumnSource(mover.plan.schema, lambda *_: _batches(mover, *found))
    return write_shard(
        mover.plan.paths,
        model.description,
        rows,
        encoded,
        columns,
        mover.plan.column_bytes,
        threads,
    )


def _batches(mover: _Mover, file_nos: Int64, rows: Int64) -> Iterator[Any]:
    piece_bytes = min(PIECE_BYTES, mover.plan.column_bytes // 8)
    for table in gather_columns(mover.rows.columns, file_nos, rows, piece_bytes):
        yield from table.to_batches()
