"""The search of codes in two stages, written once: scan, choose, refine, the k best.

What is refined for a query follows from the candidates of all its lists together, wherever these
are: in this process, or on several servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric
from teravec.kernels.sketch import Candidates
from teravec.search.candidates import best_k, candidates_kept, chosen, without

__all__ = ["Stages", "nearest_in_two_stages"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class Stages(Protocol):
    """Both stages for some queries and the lists that they visit.

    Attributes
    ----------
    ntotal : int
        Vectors of the whole index.
    metric : Metric
    """

    @property
    def ntotal(self) -> int: ...

    @property
    def metric(self) -> Metric: ...

    def scan(self, capacity: int) -> Iterator[Candidates]:
        """Candidates by their sketches, for all queries in order: at once, or some at a time."""

    def refine(self, owners: Int64, places: Int64) -> tuple[Int64, Float32, Int64]:
        """Compare queries with finer codes.

        Parameters
        ----------
        owners, places : ndarray of shape (n,), int64
            Row of the query, ascending, and place of the vector.

        Returns
        -------
        owners, distances, ids : ndarray of shape (m,)
            Of each query its k best or more, in any order. Those of one process are of all
            places, in their order.
        """


def nearest_in_two_stages(
    stages: Stages, k: int, most: int, own: Int64 | None = None
) -> tuple[Float32, Int64]:
    """The k nearest of each query.

    Parameters
    ----------
    stages : Stages
    k : int
    most : int
        Candidates a query, as in ``Effort.candidates``.
    own : ndarray of shape (nq,), int64, optional
        Each query's own id: what is found is then as if no query were among the vectors. Its
        vector is left out between the stages. A search for k + 1 would keep more candidates, and
        refine more of them where others are bounded as closely as its own.

    Returns
    -------
    distances : ndarray of shape (nq, k), float32, best first
    ids : ndarray of shape (nq, k), int64, -1 for none
    """
    kept = candidates_kept(k, most, stages.ntotal)
    parts, nq = [], 0
    for candidates in stages.scan(kept if own is None else kept + 1):
        if own is not None:
            candidates = _without_own(stages, candidates, k, own, nq)
        owners, places = chosen(candidates, k, stages.ntotal)
        parts.append((owners + nq if nq else owners, places))
        nq += len(candidates.counts)
    owners, places = parts[0] if len(parts) == 1 else _joined(parts)
    return best_k(nq, k, *stages.refine(owners, places), stages.metric)


def _without_own(
    stages: Stages, candidates: Candidates, k: int, own: Int64, first: int
) -> Candidates:
    """Candidates of queries from ``first`` on, without each query's own vector."""
    owners, places = chosen(candidates, k + 1, stages.ntotal)
    named, _, ids = stages.refine(owners + first, places)
    itself = ids == own[named]
    return without(candidates, owners[itself], places[itself])


def _joined(parts: list[tuple[Int64, Int64]]) -> tuple[Int64, Int64]:
    nothing = np.empty(0, np.int64), np.empty(0, np.int64)
    owners, places = (np.concatenate(arrays) for arrays in zip(nothing, *parts, strict=True))
    return owners, places
