"""Which lists are out of balance, and what reading them costs: pure functions of lists' sizes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt

from teravec.index.manifest import Manifest
from teravec.model.description import ModelDescription

__all__ = ["BalancePlan", "plan_balance", "target_size"]

Int64 = npt.NDArray[np.int64]

_SPLIT = 4.0  # times the target size, above which a list is split
_JOIN = 0.25  # times the target size, below which a list is joined to its neighbours
_FILL = 0.75  # aimed size of a part, relative to a cap on bytes: parts will be unequal
_MOST_PARTS = 256  # parts of one list at a time


@dataclass(frozen=True)
class BalancePlan:
    """Lists to split and lists to join.

    Parameters
    ----------
    target : float
        Vectors that a list should have.
    most : float
        Vectors above which a list is split.
    parts : dict
        Number of parts, by list to split.
    small : tuple of int
        Lists to join, the smallest first.
    cost, cost_after : float
        Vectors that a query scans in a list, on average: now, and as far as sizes tell afterwards.
    """

    target: float
    most: float
    parts: dict[int, int]
    small: tuple[int, ...]
    cost: float
    cost_after: float

    @property
    def gain(self) -> float:
        """Share of the scanned vectors that a rebalance saves."""
        return 1 - self.cost_after / self.cost if self.cost else 0.0


def target_size(manifest: Manifest, model: ModelDescription, nused: int) -> float:
    """Return the vectors that a list should have.

    A build chooses its lists in proportion to the root of its vectors, or the user does. So while
    an index grows n times, its lists should grow sqrt(n) times, and so should their number.
    """
    built = sum(int(file["n"]) for file in manifest.source.get("files", ()))
    if not built:
        return manifest.ntotal / max(1, nused)
    built_nlist = (model.rebalanced or {}).get("built_nlist", model.nlist)
    return sqrt(manifest.ntotal * built) / int(built_nlist)


def plan_balance(
    sizes: Int64, used: Int64, target: float, row_bytes: int, max_list_bytes: int | None
) -> BalancePlan:
    """Choose the lists to split and those to join.

    Parameters
    ----------
    sizes : ndarray of shape (nlist,), int64
        Vectors of each list; those that are deleted count until a compaction.
    used : ndarray of int64
        Lists in use.
    target : float
    row_bytes : int
        Bytes of a vector: code and id.
    max_list_bytes : int, optional
        The most that a list may take.
    """
    cap = float("inf") if max_list_bytes is None else max(1.0, max_list_bytes / row_bytes)
    most, aim = min(_SPLIT * target, cap), max(1.0, min(target, _FILL * cap))
    here = sizes[used]
    large, small = used[here > most], used[here < _JOIN * aim]
    parts = {
        list_no: min(_MOST_PARTS, max(2, ceil(int(sizes[list_no]) / aim)))
        for list_no in large.tolist()
    }
    total = max(1.0, float(here.sum()))
    squares = here.astype(np.float64) ** 2
    after = float(squares.sum())
    for list_no, count in parts.items():
        after -= float(sizes[list_no]) ** 2 * (1 - 1 / count)
    smallest = small[np.argsort(sizes[small], kind="stable")]
    return BalancePlan(
        target, most, parts, tuple(smallest.tolist()), float(squares.sum()) / total, after / total
    )
