"""How good a search is: recall, speed and bytes, against the effort."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.search.index import Index
from teravec.search.results import Neighbors
from teravec.search.stats import SearchStats

__all__ = ["Evaluation", "evaluate", "recall_at"]

_SINGLE_QUERIES = 100  # asked one by one, for the latency


@dataclass(frozen=True)
class Evaluation:
    """What a search at one nprobe found and cost.

    Parameters
    ----------
    nprobe : int
    recall : float
        Share of the true k nearest among the k returned.
    queries_per_s : float
        All queries as one batch.
    latency_p50_s, latency_p99_s : float
        Of queries asked one by one.
    bytes_per_query, lists_per_query, codes_per_query : float
        Of queries asked one by one: what each reads and scans.
    """

    nprobe: int
    recall: float
    queries_per_s: float
    latency_p50_s: float
    latency_p99_s: float
    bytes_per_query: float
    lists_per_query: float
    codes_per_query: float

    def to_dict(self) -> dict[str, Any]:
        """As a JSON-able dict."""
        return asdict(self)


def recall_at(found: npt.NDArray[np.int64], true: npt.NDArray[np.int64], k: int) -> float:
    """Share of the true k nearest among the k returned, over all queries.

    Parameters
    ----------
    found, true : ndarray of shape (n, at least k), int64
        Best first; -1 where there is none.
    """
    hits = sum(
        len(np.intersect1d(one[one != -1], other[other != -1]))
        for one, other in zip(found[:, :k], true[:, :k], strict=True)
    )
    return hits / max(1, int((true[:, :k] != -1).sum()))


def evaluate(
    index: Index, queries: npt.NDArray[np.float32], truth: Neighbors, k: int, nprobes: Sequence[int]
) -> list[Evaluation]:
    """Search all queries at each nprobe and compare with the truth.

    Parameters
    ----------
    queries : ndarray of shape (n, d)
    truth : Neighbors
        Exact neighbours of the same queries, at least k of each.

    Raises
    ------
    InvalidArgument
        Truth and queries do not fit each other.
    """
    if len(queries) == 0:
        raise InvalidArgument("there are no queries")
    if len(truth.ids) != len(queries):
        raise InvalidArgument(
            f"ground truth of {len(truth.ids):,} queries found, {len(queries):,} expected"
        )
    if truth.ids.shape[1] < k:
        raise InvalidArgument(
            f"ground truth of {truth.ids.shape[1]} neighbours found, at least k = {k} expected"
        )
    return [_evaluate(index, queries, truth, k, nprobe) for nprobe in nprobes]


def _evaluate(
    index: Index, queries: npt.NDArray[np.float32], truth: Neighbors, k: int, nprobe: int
) -> Evaluation:
    started = time.perf_counter()
    _, ids = index.search(queries, k, nprobe)
    batch_s = time.perf_counter() - started
    few = queries[:: max(1, len(queries) // _SINGLE_QUERIES)][:_SINGLE_QUERIES]
    before, times = SearchStats(**vars(index.stats)), []
    for i in range(len(few)):
        started = time.perf_counter()
        index.search(few[i : i + 1], k, nprobe)
        times.append(time.perf_counter() - started)
    after = index.stats
    return Evaluation(
        nprobe=min(nprobe, index.nlist),
        recall=recall_at(ids, truth.ids, k),
        queries_per_s=len(queries) / batch_s,
        latency_p50_s=float(np.median(times)),
        latency_p99_s=float(np.quantile(times, 0.99)),
        bytes_per_query=(after.bytes_read - before.bytes_read) / len(few),
        lists_per_query=(after.lists_wanted - before.lists_wanted) / len(few),
        codes_per_query=(after.codes_scanned - before.codes_scanned) / len(few),
    )
