"""One search of a coordinator: which lists, which servers, and what they found, merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric as IndexMetric
from teravec.kernels.sketch import CANDIDATE, Candidates
from teravec.search.bounded import steps_of_lists
from teravec.search.stages import nearest_in_two_stages
from teravec.serving.coordinator.rounds import ListRound, RefineRound, Round, SketchRound
from teravec.serving.coordinator.rows import ServerRows
from teravec.serving.coordinator.servers import AskedServers, Servers
from teravec.serving.coordinator.shares import Pairs, PlacePairs
from teravec.serving.server.filtered import ServedWaves, nearest_under_filter
from teravec.serving.server.merging import Part, merged, together
from teravec.serving.server.pieces import LARGE_RESULTS, AnswerPieces, row_pieces
from teravec.serving.server.rows import BoundedRows, add_columns, chosen_columns
from teravec.serving.server.served import ServedIndex
from teravec.serving.server.two_stages import put_together
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted

__all__ = ["CoordinatedSearch"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_PIECE_RESULTS = LARGE_RESULTS // 4  # of all servers' answers to a piece of a request


class CoordinatedSearch:
    """One request, searched in pieces: some queries at a time, in bounded memory.

    Parameters
    ----------
    by : Servers
    index : ServedIndex
        A version, of which no list is here.
    request : SearchRequest
        For at most as many results as there are vectors.
    deadline : Deadline
    """

    def __init__(
        self, by: Servers, index: ServedIndex, request: SearchRequest, deadline: Deadline
    ) -> None:
        self._by, self._index, self._request, self._deadline = by, index, request, deadline
        self._servers = AskedServers(by, index, deadline, request.allow_partial)
        self._visited = np.zeros(index.nlist, np.bool_)

    def answer(self) -> Answer:
        """Answer all queries, or raise Unavailable if lists without an owner may not be missing."""
        columns = self._request.columns
        names = None if columns is None else chosen_columns(self._index, columns)
        if self._request.filter is not None:
            self._index.check_filter(self._request.filter)
        if self._request.filter is not None and self._request.wanted.k is not None:
            answer = self._under_filter()
        else:
            answer = self._nearest_lists()
        if names is None:
            return answer
        rows = ServerRows(self._servers)
        reader = BoundedRows(rows, self._by.limits, self._deadline.check)
        lists, vectors = np.flatnonzero(self._visited), bool(self._request.vectors)
        return add_columns(answer, reader, names, lists, vectors=vectors)

    def _nearest_lists(self) -> Answer:
        request, index, limits = self._request, self._index, self._by.limits
        queries, wanted = request.queries, request.wanted
        effort = index.effort_of(request, limits)
        rows = index.rows_at_a_time(effort.nprobe, wanted, request.candidates)
        if wanted.k is not None:
            rows = min(rows, self._rows_of_results(wanted.k))
        with index.pieces(len(queries), wanted, self._deadline, limits) as pieces:
            for start in range(0, len(queries), rows):
                chosen = index.nearest_lists(queries[start : start + rows], effort)
                if request.columns is not None:
                    self._visited[chosen[1][chosen[1] >= 0]] = True
                if wanted.k is None:
                    self._add_within(pieces, *chosen)
                else:
                    pieces.add(self._nearest(*chosen))
            return pieces.answer(self._servers.missing)

    def _rows_of_results(self, k: int) -> int:
        """Return the queries of a piece: all servers' results are bounded."""
        if self._index.two_stages:
            k = self._index.candidates_kept(k, self._request.candidates)
        servers = max(1, len(self._by.fleet.owners(self._index.version)))
        return max(1, _PIECE_RESULTS // (k * servers))

    def _under_filter(self) -> Answer:
        request, index, servers = self._request, self._index, self._servers
        assert request.filter is not None
        counts = servers.passing_counts(request.filter)
        waves = ServedWaves(index, counts, servers.sizes, self, self._by.limits)
        limits, visit = self._by.limits, self._visit
        answer = nearest_under_filter(index, waves, request, self._deadline, limits, visit)
        return replace(answer, missing=servers.missing)

    def _visit(self, list_nos: Int64) -> None:
        self._visited[list_nos] = True

    def scan(
        self, prepared: Float32, list_nos: Int64, distances: Float32, k: int, most: int | None
    ) -> Answer:
        """See ``FilteredLists``."""
        rows = self._rows_of_results(k)
        wanted = Wanted(k=k)
        with self._index.pieces(len(prepared), wanted, self._deadline, self._by.limits) as pieces:
            for start in range(0, len(prepared), rows):
                part = slice(start, start + rows)
                pieces.add(self._nearest(prepared[part], list_nos[part], distances[part]))
            return pieces.answer()

    def _nearest(self, prepared: Float32, list_nos: Int64, distances: Float32) -> Answer:
        pairs = self._pairs(list_nos, distances)
        if self._index.two_stages:
            answer, left = self._in_two_rounds(prepared, pairs)
        else:
            answer, left = self._at_once(prepared, pairs)
        self._servers.count(pairs, left)
        return answer

    def _add_within(
        self, pieces: AnswerPieces, prepared: Float32, list_nos: Int64, distances: Float32
    ) -> None:
        """Append results within a radius, scanning few enough codes at a time for memory."""

        def found(rows: slice, list_nos: Int64) -> Answer:
            pairs = self._pairs(list_nos, distances[rows])
            answer, left = self._at_once(prepared[rows], pairs)
            self._servers.count(pairs, left)
            return answer

        sizes = self._servers.sizes
        codes = np.where(list_nos >= 0, sizes[list_nos], 0).sum(axis=1)
        for rows in row_pieces(codes, LARGE_RESULTS):
            if int(codes[rows].sum()) <= LARGE_RESULTS:
                pieces.add(found(rows, list_nos[rows]))
                continue
            steps = steps_of_lists(list_nos[rows], sizes, LARGE_RESULTS)
            pieces.add_of_one((found(rows, step) for _, step in steps), self._index.metric)

    def _pairs(self, list_nos: Int64, distances: Float32) -> Pairs:
        return Pairs.of(list_nos, distances, self._servers.sizes, self._index.row_bytes)

    def _at_once(self, prepared: Float32, pairs: Pairs) -> tuple[Answer, list[Pairs]]:
        """Return the answer, and pairs that no live server could search."""
        index, wanted, filter = self._index, self._request.wanted, self._request.filter
        larger = index.larger_is_closer
        round = ListRound(index.version, prepared, wanted, larger, filter)
        parts, left = self._servers.ask(round, pairs)
        return merged(parts, len(prepared), wanted, larger, index.version), left

    def _in_two_rounds(self, prepared: Float32, pairs: Pairs) -> tuple[Answer, list[Pairs]]:
        """Search as ``_at_once`` does, in two stages: find candidates, then refine the best."""
        index, request = self._index, self._request
        assert request.wanted.k is not None
        kept = index.candidates_kept(request.wanted.k, request.candidates)
        most_bytes = self._by.steps.candidate_bytes
        stages = _ServersStages(index, prepared, pairs, request, self._servers.ask, most_bytes)
        best = nearest_in_two_stages(stages, request.wanted.k, kept)
        return Answer.of_top_k(index.version, *best), stages.left


@dataclass(frozen=True)
class _ServersStages:
    """Runs both stages on the servers that own the lists; see ``Stages``.

    Parameters
    ----------
    index : ServedIndex
    prepared : ndarray of shape (nq, d_index), float32
    pairs : Pairs
    request : SearchRequest
    ask : callable
        Runs one round for some pairs; returns the servers' answers, and pairs without a server.
    candidate_bytes : int
        Candidates of all queries that are asked for at a time.
    left : list of Pairs
        All pairs that no live server could search.
    """

    index: ServedIndex
    prepared: Float32
    pairs: Pairs
    request: SearchRequest
    ask: Callable[[Round, Pairs], tuple[list[Part], list[Pairs]]]
    candidate_bytes: int
    left: list[Pairs] = field(default_factory=list)

    @property
    def ntotal(self) -> int:
        return self.index.manifest.ntotal

    @property
    def metric(self) -> IndexMetric:
        return self.index.metric

    @property
    def _head(self) -> tuple[str, Float32, Wanted, bool]:
        index = self.index
        return index.version, self.prepared, self.request.wanted, index.larger_is_closer

    def scan(self, capacity: int) -> Iterator[Candidates]:
        """Yield candidates, few enough queries at a time for memory to hold all servers' ones."""
        nq, pairs = len(self.prepared), self.pairs
        rows = max(1, self.candidate_bytes // (CANDIDATE.itemsize * capacity))
        for start in range(0, nq, rows):
            mine = np.flatnonzero((pairs.rows >= start) & (pairs.rows < start + rows))
            filter = self.request.filter
            round = SketchRound(*self._head, filter, self.index.lists_of, capacity)
            parts, unowned = self.ask(round, pairs.only(mine))
            self.left.extend(unowned)
            shifted = [Part(part.rows - start, part.answer) for part in parts]
            yield put_together(shifted, min(rows, nq - start), capacity)

    def refine(self, owners: Int64, places: Int64) -> tuple[Int64, Float32, Int64]:
        """Return the k best of each server; add lists lost since the scan to ``left``."""
        list_nos = self.index.lists_of(places)
        wished = PlacePairs.of_places(owners, places, list_nos, self.index.row_bytes)
        parts, unowned = self.ask(RefineRound(*self._head), wished)
        pairs = self.pairs
        for lost in unowned:
            rows = np.flatnonzero(np.isin(pairs.list_nos, lost.list_nos))
            self.left.append(pairs.only(rows))
        return together(parts)
