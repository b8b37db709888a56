"""Reading the fields of a Faiss file in order, within its bounds.

Faiss's own reader allocates what a damaged size asks for, and some damage ends the process. Here
every size is compared with the bytes that are left before anything is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidSource
from teravec.storage.store import OpenFile

__all__ = ["Fields", "Section"]


@dataclass(frozen=True)
class Section:
    """An array in a file: ``count`` values of a type from byte ``offset`` on."""

    offset: int
    count: int
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.count * np.dtype(self.dtype).itemsize

    def read(self, file: OpenFile, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Read values [start, stop)."""
        stop = self.count if stop is None else stop
        width = np.dtype(self.dtype).itemsize
        data = file.read((stop - start) * width, self.offset + start * width)
        return np.frombuffer(data, self.dtype)


class Fields:
    """The fields of an open file, one after another; all numbers are little-endian.

    Parameters
    ----------
    file : OpenFile

    Attributes
    ----------
    at : int
        Byte of the next field.
    """

    def __init__(self, file: OpenFile) -> None:
        self.file, self.at = file, 0

    @property
    def path(self) -> str:
        """Names the file in messages."""
        return self.file.path

    def skip(self, nbytes: int) -> int:
        """Go past some bytes; return where they begin.

        Raises
        ------
        InvalidSource
            The file ends earlier.
        """
        begin, left = self.at, self.file.size - self.at
        if not 0 <= nbytes <= left:
            raise InvalidSource(
                f"{self.path}: {left:,} bytes left at byte {begin:,}, {nbytes:,} expected: the "
                "file is cut off, or damaged"
            )
        self.at += nbytes
        return begin

    def take(self, code: str) -> Any:
        """Read one number, of a type code of ``struct``."""
        size = struct.calcsize(f"<{code}")
        begin = self.skip(size)
        return struct.unpack(f"<{code}", self.file.read(size, begin))[0]

    def name(self) -> str:
        """Read the four characters that say which class follows."""
        return bytes(self.file.read(4, self.skip(4))).decode("latin-1")

    def flag(self, what: str) -> bool:
        """Read one byte, 0 or 1."""
        value = self.take("B")
        if value > 1:
            raise InvalidSource(f"{self.path}: {what} is {value}; 0 or 1 expected")
        return bool(value)

    def section(self, dtype: str, width: int = 1) -> Section:
        """Go past an array; its number of values, divided by ``width``, precedes it."""
        count = self.take("Q") * width
        return Section(self.skip(count * np.dtype(dtype).itemsize), count, dtype)

    def array(self, dtype: str) -> npt.NDArray[Any]:
        """Read an array; only for those that fit into memory."""
        return self.section(dtype).read(self.file)

    def text(self, most: int = 1 << 16) -> str:
        """Read characters, as many as the number before them says."""
        found = self.section("u1")
        if found.count > most:
            raise InvalidSource(f"{self.path}: a name of {found.count:,} characters found")
        return found.read(self.file).tobytes().decode(errors="replace")
