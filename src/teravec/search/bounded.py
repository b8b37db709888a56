"""Range searches of a batch in bounded memory: lists in steps, and queries given up from the end.

Lists are visited in runs, so short that memory would hold the results even if every code in them
were one. Where what was found so far outgrows its share of memory, the batch goes on with the
first half of its queries.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric
from teravec.search.ordering import by_query
from teravec.storage.list_runs import list_runs

__all__ = ["Gathered", "steps_of_lists"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class Gathered:
    """What a batch's first ``nq`` queries found so far."""

    def __init__(self, nq: int) -> None:
        self.nq = nq
        self._parts: list[tuple[Int64, Float32, Int64]] = []

    def add(self, owners: Int64, distances: Float32, ids: Int64) -> None:
        """Add results; ``owners`` are their queries."""
        self._parts.append((owners, distances, ids))

    def halve_to(self, most: int) -> None:
        """Give up queries from the end until at most ``most`` results are left."""
        while sum(len(owners) for owners, _, _ in self._parts) > most:
            self.nq = -(-self.nq // 2) if self.nq > 1 else 0
            kept = [owners < self.nq for owners, _, _ in self._parts]
            self._parts = [
                (owners[keep], distances[keep], ids[keep])
                for keep, (owners, distances, ids) in zip(kept, self._parts, strict=True)
            ]

    def arrays(self, metric: Metric) -> tuple[Int64, Float32, Int64]:
        """All results: lims (nq + 1,), distances and ids, best first a query."""
        nothing = (np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
        owners, distances, ids = map(np.concatenate, zip(nothing, *self._parts, strict=True))
        self._parts.clear()
        return by_query(self.nq, owners, distances, ids, metric)


def steps_of_lists(list_nos: Int64, sizes: Int64, most: int) -> Iterator[tuple[Int64, Int64]]:
    """Cut a batch into runs of lists, in file order, with at most ``most`` codes to scan.

    Only a query alone with a list that is larger has more.

    Yields
    ------
    rows : ndarray of shape (n,), int64
        Queries that want some list of the run.
    list_nos : ndarray of shape (n, nprobe), int64
        Their lists of the run; others -1.
    """
    wanted, counts = np.unique(list_nos, return_counts=True)
    if len(wanted) and wanted[0] == -1:
        wanted, counts = wanted[1:], counts[1:]
    for start, stop, fits in list_runs(counts * sizes[wanted], most):
        mine = (list_nos >= wanted[start]) & (list_nos <= wanted[stop - 1])
        rows = np.flatnonzero(mine.any(axis=1))
        step = len(rows) if fits else max(1, most // int(sizes[wanted[start]]))
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            yield some, np.where(mine[some], list_nos[some], -1)
