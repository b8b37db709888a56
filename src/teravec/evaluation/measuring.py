"""One effort, measured: the recall and the cost of searches whose true neighbours are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.bulk.questions import all_but_own
from teravec.evaluation.truth import Truth, count_found
from teravec.index.calibration import Measured
from teravec.native.lists import ranks
from teravec.search.effort import Effort
from teravec.search.index import Index

__all__ = [
    "KnownQueries",
    "choose_radii",
    "estimate_ratio",
    "find_true_costs",
    "measure_effort",
    "remove_own",
    "search_known",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KnownQueries:
    """Queries and their true neighbours.

    Parameters
    ----------
    vectors : ndarray of shape (nq, d), float32
    own : ndarray of shape (nq,), int64, or None
        The queries' own ids, which do not count; None for queries that are not indexed.
    truth : Truth
    origin : str
        Where the queries come from, for the calibration.
    """

    vectors: Float32
    own: Int64 | None
    truth: Truth
    origin: str


def measure_effort(
    index: Index,
    known: KnownQueries,
    effort: Effort,
    ks: tuple[int, ...],
    bounds: list[float],
    sign: float,
) -> Measured:
    """Search all queries at one effort, and compare what was found with the truth.

    Parameters
    ----------
    index : Index
    known : KnownQueries
    effort : Effort
    ks : tuple of int
        Values of k whose recall is measured, ascending.
    bounds : list of float
        Radii, as costs.
    sign : float
        A distance times this is a cost: -1 where larger distances are closer.
    """
    before, nq = replace(index.stats), len(known.vectors)
    distances, ids = search_known(index, known, effort, ks[-1])
    lists = (index.stats.lists_wanted - before.lists_wanted) / nq
    codes = (index.stats.codes_scanned - before.codes_scanned) / nq
    shares = np.empty((nq, len(ks)))
    for column, k in enumerate(ks):
        # With two stages, k sets how many candidates are refined, so each k has its own search.
        fewer = index.two_stages and k < ks[-1]
        of_k = search_known(index, known, effort, k) if fewer else (distances, ids)
        found, wanted = count_found(known.truth, of_k[1], sign * of_k[0].astype(np.float64), k)
        shares[:, column] = found / wanted
    # Add a query that finds nothing; otherwise a few perfect queries would look certain.
    errors = np.vstack([shares, np.zeros(len(ks))]).std(0, ddof=1) / np.sqrt(nq + 1)
    costs = find_true_costs(ids, known.truth)
    near = [((costs < bound) & (sign * distances < bound)).sum(1) for bound in bounds]
    within = [(known.truth.costs < bound).sum(1) for bound in bounds]
    ratios = [estimate_ratio(a, b) for a, b in zip(near, within, strict=True)]
    return Measured(
        nprobe=effort.typical,
        prune=effort.prune,
        lists=lists,
        codes=codes,
        recall=tuple(shares.mean(0).tolist()),
        error=tuple(errors.tolist()),
        radius_recall=tuple(recall for recall, _ in ratios),
        radius_error=tuple(error for _, error in ratios),
    )


def search_known(
    index: Index, known: KnownQueries, effort: Effort, k: int
) -> tuple[Float32, Int64]:
    """Search for k neighbours; return distances and ids of shape (nq, k)."""
    if known.own is None:
        return index.search_at(known.vectors, k, effort)
    if index.two_stages:
        return index.steps.search_beside_own(known.vectors, k, effort, known.own)
    return remove_own(*index.search_at(known.vectors, k + 1, effort), known.own)


def find_true_costs(ids: Int64, truth: Truth) -> Float64:
    """Return the found vectors' true costs, (nq, k); infinite for one that is no neighbour."""
    rank, m = ranks(ids, truth.ids), truth.ids.shape[1]
    costs = np.take_along_axis(truth.costs, np.minimum(rank, m - 1), axis=1)
    return np.where(rank < m, costs, np.inf)


def choose_radii(costs: Float64, ks: tuple[int, ...]) -> list[float]:
    """Return radii that typically hold 1, 10, ... vectors, ascending, as costs.

    The truth lists only some neighbours. A radius is used only if, for at least 19 of 20 queries,
    the truth lists all vectors within it. Otherwise the farthest ones would be missing, and the
    recall would look too high.
    """
    widest = float(np.quantile(costs[:, -1], 0.05, method="lower"))
    typical = [float(np.median(costs[:, k - 1])) for k in ks]
    return sorted({bound for bound in (*typical, widest) if bound <= widest})


def estimate_ratio(found: Int64, within: Int64) -> tuple[float, float]:
    """Return the found share of all vectors within a radius, and its standard error.

    References
    ----------
    Cochran, Sampling Techniques, 3rd edition, 1977, section 2.11 (ratio estimates).
    """
    total = int(within.sum())
    if not total:
        return 0.0, 0.0
    ratio = int(found.sum()) / total
    return ratio, float(np.sqrt(((found - ratio * within) ** 2).sum())) / total


def remove_own(values: npt.NDArray[Any], ids: Int64, own: Int64) -> tuple[npt.NDArray[Any], Int64]:
    """Remove each query's own id, or the last column if it was not found."""
    kept, shape = all_but_own(ids, own), (len(ids), ids.shape[1] - 1)
    return values[kept].reshape(shape), ids[kept].reshape(shape)
