"""Divides pairs of query and list among the servers that own the lists.

The division is a pure function of ownership, loads and sizes. Each list goes to one server only,
which reads it once for all queries. A run of lists with several owners is cut between them in
list order, by bytes to scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from teravec.serving.server.served import Ranges

__all__ = ["Owner", "Pairs", "PlacePairs", "shared_out"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

# Smaller runs are not cut between replicas: a second call costs more than it saves.
_CUT_BYTES = 8 << 20


@dataclass(frozen=True)
class Owner:
    """A server that may be asked: its ranges, ascending, and its load in bytes."""

    address: str
    ranges: Ranges
    load: float


@dataclass(frozen=True)
class Pairs:
    """Queries and the lists that each visits, flat, query after query.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64, ascending
        The query of each pair.
    list_nos, distances : ndarray of shape (n,), int64 and float32
    sizes : ndarray of shape (n,), int64
        Bytes to scan for each.
    """

    rows: Int64
    list_nos: Int64
    distances: Float32
    sizes: Int64

    @classmethod
    def of(cls, list_nos: Int64, distances: Float32, list_sizes: Int64, row_bytes: int) -> Pairs:
        """Make pairs from tables (nq, nprobe), -1 for none; known empty lists are left out."""
        rows, columns = np.nonzero(list_nos >= 0)
        flat = list_nos[rows, columns]
        sizes = list_sizes[flat] * row_bytes
        held = sizes != 0
        return cls(rows[held], flat[held], distances[rows, columns][held], sizes[held])

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, which: Int64) -> Self:
        """Select pairs by ascending position."""
        if len(which) == len(self):
            return self
        return type(self)(*(column[which] for column in vars(self).values()))

    def by_query(self) -> tuple[Int64, Int64]:
        """Return the queries that have pairs, ascending, and the number of each one's pairs."""
        counts = np.bincount(self.rows)
        rows = counts.nonzero()[0]
        return rows, counts[rows]

    @property
    def total_bytes(self) -> int:
        """Bytes to scan for all pairs."""
        return int(self.sizes.sum())


@dataclass(frozen=True)
class PlacePairs(Pairs):
    """Queries and the vectors whose finer codes are compared with each.

    Parameters
    ----------
    places : ndarray of shape (n,), int64
        ``run << 32 | row`` of each pair's vector.
    """

    places: Int64

    @classmethod
    def of_places(cls, owners: Int64, places: Int64, list_nos: Int64, row_bytes: int) -> PlacePairs:
        """Make pairs from queries, ascending, places, and the places' lists."""
        return cls(
            owners,
            list_nos,
            np.zeros(len(places), np.float32),
            np.full(len(places), row_bytes, np.int64),
            places,
        )


def shared_out(pairs: Pairs, owners: Sequence[Owner]) -> tuple[dict[str, Pairs], Pairs]:
    """Assign every pair to one server that owns its list.

    Parameters
    ----------
    pairs : Pairs
    owners : sequence of Owner
        Servers that may be asked.

    Returns
    -------
    shares : dict of Pairs
        The pairs of each address that has some.
    left : Pairs
        Pairs of lists without an owner.
    """
    bounds = np.array(sorted({0, *(end for o in owners for r in o.ranges for end in r)}))
    segments = np.searchsorted(bounds, pairs.list_nos, side="right") - 1
    totals = np.bincount(segments, weights=pairs.sizes, minlength=len(bounds))
    loads = np.array([owner.load for owner in owners], np.float64)
    used = np.zeros(len(owners), bool)
    chosen = np.full(len(pairs), -1, np.int64)
    wanted = np.bincount(segments).nonzero()[0].tolist()
    able = {segment: _able(int(bounds[segment]), owners) for segment in wanted}
    # Assign segments with the fewest owners first: the others can then even out the loads.
    for segment in sorted(able, key=lambda s: (len(able[s]), -totals[s], s)):
        numbers = able[segment]
        if not numbers:
            continue
        mine = (segments == segment).nonzero()[0]
        if len(numbers) == 1 or totals[segment] < _CUT_BYTES:
            takes = _one(numbers, loads, used)
            chosen[mine] = takes
            loads[takes] += totals[segment]
            used[takes] = True
        else:
            chosen[mine] = _cut(pairs, mine, numbers, loads, float(totals[segment]))
            loads += np.bincount(chosen[mine], weights=pairs.sizes[mine], minlength=len(loads))
            used[np.unique(chosen[mine])] = True
    shares = {
        owners[number].address: pairs.only((chosen == number).nonzero()[0])
        for number in used.nonzero()[0].tolist()
    }
    return shares, pairs.only((chosen < 0).nonzero()[0])


def _able(list_no: int, owners: Sequence[Owner]) -> list[int]:
    return [
        number
        for number, owner in enumerate(owners)
        if any(start <= list_no < stop for start, stop in owner.ranges)
    ]


def _one(numbers: list[int], loads: npt.NDArray[np.float64], used: npt.NDArray[np.bool_]) -> int:
    """Return the least loaded owner; prefer one that is asked anyhow, if it is hardly busier.

    Queries then travel once.
    """
    return min(numbers, key=lambda n: (loads[n] + (0 if used[n] else _CUT_BYTES), n))


def _cut(
    pairs: Pairs, mine: Int64, numbers: list[int], loads: npt.NDArray[np.float64], total: float
) -> Int64:
    """Cut a segment's lists, in list order, so that its owners end with equal loads."""
    own = loads[numbers]
    parts = np.maximum(0.0, _level(own, total) - own)
    _, inverse = np.unique(pairs.list_nos[mine], return_inverse=True)
    weights = np.bincount(inverse, weights=pairs.sizes[mine])
    middles = np.cumsum(weights) - weights / 2
    position = np.searchsorted(np.cumsum(parts)[:-1], middles, side="right")
    return np.array(numbers, np.int64)[position][inverse]


def _level(loads: npt.NDArray[np.float64], total: float) -> float:
    """Return the level to which ``total`` fills vessels that already hold ``loads``."""
    ascending = np.sort(loads)
    levels = (total + np.cumsum(ascending)) / np.arange(1, len(ascending) + 1)
    return float(levels[np.flatnonzero(levels >= ascending)[-1]])
