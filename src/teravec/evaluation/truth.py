"""True neighbours, and how many of them a search found: by distance, if distances are known.

If several vectors are as near as the k-th, any of them is correct. A found vector therefore counts
if it is no farther than the k-th true neighbour, whatever its id. There are three cases:

- The vector is in the truth's row: its distance there decides, or its rank if there are no
  distances.
- It is not in the row, and the row's last distance is above the k-th: the row lists all vectors
  that tie, so the vector does not count.
- It is not in the row, and the tie reaches the row's end: the search's own distance decides, as far
  as the codec allows (``Truth.slack``, ``Truth.decoded``).

References
----------
big-ann-benchmarks, issue 59; Aumüller, Bernhardsson, Faithfull, ANN-Benchmarks, 2020, section 3.2
(both count by distance).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from teravec.native.lists import ranks

__all__ = ["Truth", "count_found", "tolerance"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_BLOCK = 1 << 21  # ids compared at a time
# Tolerance for float32 sums in another order: relative to the value, and to the usual scale.
_OWN_ROUNDING, _USUAL_ROUNDING = 1e-5, 1e-6


@dataclass(frozen=True)
class Truth:
    """True neighbours of n queries, m for each.

    Parameters
    ----------
    ids : ndarray of shape (n, m), int64
        Best first; missing neighbours are -1, at the end of a row.
    costs : ndarray of shape (n, m), float64
        Ascending: squared L2 or negated similarities; ranks if distances are not known.
    comparable : bool
        Whether costs are on the scale of a search's distances.
    exact : bool
        Whether the codec stores vectors exactly, so that a search's distances are true.
    slack : float
        For a lossy codec: how much farther than the k-th a vector may seem and still count as a
        tie. Less than half of the step to the next level of ties; 0 if unknown.
    decoded : ndarray of shape (n, m), float64, optional
        Distances of the true neighbours by their codes, infinite if unknown. Copies of a vector
        have equal ones.
    """

    ids: Int64
    costs: Float64
    comparable: bool = False
    exact: bool = False
    slack: float = 0.0
    decoded: Float64 | None = None

    @classmethod
    def of_ids(cls, ids: Int64) -> Truth:
        """Make a truth without distances."""
        return cls(ids, np.broadcast_to(np.arange(ids.shape[1], dtype=np.float64), ids.shape))

    @cached_property
    def scale(self) -> float:
        """The usual size of costs, from at most a million of them."""
        some = self.costs[:: max(1, self.costs.size >> 20)]
        known = some[np.isfinite(some)]
        return float(np.median(np.abs(known))) if known.size else 0.0

    def of_rows(self, rows: Int64 | slice) -> Truth:
        """Return the truth of some queries."""
        decoded = None if self.decoded is None else self.decoded[rows]
        return replace(self, ids=self.ids[rows], costs=self.costs[rows], decoded=decoded)

    def nearest(self, k: int) -> Truth:
        """Return the truth of the k nearest neighbours."""
        decoded = None if self.decoded is None else self.decoded[:, :k]
        return replace(self, ids=self.ids[:, :k], costs=self.costs[:, :k], decoded=decoded)

    def kth(self, k: int) -> Float64:
        """Return the cost of the k-th or last neighbour, (n, 1); -inf if there is none."""
        there = (self.ids[:, :k] != -1).sum(1, keepdims=True)
        last = np.take_along_axis(self.costs, np.maximum(there - 1, 0), axis=1)
        return np.where(there > 0, last, -np.inf)


def tolerance(scale: float, kth: Float64) -> Float64:
    """Return how much costs that tie with the k-th may differ by rounding, in kth's shape."""
    own = np.where(np.isfinite(kth), np.abs(kth), 0.0)
    return np.asarray(np.maximum(_OWN_ROUNDING * own, _USUAL_ROUNDING * scale))


def count_found(truth: Truth, ids: Int64, costs: Float64, k: int) -> tuple[Int64, Int64]:
    """Count how many of its k nearest each query found, and how many there are.

    Parameters
    ----------
    truth : Truth
    ids : ndarray of shape (n, k or more), int64
        The first k of each row count; -1 is none; an id counts once per row.
    costs : ndarray of the same shape, float64
        The search's squared L2, or negated similarities.
    k : int

    Returns
    -------
    found, wanted : ndarray of shape (n,), int64
        ``wanted`` is k, or less if the truth has fewer.
    """
    rows = max(1, _BLOCK // max(k, truth.ids.shape[1]))
    blocks = [slice(start, start + rows) for start in range(0, len(ids), rows)]
    counts = [_count(truth, truth.of_rows(b), ids[b], costs[b], k) for b in blocks]
    found, wanted = (np.concatenate(part) for part in zip(*counts, strict=True))
    return found, wanted


def _count(whole: Truth, truth: Truth, ids: Int64, costs: Float64, k: int) -> tuple[Int64, Int64]:
    """Do as ``count_found`` does, for some rows of the whole truth."""
    wanted = _once(truth.ids[:, :k]).sum(1)
    ids, costs, m = ids[:, :k], costs[:, :k], truth.ids.shape[1]
    rank = ranks(ids, truth.ids)
    listed = _once(ids) & (rank < m)
    kth = truth.kth(k)
    room = tolerance(whole.scale, kth)
    true_costs = np.take_along_axis(truth.costs, np.minimum(rank, m - 1), axis=1)
    hits = listed & (true_costs <= kth + room)
    unlisted = _once(ids) & (rank == m)
    if truth.comparable:
        unlisted &= truth.kth(m) <= kth + room
        error = np.subtract(costs, true_costs, where=listed, out=np.zeros(costs.shape))
        exact = truth.exact or bool(listed.any() and (np.abs(error) <= room).all())
        if exact or truth.slack:
            hits |= unlisted & (costs <= kth + (room if exact else truth.slack))
    if truth.decoded is not None:
        near = np.where(truth.costs <= kth + room, truth.decoded, np.inf)
        for row in np.flatnonzero((unlisted & ~hits).any(1)):
            hits[row] |= unlisted[row] & np.isfinite(costs[row]) & np.isin(costs[row], near[row])
    return np.minimum(hits.sum(1), wanted), wanted


def _once(ids: Int64) -> Bool:
    """Mark the first occurrence of each id in a row; -1 is never marked."""
    return np.asarray((ranks(ids, ids) == np.arange(ids.shape[1])) & (ids != -1))
