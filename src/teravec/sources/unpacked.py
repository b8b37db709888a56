"""A compressed buffer of an Arrow batch, unpacked some bytes at a time.

::

    int64 unpacked size, or -1 | compressed bytes, or after -1 the plain bytes

References
----------
Apache Arrow columnar format, "Compression"; ``format/Message.fbs``, BodyCompression.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teravec.sources.packed import OpenSource, read_exactly

__all__ = ["UnpackedBuffer"]

_PREFIX = 8
_KEPT_BYTES = 128  # consecutive reads overlap by a few values
_SKIPPED_BYTES = 1 << 20  # unpacked and dropped at a time


class UnpackedBuffer:
    """Reads byte ranges in ascending order; going back starts again from the beginning.

    Parameters
    ----------
    file : OpenSource
    at, size : int
        The buffer's offset and length in the file.
    codec : {"lz4", "zstd"}
    """

    def __init__(self, file: OpenSource, at: int, size: int, codec: str) -> None:
        if size < _PREFIX:
            raise ValueError(f"a compressed buffer of {size} bytes")
        prefix = np.empty(_PREFIX, np.uint8)
        read_exactly(file, prefix, at)
        self._file, self._codec = file, codec
        self._place = (at + _PREFIX, at + size)
        self._size = int(prefix.view("<i8")[0])
        self._begin()

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Unpack bytes [start, stop); raise ValueError if the buffer ends before that."""
        if self._size == -1:
            self._check(stop, self._place[1] - self._place[0])
            out = np.empty(stop - start, np.uint8)
            read_exactly(self._file, out, self._place[0] + start)
            return out
        self._check(stop, self._size)
        if start < self._at - len(self._kept):
            self._begin()
        while self._at < start:
            self._unpack(np.empty(min(start - self._at, _SKIPPED_BYTES), np.uint8))
        out = np.empty(stop - start, np.uint8)
        known = min(self._at, stop) - start
        first = len(self._kept) - (self._at - start)
        out[:known] = self._kept[first : first + known]
        if known < len(out):
            self._unpack(out[known:])
        return out

    def _begin(self) -> None:
        self._at, self._kept = 0, np.empty(0, np.uint8)
        if self._size != -1:
            packed = pa.PythonFile(_FileRange(self._file, *self._place), "r")
            self._stream = pa.CompressedInputStream(packed, self._codec)

    def _unpack(self, out: npt.NDArray[np.uint8]) -> None:
        """Fill ``out`` with the next bytes, and keep the last of them."""
        done = 0
        while done < len(out):
            count = self._stream.readinto(out[done:])
            if not count:
                end = self._at + done
                raise ValueError(f"a buffer unpacks to {end} bytes, not {self._size}")
            done += count
        self._at += len(out)
        self._kept = np.concatenate([self._kept, out[-_KEPT_BYTES:]])[-_KEPT_BYTES:]

    @staticmethod
    def _check(stop: int, size: int) -> None:
        if stop > size:
            raise ValueError(f"a buffer of {size} bytes found, {stop} or more expected")


class _FileRange(io.RawIOBase):
    """Bytes [at, stop) of an open file, as a file; closing it leaves the other open."""

    def __init__(self, file: OpenSource, at: int, stop: int) -> None:
        super().__init__()
        self._file, self._at, self._stop = file, at, stop

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes, at most as many as fit."""
        out = np.frombuffer(buffer, np.uint8)[: self._stop - self._at]
        read_exactly(self._file, out, self._at)
        self._at += len(out)
        return len(out)
