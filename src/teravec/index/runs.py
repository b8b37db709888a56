"""Runs: the rows of one list in one segment, the unit that is read, verified and scanned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.native.lists import runs as runs_of_lists

__all__ = ["Runs"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """The runs of an open index, numbered layer by layer: ``layer * nlist + list_no``.

    An index that was only built has one layer: a run then has its list's number, and nothing is
    translated. Run numbers ascend in the order of segments, and within a segment in file order.

    Parameters
    ----------
    nlist : int
    sizes : ndarray of shape (nlayers * nlist,), int64
        Vectors of each run; 0 where a list has no run in the layer, or its segment is not open.
    list_sizes : ndarray of shape (nlist,), int64
        Vectors of each list, in all of its runs.
    firsts : ndarray of shape (nsegments,), int64
        The run of each open segment's first list, ascending.
    one_layer : bool
        Whether each list has one run, of its own number.
    """

    nlist: int
    sizes: Int64
    list_sizes: Int64
    firsts: Int64
    one_layer: bool

    @classmethod
    def of(cls, nlist: int, nlayers: int, segments: Sequence[tuple[int, int, Int64]]) -> Runs:
        """Number the runs of open segments.

        Parameters
        ----------
        nlist, nlayers : int
        segments : sequence of (layer, first list, sizes)
            In the manifest's order; ``sizes`` are the vectors of each of the segment's lists.
        """
        sizes = np.zeros(nlayers * nlist, np.int64)
        firsts = np.array([layer * nlist + first for layer, first, _ in segments], np.int64)
        for start, (_, _, counts) in zip(firsts.tolist(), segments, strict=True):
            sizes[start : start + len(counts)] = counts
        list_sizes = sizes if nlayers == 1 else sizes.reshape(nlayers, nlist).sum(axis=0)
        return cls(nlist, sizes, list_sizes, firsts, nlayers == 1)

    def of_lists(self, list_nos: Int64) -> Int64:
        """Return the runs of lists (n,), ascending; runs without vectors are left out."""
        return list_nos if self.one_layer else np.sort(self.by_list(list_nos)[0])

    def by_list(self, list_nos: Int64) -> tuple[Int64, Int64]:
        """Return the runs of lists (n,), list after list, and the list of each.

        Runs without vectors are left out, if there are several layers.
        """
        if self.one_layer:
            return list_nos, list_nos
        return runs_of_lists(self.nlist, self.sizes, list_nos)

    def lists_of(self, runs: Int64) -> Int64:
        """Return the list of each run, (n,)."""
        return runs if self.one_layer else runs % self.nlist

    def segments_of(self, runs: Int64) -> Int64:
        """Return the number of the open segment that holds each run, (n,)."""
        numbers: Int64 = np.searchsorted(self.firsts, runs, side="right") - 1
        return numbers
