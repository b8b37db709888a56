"""Many reads in flight by io_uring: one system call starts many and waits for some.

References
----------
Axboe, "Efficient IO with io_uring", 2019; io_uring_setup(2), io_uring_enter(2).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.errors import StorageError
from teravec.native.ring import open_ring

__all__ = ["PENDING", "Uring"]

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

PENDING = np.iinfo(np.int64).min
"""Result of a read that has not ended."""


class Uring:
    """A ring for at most ``depth`` reads in flight, for one thread at a time.

    Parameters
    ----------
    depth : int

    Raises
    ------
    StorageError
        The compiled part is missing, the kernel is older than Linux 5.6, or it forbids io_uring,
        as many containers do.
    """

    def __init__(self, depth: int) -> None:
        try:
            self._ring = open_ring(depth)
        except OSError as error:
            raise StorageError(f"io_uring is not to be had: {error.strerror}") from error

    def begin(self, reads: Int64, buffer: Bytes, results: Int64) -> None:
        """Accept reads; the first ``wait`` hands them to the kernel.

        Descriptors must stay open until all reads have ended: see ``drain``.

        Parameters
        ----------
        reads : ndarray of shape (4, n), int64
            Descriptor, offset, length and first byte in the buffer of each read.
        buffer : ndarray of uint8
        results : ndarray of shape (n,), int64
            Set to PENDING; when a read ends, to its number of bytes or to a negated errno.
        """
        self._ring.begin(reads, buffer, results)

    def wait(self, stop: int) -> int:
        """Wait until the first ``stop`` reads have ended; the others continue.

        Returns
        -------
        int
            Number of leading reads that have ended; at least ``stop``.
        """
        return int(self._ring.wait(stop))

    def drain(self) -> None:
        """Start no more reads, and wait for those in flight."""
        self._ring.drain()
