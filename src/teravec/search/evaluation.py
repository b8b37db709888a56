"""How good and how costly searches of an index are, against the true neighbours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.search.effort import Effort
from teravec.search.index import Index
from teravec.search.results import Neighbors
from teravec.search.stats import SearchStats

__all__ = ["Evaluation", "evaluate", "recall_at"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_ALONE = 100  # queries searched one at a time, for latencies


@dataclass(frozen=True)
class Evaluation:
    """Recall and cost at one effort.

    Parameters
    ----------
    nprobe : int
        Most lists read a query, at most nlist.
    k : int
    recall : float
        Recall@k over all queries.
    queries_per_s : float
        All queries in one call.
    latency_p50_s, latency_p99_s : float
        Seconds of a query searched alone, over up to 100 of them spread evenly, after the
        batch: lists may be in the page cache.
    bytes_per_query : float
        Read from the files for a query searched alone, ids included.
    batch_bytes_per_query : float
        The same in the batch, where each list is read once for all queries that want it.
    lists_per_query, codes_per_query : float
        Lists and codes scanned for a query, on average over all.
    asked : float, optional
        The recall that was asked for instead of an nprobe.
    """

    nprobe: int
    k: int
    recall: float
    queries_per_s: float
    latency_p50_s: float
    latency_p99_s: float
    bytes_per_query: float
    batch_bytes_per_query: float
    lists_per_query: float
    codes_per_query: float
    asked: float | None = None


def recall_at(found_ids: Int64, true_ids: Int64, k: int) -> float:
    """Share of the true k nearest among the k returned.

    By id: where distances tie at the k-th place, a neighbour that is as near as the true one
    may count as missed.

    Parameters
    ----------
    found_ids, true_ids : ndarray of shape (n, k or more), int64
        The first k of each row count; -1 is none; an id counts once a row.
    k : int

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    InvalidArgument
        Shapes that do not fit each other or k; no true neighbour at all.
    """
    found, true = np.asarray(found_ids), np.asarray(true_ids)
    _check_ids(found, "found ids", k)
    _check_ids(true, "true ids", k)
    if len(found) != len(true):
        raise InvalidArgument(
            f"results of {len(found):,} queries found, {len(true):,} expected as in the truth"
        )
    both = np.concatenate([found[:, :k], true[:, :k]])
    # An id's number among all, then one number for a pair of query and id.
    numbers = np.unique(both, return_inverse=True)[1].reshape(both.shape)
    pairs = numbers + np.tile(np.arange(len(found)), 2)[:, None] * both.size
    known = both != -1
    n = len(found)
    found_pairs = np.unique(pairs[:n][known[:n]])
    true_pairs = np.unique(pairs[n:][known[n:]])
    if not len(true_pairs):
        raise InvalidArgument("no true neighbours found: every id is -1")
    hits = np.intersect1d(found_pairs, true_pairs, assume_unique=True)
    return len(hits) / len(true_pairs)


def evaluate(
    index: Index,
    queries: Float32,
    truth: Neighbors,
    k: int,
    nprobes: Sequence[int],
    *,
    recalls: Sequence[float] = (),
    candidates: int | None = None,
) -> list[Evaluation]:
    """Search with each nprobe and for each recall, and compare with the truth.

    Parameters
    ----------
    index : Index
        Nothing else should search it meanwhile: its counts are taken for ours.
    queries : ndarray of shape (nq, d), float32
    truth : Neighbors
        At least k for each query.
    k : int
    nprobes : sequence of int
        More than nlist is taken as nlist.
    recalls : sequence of float
        Recalls to ask a calibrated index for.
    candidates : int, optional
        As for ``Index.search``.

    Returns
    -------
    list of Evaluation
        One for each nprobe and then for each recall, in order.

    Raises
    ------
    InvalidArgument
        Truth of other queries, of fewer neighbours than k, or of ids not in the index.
    """
    queries = np.asarray(queries)
    _check_truth(index, queries, truth, k)
    if not (nprobes or recalls) or min(nprobes, default=1) < 1:
        raise InvalidArgument(f"nprobe {list(nprobes)} found, numbers of at least 1 expected")
    efforts: list[tuple[float | None, Effort]] = [
        (None, index.effort(min(nprobe, index.nlist), k=k, candidates=candidates))
        for nprobe in nprobes
    ]
    efforts += [
        (recall, index.effort(recall=recall, k=k, candidates=candidates)) for recall in recalls
    ]
    return [_evaluate(index, queries, truth, k, each, asked) for asked, each in efforts]


def _evaluate(
    index: Index, queries: Float32, truth: Neighbors, k: int, effort: Effort, asked: float | None
) -> Evaluation:
    before, started = replace(index.stats), time.perf_counter()
    _, ids = index.search_at(queries, k, effort)
    seconds = time.perf_counter() - started
    batch = _difference(index.stats, before)
    before = replace(index.stats)
    latencies = _latencies(index, queries, k, effort)
    alone = _difference(index.stats, before)
    return Evaluation(
        nprobe=effort.nprobe,
        k=k,
        recall=recall_at(ids, truth.ids, k),
        queries_per_s=len(queries) / seconds,
        latency_p50_s=float(np.percentile(latencies, 50)),
        latency_p99_s=float(np.percentile(latencies, 99)),
        bytes_per_query=alone.bytes_read / alone.queries,
        batch_bytes_per_query=batch.bytes_read / batch.queries,
        lists_per_query=batch.lists_wanted / batch.queries,
        codes_per_query=batch.codes_scanned / batch.queries,
        asked=asked,
    )


def _latencies(index: Index, queries: Float32, k: int, effort: Effort) -> list[float]:
    count = min(_ALONE, len(queries))
    rows = np.linspace(0, len(queries) - 1, count).astype(np.int64)
    seconds = []
    for row in rows.tolist():
        started = time.perf_counter()
        index.search_at(queries[row : row + 1], k, effort)
        seconds.append(time.perf_counter() - started)
    return seconds


def _difference(after: SearchStats, before: SearchStats) -> SearchStats:
    return SearchStats(
        **{
            field.name: getattr(after, field.name) - getattr(before, field.name)
            for field in fields(SearchStats)
        }
    )


def _check_ids(ids: Int64, what: str, k: int) -> None:
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or not 1 <= k <= ids.shape[1]:
        raise InvalidArgument(
            f"{what} {ids.dtype} of shape {ids.shape} found, "
            f"integers of shape (n, {k} or more) expected for k {k}"
        )


def _check_truth(index: Index, queries: Float32, truth: Neighbors, k: int) -> None:
    if queries.ndim != 2 or not len(queries):
        raise InvalidArgument(f"queries of shape {queries.shape} found, (nq, d) expected")
    n, most = truth.ids.shape
    if n != len(queries):
        raise InvalidArgument(
            f"true neighbours of {n:,} queries found, {len(queries):,} expected, as queries given"
        )
    if not 1 <= k <= most:
        raise InvalidArgument(f"k is {k}; 1 to {most}, the true neighbours a query, expected")
    ids = truth.ids[:, :k]
    short = np.flatnonzero((ids == -1).any(axis=1))
    if len(short):
        raise InvalidArgument(
            f"query {short[0]} has {int((ids[short[0]] >= 0).sum())} true neighbours, {k} expected"
        )
    if index.manifest.source.get("id_column") is None and (
        ids.max() >= index.ntotal or ids.min() < 0
    ):
        worst = int(ids.max() if ids.max() >= index.ntotal else ids.min())
        raise InvalidArgument(
            f"true neighbour {worst} found, ids of 0 to {index.ntotal - 1} expected: "
            "the truth is not of the vectors in this index"
        )
