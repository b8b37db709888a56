"""Measuring the recall and cost of searches against the true neighbours."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from teravec.bulk.results import Neighbors
from teravec.errors import InvalidArgument
from teravec.evaluation.fitting import fit_truth
from teravec.evaluation.truth import Truth, count_found
from teravec.kernels.metric import Metric
from teravec.search.effort import Effort
from teravec.search.searchable import Searchable
from teravec.search.stats import SearchStats

__all__ = ["Evaluation", "evaluate", "recall_at"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)

_SHORT_S, _REPEATS = 1.0, 3
_ALONE = 100  # queries searched one at a time, for latencies


@dataclass(frozen=True)
class Evaluation:
    """Recall and cost at one effort.

    Parameters
    ----------
    nprobe : int
        Most lists visited per query, at most nlist.
    k : int
    recall : float
        Recall@k over all queries.
    queries_per_s : float
        Throughput of all queries in one call: the median of three where they are short.
    latency_p50_s, latency_p99_s : float
        Seconds of a query searched alone, over up to 100 evenly spread queries, after the batch:
        lists may be in the page cache.
    bytes_per_query : float
        Bytes read from the files for a query searched alone, ids included.
    batch_bytes_per_query : float
        The same in the batch, where each list is read once for all queries that visit it.
    lists_per_query, codes_per_query : float
        Lists and codes scanned per query, the mean over all; 0 behind a server, which counts them
        itself. Bytes are then those of requests and answers.
    asked : float, optional
        The target recall, if one was given instead of nprobe.
    index : str
        Name of the index.
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
    index: str = ""


def recall_at(
    found_ids: Int64,
    true_ids: Int64,
    k: int,
    *,
    found_distances: Float32 | None = None,
    true_distances: Float32 | None = None,
    metric: str = "l2",
) -> float:
    """Return the share of the true k nearest among the k found.

    If both sides have distances, a neighbour as near as the k-th true one counts, whatever its id.
    Otherwise ids are compared.

    Parameters
    ----------
    found_ids, true_ids : ndarray of shape (n, k or more), int64
        Best first; -1 is none; an id counts once per row. Columns of the truth beyond k show which
        vectors tie with the k-th.
    k : int
    found_distances, true_distances : ndarray of the ids' shapes, optional
        As ``Index.search`` returns them.
    metric : {"l2", "ip", "cosine"}

    Returns
    -------
    float
        0 to 1, relative to k neighbours per query, or to as many as its truth has.

    Raises
    ------
    InvalidArgument
        The shapes do not fit each other or k, or there is no true neighbour at all.
    """
    found, true = np.asarray(found_ids), np.asarray(true_ids)
    _check_ids(found, "found ids", k)
    _check_ids(true, "true ids", k)
    if len(found) != len(true):
        raise InvalidArgument(
            f"results of {len(found):,} queries found, {len(true):,} expected as in the truth"
        )
    sign = -1.0 if Metric.parse(metric).larger_is_closer else 1.0
    truth, costs = Truth.of_ids(true.astype(np.int64)), np.zeros(found.shape)
    if true_distances is not None and found_distances is not None:
        true_costs = np.where(true == -1, np.inf, sign * np.asarray(true_distances, np.float64))
        truth = Truth(truth.ids, true_costs, comparable=True)
        costs = sign * np.asarray(found_distances, np.float64)
    return _recall(truth, found, costs, k)


def _recall(truth: Truth, ids: Int64, costs: npt.NDArray[np.float64], k: int) -> float:
    found, wanted = count_found(truth, ids, costs, k)
    if not wanted.any():
        raise InvalidArgument("no true neighbours found: every id is -1")
    return float(found.sum() / wanted.sum())


def evaluate(
    index: Searchable,
    queries: Float32,
    truth: Neighbors,
    k: int,
    nprobes: Sequence[int],
    *,
    recalls: Sequence[float] = (),
    candidates: int | None = None,
    name: str = "",
) -> list[Evaluation]:
    """Search with each nprobe and for each recall, and compare the results with the truth.

    Parameters
    ----------
    index : Searchable
        No other thread should search it meanwhile, because its counters are read.
    queries : ndarray of shape (nq, d), float32
    truth : Neighbors
        From ``read_neighbors``, with k or more columns. Doubts about it are logged.
    k : int
    nprobes : sequence of int
        Values above nlist count as nlist.
    recalls : sequence of float
        Recalls to ask a calibrated index for.
    candidates : int, optional
        As for ``Index.search``.
    name : str
        Name of the index.

    Returns
    -------
    list of Evaluation
        One for each nprobe and then for each recall, in order.

    Raises
    ------
    InvalidArgument
        The truth is of other queries, of other vectors, or has fewer than k neighbours; see
        ``fit_truth``.
    """
    queries = np.asarray(queries)
    if not (nprobes or recalls) or min(nprobes, default=1) < 1:
        raise InvalidArgument(f"nprobe {list(nprobes)} found, numbers of at least 1 expected")
    efforts: list[tuple[float | None, Effort]] = [
        (None, index.effort(min(nprobe, index.nlist), k=k, candidates=candidates))
        for nprobe in nprobes
    ]
    efforts += [
        (recall, index.effort(recall=recall, k=k, candidates=candidates)) for recall in recalls
    ]
    fitted = fit_truth(index, queries, truth, k)
    for doubt in fitted.doubts:
        log.warning("%s", doubt)
    evaluated = [_evaluate(index, queries, fitted.truth, k, each, asked) for asked, each in efforts]
    return [replace(each, index=name) for each in evaluated]


def _evaluate(
    index: Searchable, queries: Float32, truth: Truth, k: int, effort: Effort, asked: float | None
) -> Evaluation:
    before, started = replace(index.stats), time.perf_counter()
    distances, ids = index.search_at(queries, k, effort)
    runs = [time.perf_counter() - started]
    batch = _difference(index.stats, before)
    while runs[0] < _SHORT_S and len(runs) < _REPEATS:  # other load makes a lone run unsteady
        started = time.perf_counter()
        index.search_at(queries, k, effort)
        runs.append(time.perf_counter() - started)
    before = replace(index.stats)
    latencies = _latencies(index, queries, k, effort)
    alone = _difference(index.stats, before)
    costs = distances.astype(np.float64) * (-1 if Metric(index.metric).larger_is_closer else 1)
    return Evaluation(
        nprobe=effort.typical,
        k=k,
        recall=_recall(truth, ids, costs, k),
        queries_per_s=len(queries) / statistics.median(runs),
        latency_p50_s=float(np.percentile(latencies, 50)),
        latency_p99_s=float(np.percentile(latencies, 99)),
        bytes_per_query=alone.bytes_read / alone.queries,
        batch_bytes_per_query=batch.bytes_read / batch.queries,
        lists_per_query=batch.lists_wanted / batch.queries,
        codes_per_query=batch.codes_scanned / batch.queries,
        asked=asked,
    )


def _latencies(index: Searchable, queries: Float32, k: int, effort: Effort) -> list[float]:
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
