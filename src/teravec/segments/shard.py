"""The shard stage: it encodes ranges of rows into sealed files, sorted by list."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teravec.engines.engine import Engine, Steps
from teravec.engines.options import CPU
from teravec.engines.resources import Resources
from teravec.engines.threads import ahead
from teravec.errors import ForeignFile, InvalidArgument
from teravec.kernels.assignment import CentroidAssigner
from teravec.memory import require
from teravec.model.description import ModelDescription
from teravec.model.model import Model
from teravec.segments.shard_columns import (
    COLUMN_SHARE,
    ROW_BYTES,
    ColumnSource,
    write_shard_columns,
)
from teravec.segments.shard_plan import (
    BLOCK_BYTES,
    WRITE_BYTES,
    RowRange,
    fixed_bytes,
    missing_ranges,
    rows_in_memory,
    shard_ranges,
)
from teravec.sources import Source, SourceFiles, reopen
from teravec.storage.columnfile import ColumnFileHeader
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ListFile, ListFileHeader, ListFileWriter, verify_lists
from teravec.storage.store import StorePath

__all__ = [
    "EncodedRows",
    "Encoder",
    "EncoderMaker",
    "count_clipped",
    "order_by_list",
    "plan_encoding",
    "sealed_ranges",
    "sealed_shards",
    "shard",
    "write_shard",
]

log = logging.getLogger(__name__)

_KEPT_BYTES = 64 << 20  # the largest model that is kept
_CHECKED_ROWS = 1024  # rows on which a device is compared with the processor


def sealed_shards(paths: IndexPaths) -> list[StorePath]:
    """List the sealed shards in row order."""
    return [path for path in paths.shards.children() if path.name.endswith(".lists")]


def columns_of_shard(path: StorePath) -> StorePath:
    """Return the column file of a shard."""
    return StorePath(path.store, path.name.removesuffix(".lists") + ".columns")


def count_clipped(paths: IndexPaths) -> int:
    """Count the vectors in all shards outside the scalar quantizer's trained range."""
    count = 0
    for path in sealed_shards(paths):
        with ListFile(path, lists=(0, 0)) as file:
            count += file.header.clipped
    return count


def shard(
    source: Source,
    model: ModelDescription,
    paths: IndexPaths,
    shards: int | None,
    rows: RowRange | None,
    resources: Resources,
) -> list[StorePath]:
    """Encode the rows that no sealed shard covers; return the files written.

    Ranges may be encoded in any order, by several processes at once, and again after a crash. A
    shard gets its name only when it is complete and verified.

    Parameters
    ----------
    source : Source
    model : ModelDescription
    paths : IndexPaths
    shards : int, optional
        Least number of shards to cut all rows into.
    rows : tuple of int, optional
        Encode only rows [start, stop). Not given: every row that no shard covers yet.
    resources : Resources

    Raises
    ------
    MemoryLimitTooSmall
        The model and one block of vectors leave no room to sort.
    ForeignFile
        A shard of another model exists already.
    """
    engine = resources.engine
    maker, rows_most = plan_encoding(source, model, paths, resources)
    done = sealed_ranges(paths, model)
    missing = missing_ranges(_plan_ranges(source.ntotal, shards, rows, rows_most, engine), done)
    with resources.progress.stage("shard", sum(b - a for a, b in missing), "vectors") as bar:
        written = []
        for path in engine.run(maker, _write_shard, missing, bar):
            log.info("shard %s sealed", path.last_name)
            written.append(path)
    return written


def plan_encoding(
    source: Source, model: ModelDescription, paths: IndexPaths, resources: Resources
) -> tuple[EncoderMaker, int]:
    """Plan the memory of encoding; return the encoders' maker, and the rows that one sorts at most.

    Raises
    ------
    MemoryLimitTooSmall
    """
    engine = resources.engine
    block_rows = max(1, BLOCK_BYTES // (4 * max(source.d, model.d)))
    code_size = model.code_size
    fixed = fixed_bytes(model.memory_bytes)
    require(fixed + block_rows * (code_size + 32), engine.memory_bytes, "sharding")
    free, row_size = engine.memory_bytes - fixed, code_size
    column_bytes = 0
    if source.attributes is not None:
        column_bytes = engine.memory_bytes // COLUMN_SHARE
        require(fixed + column_bytes, engine.memory_bytes, "sharding with columns")
        free, row_size = free - column_bytes, code_size + ROW_BYTES
    maker = EncoderMaker(
        source.opened_by, paths, block_rows, column_bytes, engine.threads, resources.device
    )
    return maker, rows_in_memory(row_size, free)


def _plan_ranges(
    ntotal: int, shards: int | None, rows: RowRange | None, rows_most: int, engine: Engine
) -> list[RowRange]:
    if rows is None:
        return shard_ranges(ntotal, shards, rows_most, engine.workers)
    start, stop = rows
    if not 0 <= start < stop <= ntotal:
        raise InvalidArgument(f"rows {start}:{stop} asked for; the source has {ntotal:,}")
    ranges = shard_ranges(stop - start, None, rows_most, engine.workers)
    return [(start + a, start + b) for a, b in ranges]


def sealed_ranges(paths: IndexPaths, model: ModelDescription) -> list[RowRange]:
    """Return the rows of each sealed shard, or raise ForeignFile if another model encoded them."""
    return [_read_range(path, model) for path in sealed_shards(paths)]


def _read_range(path: StorePath, model: ModelDescription) -> RowRange:
    with ListFile(path) as file:
        file.check_belongs(model=model.tag, code_size=model.code_size)
        if file.lists != (0, model.nlist):
            raise ForeignFile(f"{path}: lists {file.lists} found, all {model.nlist:,} expected")
        return file.header.row_start, file.header.row_stop


class EncodedRows(NamedTuple):
    """Rows of a shard, in the source's order.

    Attributes
    ----------
    codes : ndarray of shape (n, code_size), uint8
    ids : ndarray of shape (n,), int64
    list_nos : ndarray of shape (n,), int32
    clipped : int
        Vectors outside the scalar quantizer's trained range.
    """

    codes: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int64]
    list_nos: npt.NDArray[np.int32]
    clipped: int


