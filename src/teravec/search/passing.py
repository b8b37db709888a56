"""Which rows of an open index pass a filter: counted for each run, and as masks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from teravec.errors import InvalidFilter
from teravec.filters.bind import Bound, bind
from teravec.filters.filter import FilterArgument, parse_filter
from teravec.filters.tree import strict_key
from teravec.index.opened import OpenedIndex
from teravec.kernels.mask import Mask
from teravec.memory import require
from teravec.search.segment_rows import find_segment_rows
from teravec.storage.invertedfile import rows_of_bitmap

__all__ = ["PassingRows", "PassingRowsCache", "bind_filter"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_WINDOW_ROWS = 1 << 20  # that are handled together
_RUN_BYTES = 24  # besides its bits
_KEY_BYTES = 1 << 10  # of a filter


@dataclass(frozen=True)
class PassingRows:
    """The rows that pass a filter. Deleted rows count, where no compaction has left them out.

    Parameters
    ----------
    bits : ndarray of uint8
        Bits of the runs that have a row that passes, each from a byte of its own, as a Mask has
        them.
    starts : ndarray of shape (nruns,), int64
        Byte of ``bits`` at which each of these runs' bits begin.
    sizes : ndarray of shape (nruns,), int64
        Rows of each run.
    counts : ndarray of shape (nruns,), int64
        Rows of each run that pass.
    list_counts : ndarray of shape (nlist,), int64
        The same for lists.
    """

    bits: Bytes
    starts: Int64
    sizes: Int64
    counts: Int64
    list_counts: Int64

    @cached_property
    def total(self) -> int:
        """Rows that pass."""
        return int(self.list_counts.sum())

    @cached_property
    def matching(self) -> Int64:
        """Lists that hold a row that passes, ascending."""
        return np.flatnonzero(self.list_counts)

    @property
    def nbytes(self) -> int:
        """Memory, and some for what is kept with it."""
        return self.bits.nbytes + _RUN_BYTES * len(self.sizes) + _KEY_BYTES

    def mask(self, runs: Int64, visible: Mask | None) -> Mask:
        """The mask of runs (n,) that have a row that passes, of those that are visible too."""
        starts = self.starts[runs]
        if visible is None:
            return Mask(self.bits, starts)
        widths = _bytes_of(self.sizes[runs])
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


def find_passing(
    index: OpenedIndex, bound: Bound, most_bytes: int, check: Callable[[], None] | None = None
) -> PassingRows:
    """Find the rows of the open segments that pass: in inverted files, or by reading columns.

    ``check`` is called before each piece, and may raise to end the work.

    Raises
    ------
    MemoryLimitTooSmall
        What is kept of them takes more than ``most_bytes``.
    CorruptFile
        A bin of an inverted file, or a column's chunk, is damaged.
    """
    sizes, nlist = index.runs.sizes, index.runs.nlist
    starts, counts = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64)
    parts, used = [np.empty(0, np.uint8)], 0
    for number, first in enumerate(index.runs.firsts.tolist()):
        file_starts = index.segments[number].starts
        mine = slice(first, first + len(file_starts) - 1)
        passing = find_segment_rows(index, number, bound, check)
        counts[mine] = _count(passing, file_starts) * (sizes[mine] > 0)  # voided ones have 0
        widths = np.where(counts[mine] > 0, _bytes_of(sizes[mine]), 0)
        ends = np.cumsum(widths)
        size = int(ends[-1])
        require(used + size + _RUN_BYTES * len(sizes), most_bytes, f"a filter over {index.paths}")
        starts[mine] = used + ends - widths
        parts.append(_bits_of(passing, file_starts, counts[mine], ends - widths, size))
        used += size
    bits = np.concatenate(parts)
    by_list = counts if index.runs.one_layer else counts.reshape(-1, nlist).sum(axis=0)
    return PassingRows(bits, starts, sizes, counts, by_list)


def _windows(passing: BitMap) -> Iterator[Int64]:
    for start in range(0, len(passing), _WINDOW_ROWS):
        yield rows_of_bitmap(passing[start : start + _WINDOW_ROWS]).astype(np.int64)


def _count(passing: BitMap, file_starts: Int64) -> Int64:
    """Count the rows of each list of a file, whose lists begin at these rows."""
    counts = np.zeros(len(file_starts) - 1, np.int64)
    for rows in _windows(passing):
        at = np.searchsorted(file_starts, rows, side="right") - 1
        counts += np.bincount(at, minlength=len(counts))
    return counts


def _bits_of(
    passing: BitMap, file_starts: Int64, counts: Int64, bit_starts: Int64, size: int
) -> Bytes:
    """Make the bits of a file's lists, those that have counts, which begin at these bytes."""
    bits = np.zeros(size, np.uint8)
    for rows in _windows(passing):
        at = np.searchsorted(file_starts, rows, side="right") - 1
        if not (there := counts[at] > 0).all():
            at, rows = at[there], rows[there]
        if not len(rows):
            continue
        rows = rows - file_starts[at]
        byte = bit_starts[at] + rows // 8
        firsts = np.flatnonzero(np.diff(byte, prepend=-1))
        ones = (1 << (rows % 8)).astype(np.uint8)
        bits[byte[firsts]] |= np.bitwise_or.reduceat(ones, firsts)
    return bits


def bind_filter(index: OpenedIndex, given: FilterArgument) -> Bound:
    """Compare a filter with the columns of an index.

    Raises
    ------
    InvalidFilter
        It is wrong, or does not fit.
    """
    schema = index.manifest.schema
    if schema is None:
        raise InvalidFilter(f"{index.paths} keeps no columns to filter by: build it with --columns")
    return bind(parse_filter(given), schema)


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
        self._kept: OrderedDict[Hashable, PassingRows] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def find(self, given: FilterArgument, check: Callable[[], None] | None = None) -> PassingRows:
        """Return the rows that pass a filter.

        ``check`` is called between pieces of the work, and may raise to end it.

        Raises
        ------
        InvalidFilter
            The filter is wrong, or does not fit the index's columns.
        MemoryLimitTooSmall, CorruptFile
            As ``find_passing``.
        """
        tree = parse_filter(given)
        key = strict_key(tree)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = find_passing(self._index, bind_filter(self._index, tree), self._most_bytes, check)
        with self._lock:
            before = self._kept.pop(key, None)  # another thread was first
            self._kept[key] = found
            self._kept_bytes += found.nbytes - (0 if before is None else before.nbytes)
            while self._kept_bytes > self._most_bytes and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return found

    def release(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._kept.clear()
            self._kept_bytes = 0
