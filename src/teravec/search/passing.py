"""Which rows of an open index pass a filter: counted for each run, and as masks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.filters.bind import Bound, bind
from teravec.filters.evaluate import bound_columns, passing_rows
from teravec.filters.filter import FilterArgument, parse_filter
from teravec.filters.tree import Tree
from teravec.index.opened import OpenedIndex
from teravec.kernels.mask import Mask
from teravec.memory import require

__all__ = ["PassingRows", "PassingRowsCache"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_PIECE_BYTES = 8 << 20  # of columns, read together
_PIECE_ROWS = 1 << 20


@dataclass(frozen=True)
class PassingRows:
    """The rows that pass a filter. Deleted rows count, where no compaction has left them out.

    Parameters
    ----------
    bits : ndarray of uint8
        Bits of all runs, each from a byte of its own, as a Mask has them.
    starts : ndarray of shape (nruns,), int64
        Byte of ``bits`` at which each run's bits begin.
    counts : ndarray of shape (nruns,), int64
        Rows of each run that pass.
    list_counts : ndarray of shape (nlist,), int64
        The same for lists.
    """

    bits: Bytes
    starts: Int64
    counts: Int64
    list_counts: Int64

    @property
    def total(self) -> int:
        """Rows that pass."""
        return int(self.list_counts.sum())

    @property
    def nbytes(self) -> int:
        """Memory."""
        arrays = self.bits, self.starts, self.counts, self.list_counts
        return sum(array.nbytes for array in arrays)

    def mask(self, runs: Int64, visible: Mask | None) -> Mask:
        """The mask of runs (n,), of rows that pass and that are visible."""
        starts = self.starts[runs]
        if visible is None:
            return Mask(self.bits, starts)
        widths = np.append(self.starts, len(self.bits))[runs + 1] - starts
        ends = np.cumsum(widths)
        # Bytes of the new bits, and how far behind them those of the filter and of the mask lie.
        at = np.arange(int(widths.sum()))
        behind = starts - (ends - widths)
        bits = self.bits[at + np.repeat(behind, widths)]
        hides = np.repeat(visible.starts >= 0, widths)
        behind = visible.starts - (ends - widths)
        bits[hides] &= visible.bits[(at + np.repeat(behind, widths))[hides]]
        return Mask(bits, ends - widths)


def _bytes_of(rows: Int64) -> Int64:
    return -(-rows // 8)


def find_passing(index: OpenedIndex, bound: Bound, most_bytes: int) -> PassingRows:
    """Evaluate a filter over all rows of the open segments, in pieces.

    Raises
    ------
    MemoryLimitTooSmall
        The bits take more than ``most_bytes``.
    CorruptFile
        A column's chunk is damaged.
    """
    sizes = index.runs.sizes
    widths = _bytes_of(sizes)
    total = int(widths.sum())
    require(total + 24 * len(sizes), most_bytes, f"a filter over {index.paths}")
    starts = np.cumsum(widths) - widths
    bits, counts = np.zeros(total, np.uint8), np.zeros(len(sizes), np.int64)
    names = sorted(bound_columns(bound))
    for number, first in enumerate(index.runs.firsts.tolist()):
        lists = index.segments[number]
        file, rows = index.column_files[number], int(lists.starts[-1])
        for start, stop in file.plan_pieces(0, rows, _PIECE_BYTES, _PIECE_ROWS):
            table = file.read(start, stop, names)
            columns = {name: table[name].combine_chunks() for name in names}
            passing = start + np.flatnonzero(passing_rows(bound, columns))
            run = first + np.searchsorted(lists.starts, passing, side="right") - 1
            valid = sizes[run] > 0  # runs that a rebalancing voided stay in their files
            run, passing = run[valid], passing[valid]
            row = passing - lists.starts[run - first]
            np.bitwise_or.at(bits, starts[run] + row // 8, (1 << (row % 8)).astype(np.uint8))
            counts += np.bincount(run, minlength=len(sizes))
    nlist = index.runs.nlist
    by_list = counts if index.runs.one_layer else counts.reshape(-1, nlist).sum(axis=0)
    return PassingRows(bits, starts, counts, by_list)


class PassingRowsCache:
    """Rows that pass the filters that were asked for last, within a limit of memory.

    Parameters
    ----------
    index : OpenedIndex
    most_bytes : int
        One filter always has room, if it takes no more than all of it.
    """

    def __init__(self, index: OpenedIndex, most_bytes: int) -> None:
        self._index, self._most_bytes = index, most_bytes
        self._kept: OrderedDict[Tree, PassingRows] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, given: FilterArgument) -> PassingRows:
        """Return the rows that pass a filter.

        Raises
        ------
        InvalidArgument
            The filter is wrong, or does not fit the index's columns.
        MemoryLimitTooSmall, CorruptFile
            As ``find_passing``.
        """
        tree = parse_filter(given)
        with self._lock:
            if tree in self._kept:
                self._kept.move_to_end(tree)
                return self._kept[tree]
        schema = self._index.manifest.schema
        if schema is None:
            raise InvalidArgument(
                f"{self._index.paths} keeps no columns to filter by: build it with --columns"
            )
        found = find_passing(self._index, bind(tree, schema), self._most_bytes)
        with self._lock:
            self._kept[tree] = found
            kept_bytes = sum(each.nbytes for each in self._kept.values())
            while kept_bytes > self._most_bytes and len(self._kept) > 1:
                kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return found

    def release(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._kept.clear()
