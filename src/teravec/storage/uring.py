"""Reads in flight by io_uring, through the kernel's two rings and no library.

One system call hands over many reads and waits for some: what a pool of threads does with one
call and one switch of threads a read. A completed read is only counted here; the bytes are
where the caller wanted them.

References
----------
Axboe, "Efficient IO with io_uring", 2019; io_uring_setup(2), io_uring_enter(2).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Sequence

from teravec.errors import StorageError

__all__ = ["Uring"]

# The same numbers on every architecture that Python and NumPy support.
_SETUP, _ENTER = 425, 426
_WAIT = 1  # IORING_ENTER_GETEVENTS
_ONE_MAP = 1  # IORING_FEAT_SINGLE_MMAP, since Linux 5.4
_SUBMISSIONS = 0x10000000  # IORING_OFF_SQES
_READ = 22  # IORING_OP_READ, since Linux 5.6

# struct io_uring_params: 10 words (of which entries of both rings, and features), then the
# places of head, tail, mask, size, flags, dropped and array in the one ring ...
_PARAMS = struct.Struct("<10I 8IQ 8IQ")
# struct io_uring_sqe: opcode, flags, ioprio, fd, offset, address, length, rw_flags, user_data.
_SUBMISSION = struct.Struct("<BBHiQQIIQ")
_SUBMISSION_BYTES = 64
# struct io_uring_cqe: user_data, result, flags.
_COMPLETION = struct.Struct("<QiI")

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Uring:
    """A ring for at most ``depth`` reads in flight. For one thread; use it as a context manager.

    Buffers and descriptors must outlive their reads: wait for all before letting go of them.

    Parameters
    ----------
    depth : int

    Raises
    ------
    StorageError
        The kernel is too old, or forbids io_uring, as many containers do.
    """

    def __init__(self, depth: int) -> None:
        params = ctypes.create_string_buffer(_PARAMS.size)
        try:
            self._fd = _call(_SETUP, ctypes.c_uint(depth), params)
        except OSError as error:
            raise StorageError(f"io_uring is not to be had: {error.strerror}") from error
        fields = _PARAMS.unpack(params.raw)
        submissions, completions, features = fields[0], fields[1], fields[5]
        self._sq, self._cq = fields[10:19], fields[19:28]
        if not features & _ONE_MAP:
            os.close(self._fd)
            raise StorageError("io_uring is not to be had: Linux 5.6 or newer expected")
        ring_bytes = max(
            self._sq[6] + 4 * submissions, self._cq[5] + _COMPLETION.size * completions
        )
        self._ring = mmap.mmap(self._fd, ring_bytes)
        self._entries = mmap.mmap(self._fd, _SUBMISSION_BYTES * submissions, offset=_SUBMISSIONS)
        self._words = memoryview(self._ring).cast("I")
        array = self._sq[6] // 4
        for i in range(submissions):
            self._words[array + i] = i
        self._depth, self._waiting, self.in_flight = submissions, 0, 0

    def read(self, fd: int, address: int, length: int, offset: int, tag: int) -> None:
        """Line up one read into memory at ``address``; ``wait`` hands it to the kernel."""
        if self.in_flight == self._depth:
            raise ValueError(f"{self._depth} reads in flight, as many as the ring holds")
        # Only this thread writes the tail, and the kernel looks at it inside io_uring_enter.
        tail = self._words[self._sq[1] // 4]
        at = (tail & self._words[self._sq[2] // 4]) * _SUBMISSION_BYTES
        self._entries[at : at + _SUBMISSION_BYTES] = bytes(_SUBMISSION_BYTES)
        _SUBMISSION.pack_into(self._entries, at, _READ, 0, 0, fd, offset, address, length, 0, tag)
        self._words[self._sq[1] // 4] = (tail + 1) & 0xFFFFFFFF
        self._waiting += 1
        self.in_flight += 1

    def wait(self, least: int = 1) -> Sequence[tuple[int, int]]:
        """Start the reads lined up, and wait until ``least`` of those in flight are done.

        Returns
        -------
        sequence of (tag, result)
            Result is the number of bytes read, or a negated errno.
        """
        least, done = min(least, self.in_flight), list[tuple[int, int]]()
        while self._waiting or len(done) < least:
            missing = max(0, least - len(done))
            try:
                self._waiting -= _call(
                    _ENTER, self._fd, self._waiting, missing, _WAIT, None, ctypes.c_size_t(0)
                )
            except OSError as error:
                if error.errno not in (errno.EINTR, errno.EAGAIN, errno.EBUSY):
                    raise
            done += self._completed()
        return done

    def _completed(self) -> list[tuple[int, int]]:
        head, tail = self._words[self._cq[0] // 4], self._words[self._cq[1] // 4]
        mask, first = self._words[self._cq[2] // 4], self._cq[5]
        done = []
        while head != tail:
            at = first + (head & mask) * _COMPLETION.size
            tag, result, _ = _COMPLETION.unpack_from(self._ring, at)
            done.append((tag, result))
            head = (head + 1) & 0xFFFFFFFF
        self._words[self._cq[0] // 4] = head
        self.in_flight -= len(done)
        return done

    def close(self) -> None:
        """Wait for what is in flight, and give the ring back."""
        while self.in_flight:
            self.wait(self.in_flight)
        self._words.release()
        self._ring.close()
        self._entries.close()
        os.close(self._fd)

    def __enter__(self) -> Uring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
