"""Large answers, put together from pieces: some queries at a time, in bounded memory.

The arrays of the whole answer are the only ones of its size. What a piece takes beside them (its
lists, candidates, partial results) has a bound of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric
from teravec.search.ordering import order_of
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer

__all__ = ["LARGE_RESULTS", "AnswerPieces", "row_pieces"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

LARGE_RESULTS = 1 << 20
"""Most results of a piece. Answers within a radius that have more are gathered one at a time."""

_one_large = threading.Lock()


class AnswerPieces:
    """Gathers the answer to some queries, in order; a context manager.

    Parameters
    ----------
    version : str
    most : int
        Results that the whole answer has room for.
    limits : Limits
        Bound of the answer.
    deadline : Deadline
        For the wait until another large answer within a radius was gathered.
    unknown : bool
        The number of results is unknown until they are found, as within a radius: they do not
        count as waiting bytes meanwhile, so only one answer may grow large at a time.
    """

    def __init__(
        self, version: str, most: int, limits: Limits, deadline: Deadline, *, unknown: bool = False
    ) -> None:
        self._version, self._most, self._limits = version, most, limits
        self._deadline, self._unknown, self._holds_lock = deadline, unknown, False
        self._counts: list[npt.NDArray[np.uint32]] = []
        self._alone: Answer | None = None  # the only piece so far, which is not copied
        self._distances, self._ids = np.empty(0, np.float32), np.empty(0, np.int64)
        self._errors: Float32 | None = None
        self.results = 0

    def __enter__(self) -> AnswerPieces:
        return self

    def __exit__(self, *_: object) -> None:
        if self._holds_lock:
            _one_large.release()

    def add(self, piece: Answer) -> None:
        """Append the answer to the next queries; raises LimitExceeded if all is too large."""
        self._check(len(piece.ids))
        if not self._counts:
            self._alone = piece
            self.results = len(piece.ids)
        else:
            self._append(piece.distances, piece.ids, piece.errors)
        self._counts.append(piece.counts)

    def add_of_one(self, parts: Iterator[Answer], metric: Metric) -> None:
        """Append the answer to one query whose results come in parts, of other lists each."""
        first = self.results
        for part in parts:
            self._check(len(part.ids))
            self._append(part.distances, part.ids, None)
        distances, ids = self._distances[first : self.results], self._ids[first : self.results]
        order = order_of(distances, ids, metric)
        distances[:] = distances[order]
        ids[:] = ids[order]
        self._counts.append(np.array([self.results - first], np.uint32))

    def answer(self, missing: float = 0.0) -> Answer:
        """Return the whole answer."""
        counts = np.concatenate([np.empty(0, np.uint32), *self._counts])
        if self._alone is not None:
            whole = self._alone
            return Answer(self._version, counts, whole.distances, whole.ids, missing, whole.errors)
        errors = None if self._errors is None else self._errors[: self.results]
        return Answer(
            self._version,
            counts,
            self._distances[: self.results],
            self._ids[: self.results],
            missing,
            errors,
        )

    def _check(self, more: int) -> None:
        self._limits.check_results(self.results + more)
        if self._unknown and not self._holds_lock and self.results + more > LARGE_RESULTS:
            if not _one_large.acquire(timeout=self._deadline.left_s):
                self._deadline.check()
            else:
                self._holds_lock = True

    def _append(self, distances: Float32, ids: Int64, errors: Float32 | None) -> None:
        if not len(self._ids):
            self._make_room(errors is not None)
        start, self.results = self.results, self.results + len(ids)
        place = slice(start, self.results)
        self._distances[place], self._ids[place] = distances, ids
        if self._errors is not None:
            self._errors[place] = errors

    def _make_room(self, errors: bool) -> None:
        """Allocate for the most results; the system gives pages to those that are written."""
        self._distances = np.empty(self._most, np.float32)
        self._ids = np.empty(self._most, np.int64)
        self._errors = np.empty(self._most, np.float32) if errors else None
        if (first := self._alone) is not None:
            self._alone, self.results = None, 0
            self._append(first.distances, first.ids, first.errors)


def row_pieces(weights: Int64, most: int) -> Iterator[slice]:
    """Cut rows into pieces of consecutive ones whose weights add up to at most ``most``.

    A row that is heavier than that is a piece of its own.
    """
    ends = np.cumsum(weights)
    start, before = 0, 0
    while start < len(ends):
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, stop)
        start, before = stop, int(ends[stop - 1])
