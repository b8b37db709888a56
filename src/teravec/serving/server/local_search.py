"""One search of the lists that this machine has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from teravec.errors import Unavailable
from teravec.search.passing import PassingRows
from teravec.search.rows import OpenRows
from teravec.serving.server.filtered import ServedWaves, nearest_under_filter
from teravec.serving.server.rows import BoundedRows, add_columns, chosen_columns
from teravec.serving.server.served import ServedIndex, ranges_text
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted

__all__ = ["LocalSearch"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Chosen = tuple[Float32, Int64, Float32]


class LocalSearch:
    """Chooses lists and searches them; only a server of all lists can do that alone.

    Parameters
    ----------
    index : ServedIndex
    request : SearchRequest
    deadline : Deadline
    limits : Limits
    """

    def __init__(
        self, index: ServedIndex, request: SearchRequest, deadline: Deadline, limits: Limits
    ) -> None:
        self._index, self._request = index, index.within_ntotal(request)
        self._deadline, self._limits = deadline, limits
        self._visited = np.zeros(index.nlist, np.bool_)

    def answer(self) -> Answer:
        """Answer the request."""
        columns, index = self._request.columns, self._index
        names = None if columns is None else chosen_columns(index, columns)
        if self._request.filter is not None and self._request.wanted.k is not None:
            answer = self._under_filter()
        else:
            answer = self._nearest_lists()
        if names is None:
            return answer
        rows = OpenRows(index.steps, self._deadline.check)
        reader = BoundedRows(rows, self._limits, self._deadline.check)
        lists, vectors = np.flatnonzero(self._visited), bool(self._request.vectors)
        return add_columns(answer, reader, names, lists, vectors=vectors)

    def _nearest_lists(self) -> Answer:
        index, request, deadline = self._index, self._request, self._deadline
        queries, wanted, candidates = request.queries, request.wanted, request.candidates
        effort = index.effort_of(request, self._limits)
        passing = None if request.filter is None else index.passing(request.filter, deadline)
        rows = index.rows_at_a_time(effort.nprobe, wanted, candidates)
        all_lists = left_out = 0
        with index.pieces(len(queries), wanted, deadline, self._limits) as pieces:
            for start in range(0, len(queries), rows):
                some = index.nearest_lists(queries[start : start + rows], effort)
                if not index.owned.all():
                    some, visited, others = self._owned(some)
                    all_lists, left_out = all_lists + visited, left_out + others
                if request.columns is not None:
                    self._visited[some[1][some[1] >= 0]] = True
                index.add_piece(pieces, *some, wanted, deadline, candidates, passing)
            return pieces.answer(left_out / max(1, all_lists))

    def _owned(self, chosen: Chosen) -> tuple[Chosen, int, int]:
        """Leave out lists that are not owned; return the rest, and counts of lists and of those.

        Raises
        ------
        Unavailable
            Some are not owned, and a partial answer is not allowed.
        """
        prepared, list_nos, distances = chosen
        owned = (list_nos >= 0) & self._index.owned[list_nos]
        visited = int((list_nos >= 0).sum())
        left_out = visited - int(owned.sum())
        if left_out:
            self._check_partial()
        return (prepared, np.where(owned, list_nos, -1), distances), visited, left_out

    def _check_partial(self) -> None:
        if not self._request.allow_partial:
            index = self._index
            raise Unavailable(
                f"this server has lists {ranges_text(index.ranges)} of {index.nlist:,} only; ask a "
                "coordinator, or allow a partial answer"
            )

    def _under_filter(self) -> Answer:
        index, request, deadline = self._index, self._request, self._deadline
        assert request.filter is not None
        if not index.owned.all():
            self._check_partial()
        passing = index.passing(request.filter, deadline)
        counts = np.where(index.owned, passing.list_counts, 0)
        scan = _Scan(index, passing, deadline, self._limits)
        waves = ServedWaves(index, counts, index.sizes, scan, self._limits)
        answer = nearest_under_filter(index, waves, request, deadline, self._limits, self._visit)
        return replace(answer, missing=float(1 - index.owned.mean()))

    def _visit(self, list_nos: Int64) -> None:
        self._visited[list_nos] = True


class _Scan:
    """Scans the lists that this machine has, for rows that pass; see ``FilteredLists``."""

    def __init__(
        self, index: ServedIndex, passing: PassingRows, deadline: Deadline, limits: Limits
    ) -> None:
        self._index, self._passing = index, passing
        self._deadline, self._limits = deadline, limits

    def scan(
        self, prepared: Float32, list_nos: Int64, distances: Float32, k: int, most: int | None
    ) -> Answer:
        return self._index.search_lists(
            prepared,
            list_nos,
            distances,
            Wanted(k=k),
            self._deadline,
            self._limits,
            most,
            self._passing,
        )
