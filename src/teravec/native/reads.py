"""Ranges of files: joining near ones to one read, and counting what the page cache holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.native import extensions

__all__ = ["cached_bytes", "join"]

Int64 = npt.NDArray[np.int64]


def join(
    gap_bytes: int,
    segment_bytes: int,
    alignment: int,
    slices: Int64,
    offsets: Int64,
    lengths: Int64,
) -> tuple[Int64, Int64, Int64]:
    """Join lists that lie near each other into ranges to read.

    Parameters
    ----------
    gap_bytes : int
        Lists are read together over a gap up to this.
    segment_bytes : int
        Near lists are cut into segments of about this many bytes.
    alignment : int
        Ranges begin and end at multiples of this.
    slices, offsets, lengths : ndarray of shape (n,), int64
        Each list's number of its file, first byte, and bytes. There is at least one list.

    Returns
    -------
    ranges : ndarray of shape (3, m), int64
        First byte of the file, length, and first byte of the buffer.
    bounds : ndarray of shape (m + 1,), int64
        The first list of each range.
    at : ndarray of shape (n,), int64
        Byte of the buffer at which each list begins.
    """
    if extensions.reading is not None:
        n = len(offsets)
        columns, bounds, at = (np.empty(shape, np.int64) for shape in ((3, n), n + 1, n))
        count = extensions.reading.join(
            gap_bytes, segment_bytes, alignment, slices, offsets, lengths, columns, bounds, at
        )
        return columns[:, :count], bounds[: count + 1], at
    ends = offsets + lengths
    apart = slices[1:] != slices[:-1]
    apart |= offsets[1:] - ends[:-1] > gap_bytes
    total = np.cumsum(lengths)
    apart |= total[1:] // segment_bytes != total[:-1] // segment_bytes
    bounds = np.concatenate([[0], np.flatnonzero(apart) + 1, [len(ends)]])
    firsts, stops = bounds[:-1], bounds[1:]
    low = offsets[firsts] // alignment * alignment
    sizes = -(-(ends[stops - 1] - low) // alignment) * alignment
    begins = np.cumsum(sizes) - sizes
    at = offsets + np.repeat(begins - low, stops - firsts)
    return np.stack([low, sizes, begins]), bounds, at


def cached_bytes(fds: Int64, offsets: Int64, lengths: Int64) -> Int64:
    """Count bytes in [offset, offset + length) of files whose pages are in the page cache.

    Parameters
    ----------
    fds, offsets, lengths : ndarray of shape (n,), int64

    Returns
    -------
    ndarray of shape (n,), int64

    Raises
    ------
    OSError
        The kernel cannot tell, or the extension is missing: cachestat(2) came with Linux 6.5.
    """
    if extensions.reading is None:
        raise OSError("not compiled")
    cached = np.empty(len(fds), np.int64)
    extensions.reading.cached(fds, offsets, lengths, cached)
    return cached
