"""What is drawn of the data: a sample, queries, and the queries' neighbours in all of the data.

A sample alone would mislead: its neighbours lie farther apart than those of the whole set, so they
fall into more lists, and codes tell them apart more easily. Therefore the queries' nearest vectors
are found in the whole set, or in as many rows as time allows, and are indexed along with the
sample. Around the queries such an index is as dense as the full one; elsewhere vectors only cost
bytes, which the sample counts.

Sample and queries are those that the build itself would draw: the same seed gives the same rows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from teravec.engines.resources import Resources
from teravec.errors import InvalidArgument
from teravec.evaluation.groundtruth import groundtruth
from teravec.evaluation.measuring import remove_own
from teravec.evaluation.truth import Truth
from teravec.kernels.metric import Metric
from teravec.sources import Source, open_data
from teravec.training.options import MIN_SAMPLE_PER_LIST, TrainOptions, TrainPlan, plan_training
from teravec.training.rows import SampleRows

__all__ = ["DEPTH", "Drawn", "draw"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

DEPTH = 200
"""Neighbours of each query that are indexed at full density."""

_QUERIES = 1000
_MEMORY_SHARE = 6  # of the limit, for the sample, for the neighbours, and for rows compared
_FEWEST = 1000  # vectors


@dataclass(frozen=True)
class Drawn:
    """Rows of the data, and what is known of the rest.

    Parameters
    ----------
    plan : TrainPlan
        Training of the full build, all choices made.
    sample : ndarray of shape (m, d), float32
    sample_rows : ndarray of shape (m,), int64
        Their rows in the data, ascending.
    near : ndarray of shape (n, d), float32
        Vectors that are neighbours of a query and not in the sample.
    near_rows : ndarray of shape (n,), int64
    queries : ndarray of shape (nq, d), float32
    own : ndarray of shape (nq,), int64, or None
        The queries' rows, if they are rows of the data: some are neighbours of other queries.
    truth : Truth
        Neighbours of the queries among ``covered`` rows, by their rows; the queries left out.
    covered : int
        Rows that were compared with the queries.
    """

    plan: TrainPlan
    sample: Float32
    sample_rows: Int64
    near: Float32
    near_rows: Int64
    queries: Float32
    own: Int64 | None
    truth: Truth
    covered: int

    @property
    def ntotal(self) -> int:
        """Vectors of the data."""
        return self.plan.ntotal

    @property
    def vectors(self) -> Float32:
        """Sample and neighbours, (m + n, d)."""
        return np.concatenate([self.sample, self.near])

    @property
    def rows(self) -> Int64:
        """Rows of ``vectors`` in the data."""
        return np.concatenate([self.sample_rows, self.near_rows])

    def thinned(self, share: int) -> Drawn:
        """Keep one of ``share`` vectors, as if the data had as many less.

        Which rows are kept depends on the row alone, so that sample and truth agree.
        """
        kept = _keeps(self.sample_rows, share)
        near = _keeps(self.near_rows, share)
        return replace(
            self,
            sample=self.sample[kept],
            sample_rows=self.sample_rows[kept],
            near=self.near[near],
            near_rows=self.near_rows[near],
            truth=_thin_truth(self.truth, share),
            covered=self.covered // share,
        )


def draw(
    source: Source,
    options: TrainOptions,
    resources: Resources,
    *,
    queries: Float32 | None = None,
    most_sampled: int,
    most_compared: int,
) -> Drawn:
    """Draw a sample and queries, and find the queries' neighbours.

    Parameters
    ----------
    source : Source
        With row numbers as ids.
    options : TrainOptions
        Of the full build.
    resources : Resources
    queries : ndarray of shape (nq, d), float32, optional
        The user's. Not given: rows of the source outside of the sample.
    most_sampled, most_compared : int
        Rows that time allows to train on, and to compare with the queries.

    Raises
    ------
    InvalidArgument
        There are too few vectors.
    MemoryLimitTooSmall
    """
    if source.ntotal < _FEWEST:
        raise InvalidArgument(
            f"{source.ntotal:,} vectors found; at least {_FEWEST:,} expected: with fewer, flat "
            "codes are small and exact"
        )
    plan = plan_training(options, source.ntotal, source.d)
    most = max(_FEWEST // 2, resources.memory_bytes // _MEMORY_SHARE // (4 * source.d))
    count = min(plan.sample, most, most_sampled)
    rows = SampleRows(source.ntotal, count, plan.seed)
    sample_rows = rows.rows(0, count)
    own: Int64 | None = None
    if queries is None:
        outside = SampleRows(
            source.ntotal, plan.sample if count == plan.sample else count, plan.seed
        )
        own = outside.draw_outside(min(_QUERIES, source.ntotal // 10))
        if len(own) < _FEWEST // 10:  # all are in the sample: any rows, left out of it
            own = _draw_any(source.ntotal, plan.seed)
            sample_rows = np.setdiff1d(sample_rows, own, assume_unique=True)
        queries = source.take(own)
    depth = min(DEPTH, source.ntotal - 1, max(50, most // len(queries)))
    truth, covered = _find_neighbours(
        source, queries, own, depth, plan.metric, resources, min(most_compared, source.ntotal), most
    )
    near_rows = np.setdiff1d(np.unique(truth.ids[truth.ids >= 0]), sample_rows)
    return Drawn(
        plan,
        source.take(sample_rows),
        sample_rows,
        source.take(near_rows),
        near_rows,
        queries,
        own,
        truth,
        covered,
    )


def most_lists(rows: int) -> int:
    """Return the largest power of two of lists that so many training vectors allow."""
    return int(1 << max(0, (rows // MIN_SAMPLE_PER_LIST).bit_length() - 1))


def _draw_any(ntotal: int, seed: int) -> Int64:
    rng = np.random.default_rng([seed, 3])
    return np.sort(rng.choice(ntotal, min(_QUERIES, ntotal // 10), replace=False))


def _find_neighbours(
    source: Source,
    queries: Float32,
    own: Int64 | None,
    depth: int,
    metric: Metric,
    resources: Resources,
    compared: int,
    most_held: int,
) -> tuple[Truth, int]:
    """Compare queries with all rows, or with a uniform part of them held in memory."""
    searched, rows = source, None
    if compared < source.ntotal:
        compared = min(compared, most_held)
        rows = SampleRows(source.ntotal, compared, 1).rows(0, compared)
        searched = open_data(source.take(rows), ids=rows)
    spare = 0 if own is None else 1
    distances, ids = groundtruth(
        searched, queries, min(depth + spare, searched.ntotal), metric=metric, resources=resources
    )
    costs = (-distances if metric.larger_is_closer else distances).astype(np.float64)
    if own is not None:
        costs, ids = remove_own(costs, ids, own)
    return Truth(ids, costs, comparable=True), searched.ntotal


def _keeps(rows: Int64, share: int) -> npt.NDArray[np.bool_]:
    """Whether each row is kept: a hash of its number, as rows may be in any order."""
    mixed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray((mixed >> np.uint64(33)) % np.uint64(share) == 0)


def _thin_truth(truth: Truth, share: int) -> Truth:
    kept = _keeps(truth.ids, share)
    least = int(kept.sum(1).min())
    order = np.argsort(~kept, axis=1, kind="stable")[:, :least]
    return replace(
        truth,
        ids=np.take_along_axis(truth.ids, order, 1),
        costs=np.take_along_axis(truth.costs, order, 1),
    )
