"""Comparing queries with rows of a source exactly, in bounded memory.

One float32 matrix product gives each pair of query and vector a lower bound of its distance. If the
bound does not exceed the query's k-th best exact distance so far, the distance is computed in
float64 from the original vectors. Only float64 distances decide, so rounding in the product costs
time, but never a neighbour.

The bound
---------
With ``u = 2**-24`` and ``e = 2 (d + 16) u``, vectors x, q shifted in float64 by a centre c of the
block (differences keep their size where all vectors lie far from the origin), and x', q' the
shifted vectors rounded to float32, the matrix product of rows

    [x', |x|**2 / 2 - e |x|**2, e |x|]    and    [-q', 1, -|q|]

is at most ``|x|**2 / 2 - x.q = (|x - q|**2 - |q|**2) / 2``: a float32 dot product of n terms, in
any order of summation and with or without fused multiply-add, errs by at most
``n u / (1 - n u)`` times the sum of the terms' magnitudes, here ``(d + 2) u`` of
``|x||q| + |x|**2 / 2 + e |x||q|``; rounding x and q adds ``2 u |x||q|``. ``e`` covers both, with
room, for d up to 2**20. The inner product is bounded likewise, without the middle column and
with only x shifted (``x.q - c.q`` orders as ``x.q``). Underflow has a term of its own, and
vectors so long that float32 could overflow are compared with every query exactly.

References
----------
Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, 2002, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

from teravec.engines.block_sizes import USUAL_SIZES
from teravec.engines.threads import ahead, ordered_map
from teravec.evaluation.checkpoint import BestSoFar
from teravec.kernels.metric import Metric
from teravec.kernels.nearest import smallest_k
from teravec.memory import require
from teravec.sources import Source

__all__ = ["ScanTask", "Vectors", "plan_block", "scan_rows", "squared_lengths", "with_squares"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Vectors = Float32 | Float64

_U = 2.0**-24  # unit roundoff of float32
_U64 = 2.0**-53
_TINY = 2.0**-126  # smallest normal float32: no smaller result is trusted
_EXTREME = 400  # powers of two: longer or shorter vectors have no square in float64
_LONGEST = 2.0**60  # products of such vectors stay far inside float32

# A tile of scores is 1 MiB, so that it is compared with its thresholds in the processor's cache.
_TILE_QUERIES = 256
_TILE_ROWS = 1024
_QUERY_FLOATS = 1 << 19  # of a tile's queries
_BEST_PLACES = 1 << 18  # queries of a tile times k
_EXACT_FLOATS = 1 << 16  # of vectors compared exactly at a time
_MERGE_WIDTHS = (16, 1024)  # new results of one query merged in a round: least and most
_FEWEST_ROWS = 256  # of a block, where memory is short
_BLOCKS = 5  # blocks in memory: in use, ready, being read, and two for the temporaries of reading


def scan_rows(
    source: Source, task: ScanTask, best: BestSoFar, stop: int, block_rows: int
) -> Iterator[int]:
    """Compare the queries with rows ``best.rows`` to ``stop``; yield each block's row count."""
    with threadpool_limits(1, user_api="blas"):
        for block in ahead(_blocks(source, task, (best.rows, stop), block_rows)):
            search = partial(_search_tile, block, task, best)
            for _ in ordered_map(search, task.tiles(), threads=task.threads):
                pass
            before, best.rows = best.rows, block.stop
            yield block.stop - before


