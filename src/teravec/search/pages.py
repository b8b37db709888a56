"""Reading pages of row files: a few rows anywhere, many reads in flight, each page checked.

Pages are numbered through all files of the index, and of its other versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.index.opened import OpenedIndex
from teravec.search.stats import SearchStats
from teravec.storage.buffers import Buffers
from teravec.storage.store import Ranges, Reader

__all__ = ["PageReader", "PageRun"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

_SEGMENT_BYTES = 1 << 20  # near pages are read together up to this
_GAP_BYTES = 4096  # one read across a gap is quicker than two, even of a disk of such sectors
# Many reads take a disk as long as these bytes each (16 us a read, 0.44 ns a byte); a few
# wait for one another less, and their bytes are better left where they are.
_MANY = 4096
_MANY_GAP_BYTES = 32 << 10


@dataclass(frozen=True)
class PageRun:
    """Pages that are read by one call, in segments of near ones.

    Parameters
    ----------
    pages : ndarray of shape (n,), int64
        The wanted ones, ascending.
    firsts, counts : ndarray of shape (m,), int64
        First page of each segment, and its pages, those between wanted ones included.
    starts : ndarray of shape (m,), int64
        Where in ``pages`` each segment begins.
    """

    pages: Int64
    firsts: Int64
    counts: Int64
    starts: Int64


class PageReader:
    """Reads pages of the row files of an index.

    Parameters
    ----------
    index : OpenedIndex
        Of codes in two stages; stays open as long as the reader is used.
    ranges : Reader
        Searches share it.
    first_pages : ndarray of shape (nfiles,), int64
        Number of each file's first page; its others follow.
    spare_bytes : int
        Of buffers that are kept for the next reads.

    Attributes
    ----------
    page_bytes : int
    """

    def __init__(
        self, index: OpenedIndex, ranges: Reader, first_pages: Int64, spare_bytes: int
    ) -> None:
        self._index, self._ranges = index, ranges
        self._buffers = Buffers(spare_bytes)
        self.page_bytes = index.fine[0].header.page_bytes
        self._order = np.argsort(first_pages, kind="stable")  # files by their pages
        self._firsts = first_pages[self._order]

    def release(self) -> None:
        """Keep no buffers for the next reads."""
        self._buffers.release()

    def runs(self, pages: Int64, run_bytes: int) -> Iterator[PageRun]:
        """Cut pages (n,), ascending and distinct, into runs whose reads take so many bytes."""
        most = max(1, min(_SEGMENT_BYTES, run_bytes // 2) // self.page_bytes)
        gap = (_MANY_GAP_BYTES if len(pages) > _MANY else _GAP_BYTES) // self.page_bytes
        steps = np.diff(pages)
        apart = steps > 1 + min(gap, most)
        apart |= np.diff((pages - pages[0]) // most) != 0
        if len(self._firsts) > 1:
            apart |= np.diff(np.searchsorted(self._firsts, pages, side="right")) != 0
        starts = np.concatenate([[0], np.flatnonzero(apart) + 1])
        firsts, lasts = pages[starts], pages[np.append(starts[1:], len(pages)) - 1]
        counts = lasts - firsts + 1
        of_run = np.cumsum(counts) // max(1, run_bytes // 2 // self.page_bytes)
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(of_run)) + 1, [len(starts)]])
        ends = np.append(starts, len(pages))
        for first, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            part, begin = slice(first, stop), int(starts[first])
            yield PageRun(
                pages[begin : int(ends[stop])], firsts[part], counts[part], starts[part] - begin
            )

    def read(self, run: PageRun, stats: SearchStats) -> tuple[Bytes, Int64]:
        """Read the pages of a run.

        Parameters
        ----------
        run : PageRun
        stats : SearchStats
            Counts reads and bytes.

        Returns
        -------
        read : ndarray of uint8
            The pages, and some between them that nobody checked; for ``give_back`` when it is
            no longer needed.
        begins : ndarray of shape (n,), int64
            Byte of ``read`` at which each wanted page begins.

        Raises
        ------
        CorruptFile
            Names the file and the page whose bytes are wrong.
        StorageError
        """
        sizes = run.counts * self.page_bytes
        ends = np.cumsum(sizes)
        at, size = ends - sizes, int(ends[-1])
        buffer = self._buffers.take(size)
        places = np.searchsorted(self._firsts, run.firsts, side="right") - 1
        stats.reads += len(run.firsts)
        stats.bytes_read += size
        fine = self._index.fine
        offsets = fine[0].page_offset(run.firsts - self._firsts[places])
        file_nos = self._order[places]
        self._ranges.read(Ranges(self._index.fine_read_files, file_nos, offsets, sizes, at), buffer)
        each = np.diff(run.starts, append=len(run.pages))
        begins = run.pages * self.page_bytes + np.repeat(at - run.firsts * self.page_bytes, each)
        for place in np.unique(places).tolist():
            file, first_page = fine[int(self._order[place])], int(self._firsts[place])
            of_file = [first_page, first_page + file.header.npages]
            first, stop = np.searchsorted(run.pages, of_file)
            file.check_pages(run.pages[first:stop] - first_page, buffer, begins[first:stop])
        return buffer, begins

    def give_back(self, read: Bytes) -> None:
        """Let the next reads have what ``read`` returned."""
        self._buffers.give_back(read)
