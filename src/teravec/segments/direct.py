"""Encoding rows that one worker can sort straight into a segment, without shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from teravec.engines.engine import Steps
from teravec.engines.resources import Resources
from teravec.model.description import ModelDescription
from teravec.segments.merge import MergeOptions
from teravec.segments.segment import Segment
from teravec.segments.shard import Encoder, order_by_list, plan_encoding, sealed_shards
from teravec.segments.slice_files import SliceFiles
from teravec.segments.slice_plan import slice_count
from teravec.sources import Source
from teravec.storage.layout import IndexPaths

__all__ = ["encode_directly"]

_FEW_ROWS = 1 << 20  # that one worker encodes while others wait


@dataclass(frozen=True)
class _Task:
    files: SliceFiles
    nlist: int


def encode_directly(
    source: Source,
    model: ModelDescription,
    paths: IndexPaths,
    options: MergeOptions,
    resources: Resources,
) -> list[Segment] | None:
    """Encode all rows into one segment, if they fit into a worker's memory.

    The segment is that of the shard and merge stages, byte for byte. A sealed one is kept.

    Returns
    -------
    list of Segment or None
        None if the rows have columns, are too many, or have shards already.

    Raises
    ------
    MemoryLimitTooSmall
    """
    engine, n = resources.engine, source.ntotal
    one_file = slice_count(None, options.nlist, n * options.row_bytes) == 1
    few = engine.workers == 1 or n <= _FEW_ROWS
    if source.attributes is not None or not one_file or not few or sealed_shards(paths):
        return None
    maker, rows_most = plan_encoding(source, model, paths, resources)
    if n > rows_most:
        return None
    files = SliceFiles(
        paths.slice(0),
        paths.fine(0),
        paths.columns(0),
        (0, options.nlist),
        n,
        n,
        options.model_tag,
        options.code_size,
        options.sketch_size,
        threads=engine.threads,
    )
    if files.are_sealed():
        return [files.entry()]
    with resources.progress.stage("encode", n, "vectors") as bar:
        return list(engine.run(maker, _write, [_Task(files, options.nlist)], bar))


def _write(encoder: Encoder, task: _Task) -> Steps[Segment]:
    encoded = yield from encoder.encode((0, task.files.ntotal))
    sizes = np.bincount(encoded.list_nos, minlength=task.nlist)
    order = np.argsort(encoded.list_nos, kind="stable")  # rows of a list stay in row order
    with task.files.writing(sizes) as writer:
        for codes, ids in order_by_list(encoded.codes, encoded.ids, order):
            writer.write(codes, ids)
    return task.files.entry()
