"""Whether a file of true neighbours fits an index and its queries, and what its distances mean.

A truth that does not fit makes every recall 0, or worse, nearly right. So before it is counted
against, some queries are searched in all lists (of a large index in as many as take little time),
deeper than the truth goes:

- Its ids must be among what such a search finds.
- Its distances, if there are any, must be the search's own up to the codec's error, in one of the
  conventions that tools have: roots of squared L2, negated similarities, one less the similarity.
- The recall of that search must be one that the codec can have.

What cannot be is an error; what can be, but hardly, a doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from teravec.bulk.formats.found import Neighbors
from teravec.errors import CorruptFile, InvalidArgument
from teravec.evaluation.truth import Truth, count_found, ranks_in, tolerance
from teravec.kernels.codec import Codec
from teravec.kernels.metric import Metric
from teravec.search.effort import Effort
from teravec.search.index import Index

__all__ = ["FittedTruth", "fit_truth"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_DEEPEST, _REFINED, _COLUMNS = 1000, 200, 100
_RESULTS = 1 << 20  # in memory at a time
_FEWEST_ROWS, _MOST_ROWS = 8, 64
_CODES, _SLOW_CODES = 1 << 22, 1 << 20  # of an index that is searched whole for a query
_SOME_CODES, _SOME_LISTS = 1 << 18, 16  # else
_ALL_CODES = 1 << 31  # for all queries together, where ties must be told apart
_CHANCE = 0.05  # found of a truth that has nothing to do with the index, generously


@dataclass(frozen=True)
class _Kind:
    """What a kind of codec must show.

    Parameters
    ----------
    error : float
        Most that its distances differ from true ones, in the middle.
    listed : float
        Share of the true neighbours that a search of all lists has among its deepest.
    recall : float
        Of a search of all lists.
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
    """A truth to count against, and what is strange about it.

    Parameters
    ----------
    truth : Truth
    doubts : tuple of str
        Why it may not be the truth of these queries and this index.
    """

    truth: Truth
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Sample:
    """Some queries, searched as well as time allows.

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


def fit_truth(index: Index, queries: Float32, neighbors: Neighbors, k: int) -> FittedTruth:
    """Compare a truth with an index, and find out what its distances are.

    Parameters
    ----------
    index : Index
    queries : ndarray of shape (nq, d), float32
    neighbors : Neighbors
        As a file has them.
    k : int
        True neighbours of a query that will be counted; no more than the file has.

    Raises
    ------
    InvalidArgument
        It is not the truth of these queries, or not of this index; says what was found.
    """
    _check_shape(queries, neighbors, k)
    ids = _none_last(neighbors)
    _check_range(index, ids.ids)
    kind = _KINDS.get(Codec.parse(index.manifest.codec).fine_name, _OTHER)
    sample = _searched(index, queries, ids.ids.shape[1])
    truth, doubts = _with_distances(index, ids, sample, kind)
    truth = replace(truth, exact=index.manifest.codec == "flat")
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
    """Rows with what is missing at their end."""
    missing = neighbors.ids == -1
    if not (missing[:, :-1] & ~missing[:, 1:]).any():
        return neighbors
    order = np.argsort(missing, axis=1, kind="stable")
    ids = np.take_along_axis(neighbors.ids, order, axis=1)
    if neighbors.distances is None:
        return Neighbors(ids)
    return Neighbors(ids, np.take_along_axis(neighbors.distances, order, axis=1))


def _check_range(index: Index, ids: Int64) -> None:
    """Row numbers are below ntotal; an id column may hold anything from 0 on."""
    column, known = index.manifest.source.get("id_column"), ids[ids != -1]
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


def _searched(index: Index, queries: Float32, m: int) -> _Sample:
    """Search some queries in all lists, or in as many as take little time."""
    codec = Codec.parse(index.manifest.codec)
    slow = codec.kind in ("pq", "rabitq") and not codec.sketch_bits
    codes, whole = _SLOW_CODES if slow else _CODES, True
    nprobe, count = index.nlist, 4 * codes // index.ntotal
    if index.ntotal > codes:
        nprobe = max(_SOME_LISTS, index.nlist * _SOME_CODES // index.ntotal)
        whole = nprobe >= index.nlist
    count = min(max(count, _FEWEST_ROWS), _MOST_ROWS, len(queries))
    rows = np.linspace(0, len(queries) - 1, count).astype(np.int64)
    deepest = _REFINED if index.two_stages else _DEEPEST
    depth = max(min(m, _COLUMNS, index.ntotal), min(index.ntotal // 4, deepest))
    distances, ids = index.search_at(
        np.ascontiguousarray(queries[rows]), depth, _effort(index, min(nprobe, index.nlist), depth)
    )
    return _Sample(rows, ids, _costs(index, distances), whole)


def _effort(index: Index, nprobe: int, depth: int) -> Effort:
    """In two stages no more candidates than a deep search needs: each may be a read."""
    return Effort(nprobe, candidates=4 * depth if index.two_stages else None)


def _costs(index: Index, distances: Float32) -> Float64:
    costs = distances.astype(np.float64)
    return -costs if Metric(index.metric).larger_is_closer else costs


_Meaning = Callable[[Float64], Float64]


def _conventions(metric: Metric) -> dict[str, _Meaning]:
    """What stored distances may be, each with what makes costs of them."""
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
    index: Index, neighbors: Neighbors, sample: _Sample, kind: _Kind
) -> tuple[Truth, tuple[str, ...]]:
    """The truth with its distances as costs, where they can be understood; else a doubt."""
    if neighbors.distances is None:
        return Truth.of_ids(neighbors.ids), ()
    stored = np.where(neighbors.ids == -1, 0.0, neighbors.distances.astype(np.float64))
    ids, there = neighbors.ids[sample.rows], neighbors.ids[sample.rows] != -1
    rank = ranks_in(ids, sample.ids)
    common = there & (rank < sample.ids.shape[1])
    ours = np.take_along_axis(sample.costs, np.minimum(rank, sample.ids.shape[1] - 1), axis=1)
    theirs = stored[sample.rows]
    if not common.any():  # by rank instead: all of them may tie
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
    """What errors of costs are compared with: the usual cost of the farthest that were found."""
    known = np.where(np.isfinite(costs), costs, np.nan)
    if not np.isfinite(known).any():
        return 1.0
    rows = known[np.isfinite(known).any(1)]
    most = np.nanmax(np.abs(rows), axis=1)
    return float(np.median(most)) or 1.0


def _sorted(ids: Int64, costs: Float64) -> Truth:
    """Rows by cost: some tools store neighbours in another order."""
    costs = np.where(ids == -1, np.inf, costs)
    order = np.argsort(costs, axis=1, kind="stable")
    costs = np.take_along_axis(costs, order, axis=1)
    return Truth(np.take_along_axis(ids, order, axis=1), costs, comparable=True)


def _direction(ours: Float64, theirs: Float64, common: npt.NDArray[np.bool_]) -> int:
    """1 where their values ascend with ours, -1 where they descend; 0 where they do neither."""
    alike = total = 0.0
    for row in range(len(ours)):
        a, b = ours[row][common[row]], theirs[row][common[row]]
        if len(a) > 1:
            steps = np.sign(np.subtract.outer(a, a)) * np.sign(np.subtract.outer(b, b))
            alike, total = alike + float(steps.sum()), total + float(np.abs(steps).sum())
    if not total or abs(alike) < 0.9 * total:
        return 0
    return 1 if alike > 0 else -1


def _check_listed(index: Index, truth: Truth, sample: _Sample, kind: _Kind, k: int) -> None:
    """Refuse a truth whose ids a search of all lists does not find, however deep it goes."""
    width, depth = min(k, _COLUMNS), sample.ids.shape[1]
    ids = truth.ids[sample.rows][:, :width]
    last = sample.costs[:, -1:]
    kth = sample.costs[:, min(width, depth) - 1 : min(width, depth)]
    # Where ties reach the depth, or fewer were found, what is beyond it is not known.
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
    share = float((ranks_in(ids, sample.ids) < depth)[judged].mean())
    chance = min(0.5, 2 * depth / index.ntotal)
    least = max(kind.listed, chance) if sample.whole else _CHANCE / 5
    if share < least:
        raise InvalidArgument(_misfit(index, ids, sample, judged, share))


def _misfit(
    index: Index, ids: Int64, sample: _Sample, judged: npt.NDArray[np.bool_], share: float
) -> str:
    lists = "all lists" if sample.whole else "some lists"
    found = (
        f"of the true neighbours of {len(sample.rows)} queries, a search of {lists} has "
        f"{100 * share:.1f} % among its best {sample.ids.shape[1]:,}; nearly all expected: "
    )
    column = index.manifest.source.get("id_column")
    before = ranks_in(np.maximum(ids - 1, 0), sample.ids) < sample.ids.shape[1]
    if before[judged].mean() > max(0.5, 2 * share):
        return found + "the truth's ids seem to count from 1; subtract 1 from each"
    if column is not None and ids.max() < index.ntotal:
        return found + (
            f"the index's ids are those of column {column!r}; make the truth with them "
            f"(teravec groundtruth --id-column {column})"
        )
    return found + "the truth is of other vectors, other queries, or queries in another order"


def _with_ties(index: Index, queries: Float32, truth: Truth, sample: _Sample, k: int) -> Truth:
    """The truth with what tells ties from near misses, where there are ties."""
    codec = Codec.parse(index.manifest.codec)
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
        rank = ranks_in(truth.ids[part], ids)
        costs = _costs(index, distances)
        known = np.take_along_axis(costs, np.minimum(rank, depth - 1), axis=1)
        decoded[part] = np.where(rank < depth, known, np.inf)
    return replace(truth, decoded=decoded)


def _slack(truth: Truth, sample: _Sample) -> float:
    """Half of the least that lies between two ties, if the codec errs by much less; else 0."""
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
    if 2 * (1 + len(steps)) > both.sum():  # most values are their own: there are no levels
        return 0.0
    if not len(steps):  # all tie: then what the search found deeper says what the next level is
        deeper = sample.costs[np.isfinite(sample.costs)]
        steps = np.array([max(0.0, float(deeper.max() - levels[-1]))])
    error = float(np.quantile(np.abs(known[both] - ours[both]), 0.99))
    return float(steps.min()) / 2 if error < steps.min() / 4 else 0.0


def _doubts_of_recall(
    index: Index, truth: Truth, sample: _Sample, kind: _Kind, k: int
) -> tuple[str, ...]:
    """Doubt a truth of which a search of all lists finds less than the codec can."""
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
        f"{100 * max(least, _CHANCE):.0f} % or more expected of codec {index.manifest.codec}: is "
        f"it of metric {index.metric}, of these queries in this order, and of these vectors?",
    )
