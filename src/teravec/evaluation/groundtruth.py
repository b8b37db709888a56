"""Exact k nearest neighbours by brute force, in bounded memory, resumable.

``exact_scan`` compares pairs. This module distributes rows over workers and saves checkpoints.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from teravec.arguments import whole_number
from teravec.engines.block_sizes import BlockSizes
from teravec.engines.engine import Engine, Steps
from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.evaluation.checkpoint import BestSoFar, Checkpoint
from teravec.evaluation.exact_scan import (
    ScanTask,
    Vectors,
    plan_block,
    scan_rows,
    squared_lengths,
    with_squares,
)
from teravec.evaluation.exactness import check_distances, exact_queries
from teravec.kernels.metric import Metric
from teravec.native.extensions import warn_if_missing
from teravec.progress import Bar
from teravec.sources import Source, SourceFiles, reopen
from teravec.storage.files import byte_view
from teravec.storage.local_store import AnyPath

__all__ = ["groundtruth"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_RANGES = 4  # ranges of rows for each worker of a cluster


def groundtruth(
    source: Source,
    queries: Vectors,
    k: int,
    *,
    metric: Metric,
    resources: Resources,
    checkpoint: AnyPath | None = None,
    within: Float64 | None = None,
) -> tuple[Float32, Int64]:
    """Find each query's k nearest vectors by comparing it with all.

    The result is that of float64 arithmetic on the stored vectors, whatever their norms, with ties
    ordered by id. Vectors and queries that float32 would round (float64, integers of 32 bits and
    more) are read as float64.

    Parameters
    ----------
    source : Source
    queries : ndarray of shape (nq, d), a real number type
    k : int
        1 to the number of vectors in the source.
    metric : Metric
    resources : Resources
        Workers divide the source's rows. Memory holds queries and results, ``nq (20 k + 4 d)``
        bytes (8 d if queries are float64), and about 100 MiB of blocks and buffers, less if the
        limit is low. Meanwhile BLAS in this process is set to one thread, because the threads here
        divide the work.
    checkpoint : StorePath or Path, optional
        Directory for the state to save and to resume from. It stays after the function returns:
        call ``checkpoint.remove_checkpoint`` when the result is safe.
    within : ndarray of shape (nq,), float64, optional
        Find vectors only that cost each query at most this: squared L2, or negated similarity.
        Missing ones then have id -1 and the worst distance. Not with a checkpoint.

    Returns
    -------
    distances : ndarray of shape (nq, k), float32
        Squared L2 ascending (l2), or similarities descending (ip, cosine). A vector of zeros
        has cosine similarity 0 with all.
    ids : ndarray of shape (nq, k), int64
        From the source's id column, or row numbers. Equal distances are ordered by id, ascending.

    Raises
    ------
    InvalidArgument
        k or the queries do not fit the source.
    MemoryLimitTooSmall
        The message states how much is needed.
    OutputExists
        The checkpoint belongs to another source, other queries, k or metric.
    CorruptFile
        The checkpoint is damaged.
    InvalidSource
        The source holds NaN or infinity, or changed; or float32 cannot hold the distances: one is
        too large, or those of most queries are too small.
    """
    warn_if_missing()
    # Unlike a search, this is not padded: a truth must not have holes.
    queries, k = exact_queries(queries, source.d), whole_number(k, "k", 1, source.ntotal)
    if not len(queries):
        raise InvalidArgument("0 queries found, 1 or more expected")
    task = _task(queries, k, metric, resources.threads)
    sizes = resources.sizes
    # Fail before reading anything.
    plan_block(source, task, resources.memory_bytes, sizes.truth_block_bytes)
    store = None if checkpoint is None else Checkpoint(checkpoint, _identity(source, task))
    best = (store.load() if store else None) or BestSoFar.none(len(queries), k)
    if within is not None:
        best.limit(within)
    started = saved = time.monotonic()
    begin = best.rows
    with resources.progress.stage("groundtruth", source.ntotal, "vectors") as bar:
        bar.advance(begin)
        for _ in _searched(source, task, best, resources.engine, sizes, bar):
            if (
                store
                and best.rows < source.ntotal
                and (time.monotonic() - saved >= resources.checkpoint_s)
            ):
                store.save(best)
                saved = time.monotonic()
    log.info(
        "ground truth: %d queries against %d vectors in %.1f s",
        len(queries),
        source.ntotal - begin,
        time.monotonic() - started,
    )
    if within is not None:
        best.end_limit(within)
    elif metric is not Metric.COSINE:
        check_distances(source, queries, best)
    return best.distances(metric), best.ids


def _task(queries: Vectors, k: int, metric: Metric, threads: int) -> ScanTask:
    if metric is not Metric.COSINE:
        return ScanTask(queries, k, metric, threads, None)
    queries = with_squares(queries)
    return ScanTask(queries, k, metric, threads, squared_lengths(queries))


def _searched(
    source: Source, task: ScanTask, best: BestSoFar, engine: Engine, sizes: BlockSizes, bar: Bar
) -> Iterator[None]:
    """Advance ``best`` through the source's rows; yield whenever it may be saved."""
    if engine.in_process:
        block_rows = plan_block(source, task, engine.memory_bytes, sizes.truth_block_bytes)
        for rows in scan_rows(source, task, best, source.ntotal, block_rows):
            bar.advance(rows)
            yield
        return
    maker = _SearcherMaker(
        source.opened_by,
        task.queries,
        task.k,
        str(task.metric),
        engine.threads,
        engine.memory_bytes,
        sizes.truth_block_bytes,
    )
    # Several ranges for each worker, so that none waits long for the slowest.
    left = source.ntotal - best.rows
    count = min(_RANGES * engine.workers, max(1, left // sizes.truth_range_rows))
    bounds = [best.rows + left * i // count for i in range(count + 1)]
    for found in engine.run(maker, _search_range, list(pairwise(bounds)), bar):
        best.merge(found)
        yield


@dataclass(frozen=True)
class _SearcherMaker:
    """Makes a worker's searcher: the queries are sent, the source is opened by path."""

    source: SourceFiles
    queries: Vectors
    k: int
    metric: str
    threads: int
    memory_bytes: int
    block_bytes: int

    def make(self) -> _Searcher:
        task = _task(self.queries, self.k, Metric.parse(self.metric), self.threads)
        source = reopen(self.source)
        block_rows = plan_block(source, task, self.memory_bytes, self.block_bytes)
        return _Searcher(source, task, block_rows)


class _Searcher:
    """Searches ranges of rows in a worker, using limits from its earlier ranges.

    Starting a range without limits costs as much as some blocks. But a vector farther than the k-th
    of an earlier range cannot be among the k nearest of all. Such pairs are skipped, and the result
    of all ranges together is the same.
    """

    def __init__(self, source: Source, task: ScanTask, block_rows: int) -> None:
        self._source, self._task, self._block_rows = source, task, block_rows
        self._limits = np.full(len(task.queries), np.inf)

    def search(self, rows: tuple[int, int]) -> Steps[BestSoFar]:
        """Find the best of a range, skipping vectors farther than the k-th found before."""
        best = BestSoFar.none(len(self._task.queries), self._task.k)
        best.rows, limits = rows[0], self._limits
        best.limit(limits)
        yield from scan_rows(self._source, self._task, best, rows[1], self._block_rows)
        self._limits = best.values[:, -1].copy()
        best.end_limit(limits)
        return best


def _search_range(searcher: _Searcher, rows: tuple[int, int]) -> Steps[BestSoFar]:
    return searcher.search(rows)


def _identity(source: Source, task: ScanTask) -> dict[str, Any]:
    """Identify the search that a checkpoint belongs to."""
    exact = source.exact_dtype == task.queries.dtype == np.float32
    return {
        **({} if exact else {"arithmetic": "of float64 vectors"}),
        "k": task.k,
        "metric": str(task.metric),
        "queries": {
            "shape": list(task.queries.shape),
            "checksum": xxhash.xxh3_64_hexdigest(byte_view(task.queries)),
        },
        "source": source.describe(),
    }
