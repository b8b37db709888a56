"""Which queries visit which lists."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from teravec.native import lists

__all__ = ["Pairs"]

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Pairs of a list and a query that visits it, list by list.

    Parameters
    ----------
    list_nos : ndarray of shape (n,), int64
        Ascending. Distinct, but for a list that lies in several runs: it has an entry for each,
        and each entry has all of the list's pairs.
    starts : ndarray of shape (n + 1,), int64
        The pairs of entry i are at [starts[i], starts[i + 1]).
    queries : ndarray of shape (npairs,), int32
        Ascending within an entry.
    distances : ndarray of shape (npairs,), float32
        Squared distance of the query to the list's centroid (l2), or inner product with it.
    nearest : ndarray of shape (npairs,), bool
        Whether the list is the query's nearest.
    """

    list_nos: Int64
    starts: Int64
    queries: Int32
    distances: Float32
    nearest: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, list_nos: Int64, distances: Float32, sizes: Int64 | None = None) -> Pairs:
        """Make the pairs of a matrix of lists to visit.

        Parameters
        ----------
        list_nos : ndarray of shape (nq, nprobe), int64
            Distinct within a row, the nearest first; -1 is none.
        distances : ndarray of shape (nq, nprobe), float32
        sizes : ndarray of shape (nlist,), int64, optional
            Vectors of each list; pairs of empty lists are left out.
        """
        return cls(*lists.pairs(list_nos, distances, sizes))

    def named(self, rows: Int64) -> Pairs:
        """Return the pairs of queries that have other numbers, (nq,), ascending."""
        if len(rows) == 1 and rows[0] == 0:
            return self
        return replace(self, queries=rows.astype(np.int32)[self.queries])

    @property
    def counts(self) -> Int64:
        """Number of queries that visit each entry's list, (n,)."""
        counts: Int64 = self.starts[1:] - self.starts[:-1]
        return counts

    def of_lists(self, list_nos: Int64) -> Pairs:
        """Return the pairs of some of the lists, (m,), ascending; one may occur several times."""
        if list_nos is self.list_nos or np.array_equal(list_nos, self.list_nos):
            return self
        columns = self.list_nos, self.starts, self.queries, self.distances, self.nearest
        if len(list_nos) < len(self.list_nos):
            at = np.searchsorted(self.list_nos, list_nos)
            if len(at) and (np.diff(at) == 1).all():  # consecutive lists: a view suffices
                first, last = int(self.starts[at[0]]), int(self.starts[at[-1] + 1])
                starts = self.starts[at[0] : at[-1] + 2] - first
                part = slice(first, last)
                return Pairs(
                    list_nos, starts, self.queries[part], self.distances[part], self.nearest[part]
                )
        return Pairs(*lists.repeat_pairs(columns, list_nos))

    def as_matrix(self) -> tuple[Int64, Int64, Float32]:
        """Return the pairs query by query, in Faiss's form.

        Lists must be distinct.

        Returns
        -------
        queries : ndarray of shape (m,), int64
            Queries that visit some list, ascending.
        list_nos : ndarray of shape (m, most), int64
            Ascending in each row, then -1.
        distances : ndarray of shape (m, most), float32
        """
        order = np.argsort(self.queries, kind="stable")
        queries, counts = np.unique(self.queries, return_counts=True)
        row = np.repeat(np.arange(len(queries)), counts)
        column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = (len(queries), int(counts.max(initial=1)))
        list_nos = np.full(shape, -1, np.int64)
        distances = np.zeros(shape, np.float32)
        list_nos[row, column] = np.repeat(self.list_nos, self.counts)[order]
        distances[row, column] = self.distances[order]
        return queries.astype(np.int64), list_nos, distances