class _Ready(NamedTuple):
    """A model that was read, and its assigner."""

    key: tuple[str, int]
    model: Model
    assigner: CentroidAssigner


_ready: list[_Ready] = []  # the last one, if it is small: many small additions follow each other


def ready_model(path: StorePath, threads: int) -> tuple[Model, CentroidAssigner]:
    """Read a model and make its assigner, unless this process did so just now."""
    description = ModelDescription.read(path)
    key = description.checksum, threads
    for kept in tuple(_ready):
        if kept.key == key:
            return kept.model, kept.assigner
    model = Model.read(path)
    assigner = model.assigner(threads)
    if description.memory_bytes <= _KEPT_BYTES:
        _ready[:] = [_Ready(key, model, assigner)]
    return model, assigner


@dataclass(frozen=True)
class EncoderMaker:
    """The maker of a worker's encoder."""

    source: SourceFiles
    paths: IndexPaths
    block_rows: int
    column_bytes: int
    threads: int
    device: str

    def make(self) -> Encoder:
        source = reopen(self.source)
        if self.device != CPU:
            model = Model.read(self.paths.model)
            rows = np.linspace(0, source.ntotal - 1, min(source.ntotal, _CHECKED_ROWS))
            sample = model.prepare(source.take(np.unique(rows.astype(np.int64))), self.threads)
            assigner = model.assigner(self.threads, self.device, sample)
        else:
            model, assigner = ready_model(self.paths.model, self.threads)
        return Encoder(
            source, self.paths, model, assigner, self.block_rows, self.column_bytes, self.threads
        )


@dataclass(frozen=True)
class Encoder:
    """Encodes ranges of a source's rows."""

    source: Source
    paths: IndexPaths
    model: Model
    assigner: CentroidAssigner
    block_rows: int
    column_bytes: int
    threads: int

    def encode(self, rows: RowRange) -> Steps[EncodedRows]:
        """Encode a range; return codes, ids and list numbers in row order, and clipped vectors."""
        count, clipped = rows[1] - rows[0], 0
        codes = np.empty((count, self.model.code_size), np.uint8)
        ids, list_nos = np.empty(count, np.int64), np.empty(count, np.int32)
        for block in self.source.blocks(*rows, self.block_rows):
            vectors = self.model.prepare(block.vectors, self.threads)
            assigned, distances = self.assigner.assign(vectors, threads=self.threads)
            # A vector without a finite distance could never be found.
            if not np.isfinite(distances).all():
                rows_of = np.arange(block.start, block.start + len(vectors))
                self.source.check_lengths(rows_of, block.vectors)
            self.model.codec.check_values(vectors, partial(self._place_of, block.start))
            at = slice(block.start - rows[0], block.start - rows[0] + len(vectors))
            list_nos[at], ids[at] = assigned, block.ids
            codes[at] = self.model.encode(vectors, assigned, self.threads)
            clipped += self.model.count_clipped(vectors, assigned, self.threads)
            yield len(vectors)
        return EncodedRows(codes, ids, list_nos, clipped)

    def _place_of(self, start: int, number: int) -> str:
        return self.source.place_of(start + number)


def _write_shard(encoder: Encoder, rows: RowRange) -> Steps[StorePath]:
    encoded = yield from encoder.encode(rows)
    columns, source = None, encoder.source
    if source.attributes is not None:
        columns = ColumnSource(source.attributes.schema, source.column_batches)
    return write_shard(
        encoder.paths,
        encoder.model.description,
        rows,
        encoded,
        columns,
        encoder.column_bytes,
        encoder.threads,
    )


def write_shard(
    paths: IndexPaths,
    model: ModelDescription,
    rows: RowRange,
    encoded: EncodedRows,
    columns: ColumnSource | None,
    column_bytes: int,
    threads: int,
) -> StorePath:
    """Seal encoded rows as a shard, sorted by list, with their columns if there are any.

    Parameters
    ----------
    paths : IndexPaths
        Names the shard.
    model : ModelDescription
    rows : tuple of int
        Some of them may be left out of ``encoded``.
    encoded : EncodedRows
    columns : ColumnSource, optional
    column_bytes, threads : int
        For the columns.
    """
    sizes = np.bincount(encoded.list_nos, minlength=model.nlist)
    order = np.argsort(encoded.list_nos, kind="stable")  # rows of a list stay in row order
    count, nlist, codes = len(order), model.nlist, encoded.codes
    header = ListFileHeader(
        model.code_size, 0, nlist, rows[0], rows[1], count, model.tag, encoded.clipped
    )
    if columns is not None:  # first: a sealed shard has its columns
        write_shard_columns(
            paths.shard_columns(*rows),
            columns,
            rows,
            order,
            ColumnFileHeader(0, nlist, count, model.tag),
            column_bytes,
            threads,
        )
    path = paths.shard(*rows)
    with path.publish(verify_lists) as file, ListFileWriter(file, header, sizes) as writer:
        for part_codes, part_ids in ahead(order_by_list(codes, encoded.ids, order)):
            writer.write(part_codes, part_ids)
        writer.finish()
    return path


def order_by_list(
    codes: npt.NDArray[np.uint8], ids: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """Yield codes and ids in the order of lists, a few megabytes at a time."""
    rows = max(1, WRITE_BYTES // (codes.shape[1] + ids.itemsize))
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        yield codes[part], ids[part]
