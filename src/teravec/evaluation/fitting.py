"""Checking that a file of true neighbours fits an index and its queries, and reading its distances.

A truth that does not fit makes every recall 0 or, worse, nearly right. Before a truth is used, some
queries are therefore searched in all lists (in a large index, in as many as take little time), with
more results than the truth has:

- The truth's ids must be among the results.
- Its distances, if it has any, must equal the search's up to the codec's error, in a usual
  convention: roots of squared L2, negated similarities, one less the similarity.
- The recall of the search must be possible for the codec.

A contradiction is an error; an improbable result is a doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from teravec.bulk.formats.found import Neighbors
from teravec.errors import CorruptFile, InvalidArgument
from teravec.evaluation.truth import Truth, count_found, tolerance
from teravec.kernels.codec import Codec
from teravec.kernels.metric import Metric
from teravec.native.lists import ranks
from teravec.search.effort import Effort
from teravec.search.searchable import Searchable

__all__ = ["FittedTruth", "fit_truth"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_DEEPEST, _REFINED, _COLUMNS = 1000, 200, 100
_RESULTS = 1 << 20  # results in memory at a time
_FEWEST_ROWS, _MOST_ROWS = 8, 64
_CODES, _SLOW_CODES = 1 << 22, 1 << 20  # largest index whose lists are all searched for a query
_SOME_CODES, _SOME_LISTS = 1 << 18, 16  # codes and lists searched for a query of a larger index
_ALL_CODES = 1 << 31  # for all queries together, if ties must be told apart
_CHANCE = 0.05  # a generous bound for the share found by chance of an unrelated truth


@dataclass(frozen=True)
class _Kind:
    """The accuracy expected of a kind of codec.

    Parameters
    ----------
    error : float
        Largest median error of its distances.
    listed : float
        Least share of the true neighbours among the many results of a search of all lists.
    recall : float
        Least recall of a search of all lists.
    """

    error: float
    listed: float
    recall: float


_KINDS = {
    "flat": _Kind(0.01, 0.9, 0.9),
    "fp16": _Kind(0.02, 0.9, 0.9),
    "sq8": _Kind(0.1, 0.5, 0.8),
    "sq6": _Kind(0.1, 0.5, 0.6),
    "sq4": _Kind(0.2, 0.4, 0.4),
}
_OTHER = _Kind(0.6, 0.1, 0.0)  # product quantizers and RaBitQ may be as coarse as one likes


@dataclass(frozen=True)
class FittedTruth:
    """A truth that fits the index, with any doubts about it.

    Parameters
    ----------
    truth : Truth
    doubts : tuple of str
        Reasons why it may not be the truth of these queries and this index.
    """

    truth: Truth
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Sample:
    """Some queries and their results, searched as thoroughly as time allows.

    Parameters
    ----------
    rows : ndarray of shape (s,), int64
    ids, costs : ndarray of shape (s, depth)
    whole : bool
        Whether all lists were searched.
    """

    rows: Int64
    ids: Int64
    costs: Float64
    whole: bool


def fit_truth(index: Searchable, queries: Float32, neighbors: Neighbors, k: int) -> FittedTruth:
    """Compare a truth with an index, and determine the convention of its distances.

    Parameters
    ----------
    index : Searchable
    queries : ndarray of shape (nq, d), float32
    neighbors : Neighbors
        As read from a file.
    k : int
        True neighbours of a query that will be counted, at most as many as the file has.

    Raises
    ------
    InvalidArgument
        The truth is not of these queries, or not of this index.
    """
    _check_shape(queries, neighbors, k)
    ids = _none_last(neighbors)
    _check_range(index, ids.ids)
    kind = _KINDS.get(Codec.parse(index.codec).fine_name, _OTHER)
    sample = _searched(index, queries, ids.ids.shape[1])
    truth, doubts = _with_distances(index, ids, sample, kind)
    truth = replace(truth, exact=index.codec == "flat")
    _check_listed(index, truth, sample, kind, k)
    truth = _with_ties(index, queries, truth, sample, k)
    doubts += _doubts_of_recall(index, truth, sample, kind, k)
    return FittedTruth(truth, doubts)


def _check_shape(queries: Float32, neighbors: Neighbors, k: int) -> None:
    if queries.ndim != 2 or not len(queries):
        raise InvalidArgument(f"queries of shape {queries.shape} found, (nq, d) expected")
    n, m = neighbors.ids.shape
    if n != len(queries):
        raise InvalidArgument(
            f"true neighbours of {n:,} queries found, of {len(queries):,} expected, as many as "
            "queries are given"
        )
    if not 1 <= k <= m:
        raise InvalidArgument(
            f"k is {k}; 1 to {m} expected: the truth has {m} neighbours of a query"
        )
    if not (neighbors.ids[:, :k] != -1).any():
        raise InvalidArgument("no true neighbours found: every id is -1")
    if neighbors.distances is not None:
        if neighbors.distances.shape != neighbors.ids.shape:
            raise InvalidArgument(
                f"distances of shape {neighbors.distances.shape} found, {neighbors.ids.shape} "
                "expected as of ids"
            )
        wrong = (~np.isfinite(neighbors.distances) & (neighbors.ids != -1)).any(1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InvalidArgument(
                f"the truth of query {row} has a distance that is no finite number"
            )


def _none_last(neighbors: Neighbors) -> Neighbors:
    """Move missing neighbours to the end of their rows."""
    missing = neighbors.ids == -1
    if not (missing[:, :-1] & ~missing[:, 1:]).any():
        return neighbors
    order = np.argsort(missing, axis=1, kind="stable")
    ids = np.take_along_axis(neighbors.ids, order, axis=1)
    if neighbors.distances is None:
        return Neighbors(ids)
    return Neighbors(ids, np.take_along_axis(neighbors.distances, order, axis=1))


def _check_range(index: Searchable, ids: Int64) -> None:
    """Refuse ids out of range: row numbers are below ntotal, column ids are 0 or more."""
    column, known = index.source.get("id_column"), ids[ids != -1]
    low, high = int(known.min()), int(known.max())
    if low < 0:
        raise InvalidArgument(f"true neighbour {low} found, ids of 0 or more expected")
    if column is not None or high < index.ntotal:
        return
    why = "the truth is not of the vectors in this index"
    if low >= 1 and high == index.ntotal:
        why = "its ids seem to count from 1; subtract 1 from each"
    elif ((known > 1 << 29) & (known < 1 << 31)).mean() > 0.3:
        why = "it looks like a file of float32 vectors, as queries are"
    raise InvalidArgument(
        f"true neighbour {high} found, ids of 0 to {index.ntotal - 1} expected: {why}"
    )


def _searched(index: Searchable, queries: Float32, m: int) -> _Sample:
    """Search some queries in all lists, or in as many as take little time."""
    codec = Codec.parse(index.codec)
    slow = codec.kind in ("pq", "rabitq") and not codec.sketch_bits
    codes, whole = _SLOW_CODES if slow else _CODES, True
    nprobe, count = index.nlist, 4 * codes // index.ntotal
    if index.ntotal > codes:
        nprobe = max(_SOME_LISTS, index.nlist * _SOME_CODES // index.ntotal)
        whole = nprobe >= index.nlist
    count = min(max(count, _FEWEST_ROWS), _MOST_ROWS, len(queries))
    rows = np.linspace(0, len(queries) - 1, count).astype(np.int64)
    deepest = _REFINED if _two_stages(index) else _DEEPEST
    depth = max(min(m, _COLUMNS, index.ntotal), min(index.ntotal // 4, deepest))
    distances, ids = index.search_at(
        np.ascontiguousarray(queries[rows]), depth, _effort(index, min(nprobe, index.nlist), depth)
    )
    return _Sample(rows, ids, _costs(index, distances), whole)


def _two_stages(index: Searchable) -> bool:
    return bool(Codec.parse(index.codec).sketch_bits)


def _effort(index: Searchable, nprobe: int, depth: int) -> Effort:
    """Limit the candidates of two stages to what the search needs: each may cost a read."""
    return Effort(nprobe, candidates=4 * depth if _two_stages(index) else None)


def _costs(index: Searchable, distances: Float32) -> Float64:
    costs = distances.astype(np.float64)
    return -costs if Metric(index.metric).larger_is_closer else costs


_Meaning = Callable[[Float64], Float64]


def _conventions(metric: Metric) -> dict[str, _Meaning]:
    """Return the conventions of stored distances, each with its conversion to costs."""
    if metric is Metric.L2:
        return {
            "squared L2": lambda f: f,
            "L2": lambda f: f * f,
            "negated squared L2": lambda f: -f,
        }
    similar: dict[str, _Meaning] = {
        "similarities": lambda f: -f,
        "negated similarities": lambda f: f,
        "1 less the similarity": lambda f: f - 1,
    }
    if metric is Metric.COSINE:
        similar |= {
            "squared L2 of unit vectors": lambda f: f / 2 - 1,
            "L2 of unit vectors": lambda f: f * f / 2 - 1,
            "angles": lambda f: -np.cos(f),
        }
    return similar


def _with_distances(
    index: Searchable, neighbors: Neighbors, sample: _Sample, kind: _Kind
) -> tuple[Truth, tuple[str, ...]]:
    """Return the truth with its distances as costs; a doubt if no convention fits."""
    if neighbors.distances is None:
        return Truth.of_ids(neighbors.ids), ()
    stored = np.where(neighbors.ids == -1, 0.0, neighbors.distances.astype(np.float64))
    ids, there = neighbors.ids[sample.rows], neighbors.ids[sample.rows] != -1
    rank = ranks(ids, sample.ids)
    common = there & (rank < sample.ids.shape[1])
    ours = np.take_along_axis(sample.costs, np.minimum(rank, sample.ids.shape[1] - 1), axis=1)
    theirs = stored[sample.rows]
    if not common.any():  # compare by rank instead: all of them may tie
        width = min(sample.costs.shape[1], theirs.shape[1])
        ours, theirs, there = sample.costs[:, :width], theirs[:, :width], there[:, :width]
        common = there & np.isfinite(ours)
    if not common.any():
        return Truth.of_ids(neighbors.ids), ()
    scale, meanings = _scale(sample.costs), _conventions(Metric(index.metric))
    errors = {
        name: float(np.median(np.abs(meant(theirs[common]) - ours[common]))) / scale
        for name, meant in meanings.items()
    }
    best = min(errors, key=lambda name: errors[name])
    if errors[best] <= kind.error:
        return _sorted(neighbors.ids, meanings[best](stored)), ()
    direction = _direction(ours, theirs, common)
    if direction:
        truth = replace(_sorted(neighbors.ids, direction * stored), comparable=False)
        return truth, (
            f"the truth's distances are those of metric {index.metric} in no convention that is "
            "known, though they order the neighbours alike; they are used for that alone",
        )
    return Truth.of_ids(neighbors.ids), (
        f"the truth's distances contradict the index's of metric {index.metric} (as {best}, half "
        f"of them are off by {100 * errors[best]:.2g} % or more); is it of another metric, or of "
        "other vectors? It is counted by id",
    )


def _scale(costs: Float64) -> float:
    """Return the scale for errors of costs: the usual cost of the farthest results."""
    known = np.where(np.isfinite(costs), costs, np.nan)
    if not np.isfinite(known).any():
        return 1.0
    rows = known[np.isfinite(known).any(1)]
    most = np.nanmax(np.abs(rows), axis=1)
    return float(np.median(most)) or 1.0


def _sorted(ids: Int64, costs: Float64) -> Truth:
    """Sort rows by cost, because some tools store neighbours in another order."""
    costs = np.where(ids == -1, np.inf, costs)
    order = np.argsort(costs, axis=1, kind="stable")
    costs = np.take_along_axis(costs, order, axis=1)
    return Truth(np.take_along_axis(ids, order, axis=1), costs, comparable=True)


def _direction(ours: Float64, theirs: Float64, common: npt.NDArray[np.bool_]) -> int:
    """Return 1 if their values ascend with ours, -1 if they descend, 0 if neither."""
    alike = total = 0.0
    for row in range(len(ours)):
        a, b = ours[row][common[row]], theirs[row][common[row]]
        if len(a) > 1:
            steps = np.sign(np.subtract.outer(a, a)) * np.sign(np.subtract.outer(b, b))
            alike, total = alike + float(steps.sum()), total + float(np.abs(steps).sum())
    if not total or abs(alike) < 0.9 * total:
        return 0
    return 1 if alike > 0 else -1


def _check_listed(index: Searchable, truth: Truth, sample: _Sample, kind: _Kind, k: int) -> None:
    """Refuse a truth whose ids are not among the many results of a search of all lists."""
    width, depth = min(k, _COLUMNS), sample.ids.shape[1]
    ids = truth.ids[sample.rows][:, :width]
    last = sample.costs[:, -1:]
    kth = sample.costs[:, min(width, depth) - 1 : min(width, depth)]
    # If ties reach the last result, or there are fewer results, ids beyond them prove nothing.
    judged = (ids != -1) & np.isfinite(last)
    with np.errstate(invalid="ignore"):
        judged &= last > kth + tolerance(_scale(sample.costs), kth)
    if truth.comparable:
        first = sample.costs[:, :1]
        margin = 0.0 if truth.exact else 0.25
        with np.errstate(invalid="ignore"):
            judged &= truth.costs[sample.rows][:, :width] < last - margin * (last - first)
    if not judged.any():
        return
    share = float((ranks(ids, sample.ids) < depth)[judged].mean())
    chance = min(0.5, 2 * depth / index.ntotal)
    least = max(kind.listed, chance) if sample.whole else _CHANCE / 5
    if share < least:
        raise InvalidArgument(_misfit(index, ids, sample, judged, share))


def _misfit(
    index: Searchable, ids: Int64, sample: _Sample, judged: npt.NDArray[np.bool_], share: float
) -> str:
    lists = "all lists" if sample.whole else "some lists"
    found = (
        f"of the true neighbours of {len(sample.rows)} queries, a search of {lists} has "
        f"{100 * share:.1f} % among its best {sample.ids.shape[1]:,}; nearly all expected: "
    )
    column = index.source.get("id_column")
    before = ranks(np.maximum(ids - 1, 0), sample.ids) < sample.ids.shape[1]
    if before[judged].mean() > max(0.5, 2 * share):
        return found + "the truth's ids seem to count from 1; subtract 1 from each"
    if column is not None and ids.max() < index.ntotal:
        return found + (
            f"the index's ids are those of column {column!r}; make the truth with them "
            f"(teravec groundtruth --id-column {column})"
        )
    return found + "the truth is of other vectors, other queries, or queries in another order"


def _with_ties(index: Searchable, queries: Float32, truth: Truth, sample: _Sample, k: int) -> Truth:
    """Add the values that distinguish ties from near misses, if there are ties."""
    codec = Codec.parse(index.codec)
    if codec.kind not in ("flat", "scalar"):
        return truth
    if truth.comparable and not truth.exact:
        truth = replace(truth, slack=_slack(truth, sample))
    width = min(k, sample.costs.shape[1] - 1)
    tied = sample.costs[:, width - 1] == sample.costs[:, width]
    if not tied.any() or index.ntotal * len(queries) > _ALL_CODES:
        return truth
    depth = sample.ids.shape[1]
    decoded = np.empty(truth.ids.shape)
    for start in range(0, len(queries), max(1, _RESULTS // depth)):
        part = slice(start, start + max(1, _RESULTS // depth))
        distances, ids = index.search_at(queries[part], depth, _effort(index, index.nlist, depth))
        rank = ranks(truth.ids[part], ids)
        costs = _costs(index, distances)
        known = np.take_along_axis(costs, np.minimum(rank, depth - 1), axis=1)
        decoded[part] = np.where(rank < depth, known, np.inf)
    return replace(truth, decoded=decoded)


def _slack(truth: Truth, sample: _Sample) -> float:
    """Return half of the smallest step between ties, if the codec's error is much less; else 0."""
    if not sample.whole:
        return 0.0
    known = truth.costs[sample.rows]
    width = min(known.shape[1], sample.costs.shape[1])
    known, ours = known[:, :width], sample.costs[:, :width]
    both = np.isfinite(known) & np.isfinite(ours)
    if not both.any():
        return 0.0
    levels = np.unique(known[both])
    room = tolerance(truth.scale, levels)
    steps = np.diff(levels)
    steps = steps[steps > room[1:]]
    if 2 * (1 + len(steps)) > both.sum():  # most values are distinct: there are no levels
        return 0.0
    if not len(steps):  # all tie: take the next level from the search's further results
        deeper = sample.costs[np.isfinite(sample.costs)]
        steps = np.array([max(0.0, float(deeper.max() - levels[-1]))])
    error = float(np.quantile(np.abs(known[both] - ours[both]), 0.99))
    return float(steps.min()) / 2 if error < steps.min() / 4 else 0.0


def _doubts_of_recall(
    index: Searchable, truth: Truth, sample: _Sample, kind: _Kind, k: int
) -> tuple[str, ...]:
    """Doubt a truth if a search of all lists finds less of it than the codec should."""
    if not sample.whole:
        return ()
    k = min(k, sample.ids.shape[1])
    found, wanted = count_found(truth.of_rows(sample.rows), sample.ids, sample.costs, k)
    recall, least = float(found.sum() / max(1, wanted.sum())), kind.recall
    try:
        known = index.calibration
    except CorruptFile:
        known = None
    if known is not None and known.points and not truth.exact:
        column = next((i for i, each in enumerate(known.ks) if each >= k), len(known.ks) - 1)
        best = max(point.recall[column] for point in known.points)
        least = max(min(least, best - 0.2), 0.6 * best, _CHANCE)
    if recall >= max(least, _CHANCE):
        return ()
    return (
        f"a search of all lists finds {100 * recall:.1f} % of the {k} nearest by the truth, "
        f"{100 * max(least, _CHANCE):.0f} % or more expected of codec {index.codec}: is "
        f"it of metric {index.metric}, of these queries in this order, and of these vectors?",
    )