@dataclass(frozen=True)
class ScanTask:
    """Queries, k and metric of a scan; ``squares``, the queries' squared lengths, for cosine only.

    Queries are float64 if float32 would round them.
    """

    queries: Vectors
    k: int
    metric: Metric
    threads: int
    squares: Float64 | None

    @property
    def tile_queries(self) -> int:
        nq, d = map(int, self.queries.shape)
        share = -(-nq // self.threads)
        most = min(_TILE_QUERIES, share, int(_QUERY_FLOATS // d), _BEST_PLACES // self.k)
        return max(1, int(most))

    def tiles(self) -> list[slice]:
        """Slices of the queries, one for each tile."""
        starts = range(0, len(self.queries), self.tile_queries)
        return [slice(start, start + self.tile_queries) for start in starts]


@dataclass(frozen=True)
class _Block:
    """Prepared rows of the source, up to row ``stop``.

    ``bounds`` (n, d + 2) is the matrix of the module's docstring. ``reach`` is the longest vector's
    length, for the error of float64. ``squares`` are squared lengths, for cosine only.
    """

    stop: int
    vectors: Vectors
    ids: Int64
    bounds: Float32
    centre: Float64
    reach: float
    squares: Float64 | None


def _search_tile(block: _Block, task: ScanTask, best: BestSoFar, rows: slice) -> None:
    _Tile(block, task, best, rows).scan()


class _Tile:
    """Some queries against one block. No other tile changes these queries' results meanwhile."""

    def __init__(self, block: _Block, task: ScanTask, best: BestSoFar, rows: slice) -> None:
        self._block, self._task = block, task
        self._queries = task.queries[rows]
        self._squares = None if task.squares is None else task.squares[rows]
        self._values, self._ids = best.values[rows], best.ids[rows]
        self._pending: list[tuple[Int64, Int64]] = []
        self._pending_count = 0
        self._prepare()
        self._update_limits()

    def _prepare(self) -> None:
        """Shift the queries to the block's centre, and compute the threshold for bounds.

        A pair of value v has a bound of at most ``v * scale + offset``.
        """
        block = self._block
        x = self._queries.astype(np.float64)
        nq, d = x.shape
        if self._squares is not None:
            x *= _inverse_lengths(self._squares)[:, None]
        if self._task.metric is Metric.L2:
            x -= block.centre
            squares = squared_lengths(x)
            self._scale, self._offset = 0.5, -0.5 * squares
            error = squares
        else:
            squares = squared_lengths(x)
            self._scale, self._offset = 1.0, x @ block.centre
            error = np.sqrt(squares) * (block.reach + np.linalg.norm(block.centre))
        lengths = np.sqrt(squares)
        self._offset += 4 * (d + 16) * (_U64 * error + _TINY)
        short = lengths <= _LONGEST
        self._offset[~short] = np.inf
        self._bounds = np.zeros((nq, d + 2), np.float32)
        self._bounds[short, :d] = -x[short]
        self._bounds[:, d] = 1
        self._bounds[short, d + 1] = -(lengths[short] * (1 + 4 * _U) + _TINY)

    def _update_limits(self) -> None:
        """Compute each query's largest bound of a relevant pair, rounded up."""
        kth = self._values[:, -1]
        with np.errstate(over="ignore", invalid="ignore"):
            # The last term covers the rounding errors of the values themselves.
            slack = 4 * (self._queries.shape[1] + 16) * _U64 * np.abs(kth)
            limits = kth * self._scale + self._offset + slack
            limits = np.nextafter(limits.astype(np.float32), np.float32(np.inf))
        self._limits = np.where(np.isnan(limits), np.float32(np.inf), limits)[:, None]

    def scan(self) -> None:
        """Compare the queries with all rows of the block."""
        bounds = self._block.bounds
        nq, k = self._values.shape
        size = min(_TILE_ROWS, len(bounds))
        scores = np.empty(nq * size, np.float32)
        for first in range(0, len(bounds), size):
            rows = bounds[first : first + size]
            part = scores[: nq * len(rows)].reshape(nq, len(rows))
            np.matmul(self._bounds, rows.T, out=part)
            hits = np.less_equal(part, self._limits)
            if k < len(rows) and np.count_nonzero(hits) > 2 * nq * k:
                # The limits are loose, as in the first tile: tighten them with the likely best.
                likely, _ = smallest_k(part, k)
                self._merge(np.repeat(np.arange(nq), k), first + likely.ravel().astype(np.int64))
                np.put_along_axis(part, likely, np.float32(np.nan), axis=1)  # done: never a hit
                hits = np.less_equal(part, self._limits)
            found = np.flatnonzero(hits)
            if len(found):
                self._pending.append((found // len(rows), first + found % len(rows)))
                self._pending_count += len(found)
            if self._pending_count > nq * max(8, k // 4):
                self._flush()
        self._flush()

    def _flush(self) -> None:
        if self._pending_count:
            owners, rows = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
            self._pending.clear()
            self._pending_count = 0
            self._merge(owners, rows)

    def _merge(self, owners: Int64, rows: Int64) -> None:
        """Compute pairs exactly, and store those among their query's best."""
        values = self._exact(owners, rows)
        ids = self._block.ids[rows]
        kth, kth_id = self._values[owners, -1], self._ids[owners, -1]
        better = (values < kth) | ((values == kth) & (ids < kth_id))
        owners, values, ids = owners[better], values[better], ids[better]
        if not len(owners):
            return
        order = np.argsort(owners, kind="stable")
        owners, values, ids = owners[order], values[order], ids[order]
        place = np.arange(len(owners)) - np.searchsorted(owners, owners)
        # Use the mean width; the few queries with more results get further rounds.
        mean = len(owners) // int(np.count_nonzero(place == 0))
        start, width = 0, min(max(_MERGE_WIDTHS[0], mean), _MERGE_WIDTHS[1])
        while len(part := np.flatnonzero((place >= start) & (place < start + width))):
            self._merge_some(owners[part], place[part] - start, values[part], ids[part], width)
            start, width = start + width, min(2 * width, _MERGE_WIDTHS[1])
        self._update_limits()

    def _merge_some(
        self, owners: Int64, place: Int64, values: Float64, ids: Int64, width: int
    ) -> None:
        """Merge at most ``width`` results per query."""
        k = self._values.shape[1]
        touched, at = np.unique(owners, return_inverse=True)
        both = np.full((len(touched), k + width), np.inf)
        both_ids = np.full(both.shape, np.iinfo(np.int64).max)
        both[:, :k], both_ids[:, :k] = self._values[touched], self._ids[touched]
        both[at, k + place], both_ids[at, k + place] = values, ids
        order = np.lexsort((both_ids, both), axis=1)[:, :k]
        self._values[touched] = np.take_along_axis(both, order, axis=1)
        self._ids[touched] = np.take_along_axis(both_ids, order, axis=1)

    def _exact(self, owners: Int64, rows: Int64) -> Float64:
        """Compute the values of pairs in float64."""
        values = np.empty(len(rows))
        step = max(1, _EXACT_FLOATS // self._queries.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            # Convert before the sums. einsum would convert in pieces that depend on the pair's
            # position, but equal vectors must get equal values.
            x = self._block.vectors[rows[part]].astype(np.float64)
            q = self._queries[owners[part]].astype(np.float64)
            if self._task.metric is Metric.L2:
                x -= q
                values[part] = squared_lengths(x)
            else:
                values[part] = -np.einsum("ij,ij->i", x, q)
        if self._squares is not None and self._block.squares is not None:
            values *= _inverse_lengths(self._squares[owners])
            values *= _inverse_lengths(self._block.squares[rows])
        return values


def with_squares(x: Vectors) -> Vectors:
    """Scale rows whose squares float64 cannot hold by a power of two.

    Cosine similarities stay the same. float32 has no such rows.
    """
    if x.dtype == np.float32:
        return x
    _, exponents = np.frexp(np.abs(x).max(axis=1))
    extreme = np.abs(exponents) > _EXTREME
    if extreme.any():
        x = x.copy()
        x[extreme] = np.ldexp(x[extreme], -exponents[extreme, None])
    return x


def squared_lengths(x: npt.NDArray[Any]) -> Float64:
    """Return squared lengths of rows."""
    if x.dtype == np.float64:
        return np.asarray(np.einsum("ij,ij->i", x, x), np.float64)
    step = max(1, _EXACT_FLOATS // x.shape[1])
    squares = np.empty(len(x))
    for start in range(0, len(x), step):
        squares[start : start + step] = squared_lengths(x[start : start + step].astype(np.float64))
    return squares


def _inverse_lengths(squares: Float64) -> Float64:
    """Return 1 / length, or 0 for a vector of zeros, whose similarities are then 0."""
    inverse: Float64 = np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1)), 0)
    return inverse


def _blocks(source: Source, task: ScanTask, wanted: tuple[int, int], rows: int) -> Iterator[_Block]:
    """Yield the requested rows of the source as prepared blocks."""
    start, stop = wanted
    for begin in range(start, stop, rows):
        end = min(begin + rows, stop)
        vectors, ids = source.read(begin, end, source.exact_dtype), source.read_ids(begin, end)
        if task.metric is Metric.COSINE:
            vectors = with_squares(vectors)
        yield _prepared(end, *_without_surplus_copies(vectors, ids, task.k), task.metric)


def _prepared(stop: int, vectors: Vectors, ids: Int64, metric: Metric) -> _Block:
    n, d = vectors.shape
    squares = squared_lengths(vectors)
    scale = _inverse_lengths(squares) if metric is Metric.COSINE else np.ones(n)
    some = slice(None, None, max(1, n // 256))  # an approximate mean is enough for a centre
    centre = (vectors[some] * scale[some, None]).mean(axis=0)
    error, tiny = 2 * (d + 16) * _U, (d + 16) * _TINY
    bounds = np.zeros((n, d + 2), np.float32)
    step = max(1, _EXACT_FLOATS // d)
    for start in range(0, n, step):
        part = slice(start, start + step)
        x = vectors[part] * scale[part, None] - centre
        square = squared_lengths(x)
        length = np.sqrt(square)
        short = length <= _LONGEST
        x[~short] = 0
        length[~short] = 0
        bounds[part, :d] = x
        if metric is Metric.L2:
            bounds[part, d] = np.where(short, square * (0.5 - error) - tiny * (length + 1), -np.inf)
        else:
            bounds[part, d] = np.where(short, -tiny * (length + 1), -np.inf)
        bounds[part, d + 1] = length * error + tiny
    reach = 1.0 if metric is Metric.COSINE else float(np.sqrt(squares.max()))
    kept = squares if metric is Metric.COSINE else None
    return _Block(stop, vectors, ids, bounds, centre, reach, kept)


def _without_surplus_copies(vectors: Vectors, ids: Int64, k: int) -> tuple[Vectors, Int64]:
    """Keep only the k smallest ids of equal rows, because no result can hold more.

    Otherwise a query whose k-th neighbour has a million copies would compare all of them exactly.
    Candidates for equal rows have equal projections on a fixed direction; then they are compared.
    """
    n, d = vectors.shape
    if n <= k:
        return vectors, ids
    with np.errstate(over="ignore", invalid="ignore"):
        keys = vectors @ np.random.default_rng(0).standard_normal(d, np.float32)
    order = np.lexsort((ids, keys))
    first = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1]))
    sizes = np.diff(np.append(first, n))
    if sizes.max() <= k:
        return vectors, ids
    in_large = np.repeat(sizes > k, sizes)
    members, leaders = order[in_large], np.repeat(order[first], sizes)[in_large]
    equal = _equal_rows(vectors, members, leaders)
    # For each row: its rank among the equal rows of its group.
    count = np.cumsum(equal, dtype=np.int64)
    begin = np.flatnonzero(np.append(True, leaders[1:] != leaders[:-1]))
    count = count - np.repeat(count[begin] - 1, np.diff(np.append(begin, len(leaders))))
    keep = np.ones(n, bool)
    keep[members[equal & (count > k)]] = False
    return vectors[keep], ids[keep]


def _equal_rows(vectors: Vectors, a: Int64, b: Int64) -> npt.NDArray[np.bool_]:
    equal = np.empty(len(a), bool)
    step = max(1, _EXACT_FLOATS // vectors.shape[1])
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        equal[part] = (vectors[a[part]] == vectors[b[part]]).all(axis=1)
    return equal


def plan_block(
    source: Source,
    task: ScanTask,
    memory_bytes: int,
    block_bytes: int = USUAL_SIZES.truth_block_bytes,
) -> int:
    """Return the rows of a block of at most ``block_bytes``; raises MemoryLimitTooSmall."""
    nq, d = map(int, task.queries.shape)
    k = task.k
    tile = task.tile_queries
    scratch = tile * (32 * d + 64 * (k + _MERGE_WIDTHS[1])) + 40 * max(_EXACT_FLOATS, d)
    scratch += tile * _TILE_ROWS * 40  # scores, and pairs if every score is a hit
    item = source.exact_dtype.itemsize
    fixed = nq * (20 * k + task.queries.itemsize * d + 8)
    fixed += min(task.threads, -(-nq // tile)) * scratch
    row = _BLOCKS * ((item + 4) * d + 64)
    fewest = min(_FEWEST_ROWS, source.ntotal)
    require(
        fixed + fewest * row,
        memory_bytes,
        f"ground truth of {nq:,} queries of {d} dimensions with k {k:,}",
    )
    most = max(fewest, block_bytes // (item * d))
    return int(max(1, min((memory_bytes - fixed) // row, most)))
