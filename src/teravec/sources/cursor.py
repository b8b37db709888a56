"""Reading row ranges of a column that can only be decoded forward, from the start of a group.

A `ColumnReader` keeps cursors between reads: reading block after block decodes every row once. A
cursor holds at most one decoded piece.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from teravec.errors import InvalidSource
from teravec.sources.remote import SourcePath

__all__ = ["ColumnReader"]

_CURSORS = 4
"""Cursors kept per column: this many threads can read side by side without decoding twice."""

Pieces = Callable[[int], Iterator[np.ndarray]]
"""Decodes from the start of a group to the end of the file, in pieces of bounded size."""


class _Cursor:
    """A position in a column: one decoded piece, rows [start, stop), and the pieces after it."""

    def __init__(self, pieces: Iterator[np.ndarray], row: int) -> None:
        self.start = self.stop = row
        self._piece: np.ndarray | None = None
        self._pieces = pieces

    def read(self, start: int, stop: int, path: SourcePath) -> np.ndarray:
        """Read rows [start, stop); ``start`` must not lie before this cursor."""
        parts = []
        while start < stop:
            while self.stop <= start:
                self._advance(path)
            assert self._piece is not None
            until = min(stop, self.stop)
            parts.append(self._piece[start - self.start : until - self.start])
            start = until
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _advance(self, path: SourcePath) -> None:
        self._piece = None  # free it before the next piece is decoded
        piece = next(self._pieces, None)
        if piece is None:
            raise InvalidSource(
                f"{path}: data end at row {self.stop}, expected more; "
                "the file has changed since it was opened"
            )
        self._piece = piece
        self.start, self.stop = self.stop, self.stop + len(piece)


class ColumnReader:
    """Thread-safe reads of one column by row range.

    Parameters
    ----------
    path : Path
        For messages.
    starts : ndarray of shape (groups + 1,), int64
        First row of each group; the last entry is the number of rows.
    pieces : callable
        ``pieces(group)`` decodes from that group's first row on.
    """

    def __init__(self, path: SourcePath, starts: np.ndarray, pieces: Pieces) -> None:
        self._path = path
        self._starts = starts
        self._pieces = pieces
        self._idle: list[_Cursor] = []
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows [start, stop), start < stop; the result may be a read-only view."""
        cursor = self._claim(start)
        rows = cursor.read(start, stop, self._path)  # if this raises, the cursor is dropped
        if stop < self._starts[-1]:
            with self._lock:
                self._idle.append(cursor)
                del self._idle[:-_CURSORS]
        return rows

    def release(self) -> None:
        """Drop all cursors, with their pieces and open files."""
        with self._lock:
            self._idle.clear()

    def _claim(self, start: int) -> _Cursor:
        """Take the nearest cursor before ``start``; make one if a whole group lies between."""
        group = int(np.searchsorted(self._starts, start, "right")) - 1
        first = int(self._starts[group])
        with self._lock:
            usable = [c for c in self._idle if c.start <= start and c.stop >= first]
            if usable:
                nearest = max(usable, key=lambda cursor: cursor.start)
                self._idle.remove(nearest)
                return nearest
        return _Cursor(self._pieces(group), first)
