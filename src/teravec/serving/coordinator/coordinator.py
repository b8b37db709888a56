"""The coordinator chooses lists, has servers search them, and merges the results.

It needs the index's manifest, model and calibration, but no slice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import Metric

from teravec.errors import InvalidArgument, TeravecError, Unavailable
from teravec.index.manifest import read_manifest
from teravec.index.versions import VersionProbe
from teravec.kernels.metric import Metric as IndexMetric
from teravec.kernels.sketch import CANDIDATE, Candidates
from teravec.search.bounded import steps_of_lists
from teravec.search.stages import nearest_in_two_stages
from teravec.serving.coordinator.fanout import FanOut, wait_for_owners
from teravec.serving.coordinator.fleet import Fleet
from teravec.serving.coordinator.replicas import State
from teravec.serving.coordinator.rounds import ListRound, RefineRound, Round, SketchRound
from teravec.serving.coordinator.shares import Pairs, PlacePairs
from teravec.serving.server.gauges import gauge, server_gauges
from teravec.serving.server.merging import Part, merged, together
from teravec.serving.server.metrics import Metrics
from teravec.serving.server.pieces import LARGE_RESULTS, AnswerPieces, row_pieces
from teravec.serving.server.search_costs import SearchCosts
from teravec.serving.server.served import Ranges, ServedIndex, version_beside, version_within
from teravec.serving.server.step_sizes import USUAL_STEPS, StepSizes
from teravec.serving.server.two_stages import put_together
from teravec.serving.server.versions import Versions
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer, ListRequest, RefineRequest, SearchRequest, Wanted
from teravec.serving.wire.tracing import find_tracing
from teravec.storage.layout import IndexPaths, absolute_place, resolved_place
from teravec.storage.places import Place

__all__ = ["Coordinator"]

log = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


_LATE_S = 5.0  # for which a version waits for servers before a later one takes its place
_PIECE_RESULTS = LARGE_RESULTS // 4  # of all servers' answers to a piece of a request


class Coordinator:
    """Answers requests through servers.

    Parameters
    ----------
    path : Place
        Index directory with manifest and model.
    fleet : Fleet
        Closed with the coordinator.
    limits : Limits
    metrics : Metrics
    memory_bytes, threads : int, optional
    steps : StepSizes
    """

    def __init__(
        self,
        path: Place,
        fleet: Fleet,
        limits: Limits,
        metrics: Metrics,
        *,
        memory_bytes: int | None = None,
        threads: int | None = None,
        steps: StepSizes = USUAL_STEPS,
    ) -> None:
        self._path, self.fleet, self.steps = absolute_place(path), fleet, steps
        self.limits, self.metrics = limits, metrics
        self._memory_bytes, self._threads = memory_bytes, threads
        self._costs, self.tracing = SearchCosts(), find_tracing()
        self._lock = threading.RLock()  # `_forget` takes it again when a version closes
        self._next: ServedIndex | None = None  # waits for servers that have it
        # An earlier version closes with its last search, or a while after one that named it.
        self.versions = Versions(self._open(), idle_s=0.0, closed=self._forget)
        self._probe = VersionProbe(IndexPaths(self.versions.current.path))
        self._next_since_s = 0.0
        fleet.start(self._go_over)

    def _open(self, path: Place | None = None) -> ServedIndex:
        index = ServedIndex(path or self._path, (), self._memory_bytes, self._threads)
        self._costs.watch(index.stats)
        self._have_served(index)
        return index

    def _have_served(self, index: ServedIndex) -> None:
        """Ask servers to have a version."""
        manifest = index.manifest
        mean_size = manifest.ntotal / manifest.nlist
        self.fleet.want(index.version, manifest.nlist, mean_size, index.name)

    def _at_version(self, number: int) -> ServedIndex:
        """Open another version of the index, and ask servers to have it."""
        index = self.versions.current.at_version(number, beside_bytes=self.versions.beside_bytes)
        self._costs.watch(index.stats)
        self._have_served(index)
        return index

    def search(self, request: SearchRequest, deadline: Deadline) -> Answer:
        """Answer queries, exactly as one machine would if every list has a live owner."""
        with self.versions.using(request.version, keep_s=request.keep_s) as index:
            return _Search(self, index, index.within_ntotal(request), deadline).answer()

    def describe_missing(self, left: list[Pairs], missing: float) -> str:
        """Name the lists without a live owner, for an error."""
        list_nos = np.unique(np.concatenate([p.list_nos for p in left]))
        return (
            f"{len(list_nos):,} lists of {list_nos[0]} to {list_nos[-1]}, {100 * missing:.2f} % of "
            f"the bytes to scan, have no live owner ({self.fleet.why_missing()}); "
            "allow a partial answer to go without"
        )

    def search_lists(self, request: ListRequest, deadline: Deadline) -> Answer:
        """Refuse: only the owners of lists search them."""
        raise InvalidArgument("this is a coordinator; it searches queries, not lists")

    def refine(self, request: RefineRequest, deadline: Deadline) -> Answer:
        """Refuse, as ``search_lists``."""
        raise InvalidArgument("this is a coordinator; it searches queries, not lists")

    def list_sizes(self, index: ServedIndex) -> tuple[npt.NDArray[np.int64], Ranges]:
        """Return the vectors of each list, and the ranges of lists: all of them."""
        return self.fleet.list_sizes(index.version), ((0, index.nlist),)

    def why_not_ready(self, *, partial: bool = False) -> str | None:
        """Return None if every list has a live owner; with ``partial``, if any list has one."""
        covered = self.fleet.covered(self.versions.current.version)
        if covered == 1.0 or (partial and covered > 0):
            return None
        return (
            f"{100 * (1 - covered):.2f} % of the lists have no live owner "
            f"({self.fleet.why_missing()})"
        )

    def statistics(self) -> dict[str, Any]:
        """Return state and load of the servers."""
        waiting = self._next
        return {
            "servers": self.fleet.describe(),
            "covered": self.fleet.covered(self.versions.current.version),
            "one_owner": self.fleet.at_risk(self.versions.current.version),
            "next_version": None if waiting is None else waiting.version,
        }

    def want(self, versions: dict[str, str]) -> None:
        """Do nothing: requests to a coordinator name no version."""

    def gauges(self) -> Iterable[Metric]:
        """Yield the states of the servers, and the shares of lists with owners."""
        version = self.versions.current.version
        yield from server_gauges(self.fleet.describe(), State)
        yield gauge(
            "lists_covered_ratio",
            "Share of the lists that have an owner to ask.",
            self.fleet.covered(version),
        )
        yield gauge(
            "lists_one_owner_ratio",
            "Share of the lists that have an owner, but not two live ones.",
            self.fleet.at_risk(version),
        )
        yield gauge(
            "next_version_waiting",
            "Whether a version waits for servers that have it.",
            self._next is not None,
        )
        yield from self._costs.gauges()

    def reload(self) -> str:
        """Open the directory's index; switch to it when every list has an owner."""
        index = self._open()
        with self._lock:
            unused, self._next = self._next, index
            self._next_since_s = time.monotonic()
            self._probe = VersionProbe(IndexPaths(index.path))
        if unused is not None:
            unused.close()
        self._go_over()
        return index.version

    def follow(self) -> None:
        """Open the index's newest version if there is a newer one; go over when servers have it.

        While one waits for servers, a later one waits as well: else none would ever be ready where
        versions come quickly. It is given up for a later one if servers do not get it.
        """
        with self._lock:
            current, waiting = self.versions.current, self._next
            if waiting is not None:
                if waiting.path != current.path or not self._is_late():
                    return
                current = waiting
            number = self._probe.find_newer(current.number)
            if number is None or not self.versions.has_room():
                return
            index = self._at_version(number)
            self._next, self._next_since_s = index, time.monotonic()
        if waiting is not None:
            waiting.close()
        self._go_over()

    def _is_late(self) -> bool:
        return time.monotonic() - self._next_since_s > _LATE_S

    def _go_over(self) -> None:
        """Switch to the next version if its lists have at least as many owners as the current."""
        with self._lock:
            index = self._next or self._look_beside()
            if index is None:
                return
            current = self.versions.current.version
            if index.version == current:  # it finds the same
                if index.number > self.versions.current.number:  # with another calibration
                    self._switch(index)
                else:
                    index.close()
                    self._next = None
                return
            covered, now_covered = self.fleet.covered(index.version), self.fleet.covered(current)
            if covered < 1.0 and covered <= now_covered:
                self._next = index
                return
            ours = index.path == resolved_place(self._path)
            if now_covered == 1.0 and not ours:  # the current version has its owners again
                index.close()
                self._next = None
                self._forget()
                return
            self._switch(index)
            if not ours:
                self._next = self._open()  # as soon as servers have it

    def _switch(self, index: ServedIndex) -> None:
        self._next = None
        self.versions.replace(index)
        what = index.manifest.what
        log.info("serving version %d (%s): %s", index.number, index.version, what)

    def _look_beside(self) -> ServedIndex | None:
        """Open another version if servers have all of it, and ours lacks owners.

        Its directory must lie beside ours. This happens while servers restart one by one with a
        new version, or if this coordinator restarted before them.
        """
        if self.fleet.covered(self.versions.current.version) == 1.0:
            return None
        for version, (name, ranges) in self.fleet.others().items():
            try:
                if (index := self._open_version(version, name, ranges)) is not None:
                    return index
            except TeravecError as error:
                log.error("version %s of %s cannot be opened: %s", version, name, error)
        return None

    def _open_version(self, version: str, name: str, ranges: Ranges) -> ServedIndex | None:
        """Open a version that servers have, of this index or of one beside; None without all."""
        current = self.versions.current
        number = version_within(current.path, version)
        path = current.path if number is not None else version_beside(self._path, version, name)
        if path is None:
            return None
        owned = np.zeros(read_manifest(IndexPaths(path), number).nlist, bool)
        for start, stop in ranges:
            owned[start:stop] = True
        if not owned.all():
            return None
        if number is None:
            return self._open(path)
        return self._at_version(number)

    def _forget(self) -> None:
        """Want only the versions that are open here."""
        with self._lock:
            waiting = [] if self._next is None else [self._next]
            self.fleet.forget({i.version for i in (*self.versions.open, *waiting)})

    def close(self) -> None:
        """Close connections and the index."""
        self.fleet.close()
        if self._next is not None:
            self._next.close()
        self.versions.close()


class _Search:
    """One request, searched in pieces: some queries at a time, in bounded memory."""

    def __init__(
        self, by: Coordinator, index: ServedIndex, request: SearchRequest, deadline: Deadline
    ) -> None:
        self._by, self._index, self._request, self._deadline = by, index, request, deadline
        self._sizes = by.fleet.list_sizes(index.version)
        self._wait_until_s = wait_for_owners(deadline)
        self._scanned_bytes = self._left_bytes = 0
        self._left: list[Pairs] = []

    def answer(self) -> Answer:
        """Answer all queries, or raise Unavailable if lists without an owner may not be missing."""
        request, index, limits = self._request, self._index, self._by.limits
        queries, wanted = request.queries, request.wanted
        effort = index.effort_of(request, limits)
        rows = self._rows_at_a_time(effort.nprobe)
        with index.pieces(len(queries), wanted, self._deadline, limits) as pieces:
            for start in range(0, len(queries), rows):
                chosen = index.nearest_lists(queries[start : start + rows], effort)
                if wanted.k is None:
                    self._add_within(pieces, *chosen)
                else:
                    pieces.add(self._nearest(*chosen))
            return pieces.answer(self._left_bytes / max(1, self._scanned_bytes))

    def _rows_at_a_time(self, nprobe: int) -> int:
        """Return the queries of a piece: their lists and all servers' results are bounded."""
        wanted, candidates = self._request.wanted, self._request.candidates
        rows = self._index.rows_at_a_time(nprobe, wanted, candidates)
        if wanted.k is None:
            return rows
        kept = wanted.k
        if self._index.two_stages:
            kept = self._index.candidates_kept(wanted.k, candidates)
        servers = max(1, len(self._by.fleet.owners(self._index.version)))
        return max(1, min(rows, _PIECE_RESULTS // (kept * servers)))

    def _nearest(self, prepared: Float32, list_nos: Int64, distances: Float32) -> Answer:
        pairs = self._pairs(list_nos, distances)
        if self._index.two_stages:
            answer, left = self._in_two_rounds(prepared, pairs)
        else:
            answer, left = self._at_once(prepared, pairs)
        self._count(pairs, left)
        return answer

    def _add_within(
        self, pieces: AnswerPieces, prepared: Float32, list_nos: Int64, distances: Float32
    ) -> None:
        """Append results within a radius, scanning few enough codes at a time for memory."""

        def found(rows: slice, list_nos: Int64) -> Answer:
            pairs = self._pairs(list_nos, distances[rows])
            answer, left = self._at_once(prepared[rows], pairs)
            self._count(pairs, left)
            return answer

        codes = np.where(list_nos >= 0, self._sizes[list_nos], 0).sum(axis=1)
        for rows in row_pieces(codes, LARGE_RESULTS):
            if int(codes[rows].sum()) <= LARGE_RESULTS:
                pieces.add(found(rows, list_nos[rows]))
                continue
            steps = steps_of_lists(list_nos[rows], self._sizes, LARGE_RESULTS)
            pieces.add_of_one((found(rows, step) for _, step in steps), self._index.metric)

    def _pairs(self, list_nos: Int64, distances: Float32) -> Pairs:
        return Pairs.of(list_nos, distances, self._sizes, self._index.row_bytes)

    def _count(self, pairs: Pairs, left: list[Pairs]) -> None:
        """Add up the missing bytes; raise Unavailable unless partial answers are allowed."""
        self._scanned_bytes += pairs.total_bytes
        self._left_bytes += sum(p.total_bytes for p in left)
        self._left += left
        if left and not self._request.allow_partial:
            missing = self._left_bytes / max(1, self._scanned_bytes)
            raise Unavailable(self._by.describe_missing(self._left, missing))

    def _at_once(self, prepared: Float32, pairs: Pairs) -> tuple[Answer, list[Pairs]]:
        """Return the answer, and pairs that no live server could search."""
        index, wanted = self._index, self._request.wanted
        larger = index.larger_is_closer
        parts, left = self._ask(ListRound(index.version, prepared, wanted, larger), pairs)
        return merged(parts, len(prepared), wanted, larger, index.version), left

    def _in_two_rounds(self, prepared: Float32, pairs: Pairs) -> tuple[Answer, list[Pairs]]:
        """Search as ``_at_once`` does, in two stages: find candidates, then refine the best."""
        index, request = self._index, self._request
        assert request.wanted.k is not None
        kept = index.candidates_kept(request.wanted.k, request.candidates)
        most_bytes = self._by.steps.candidate_bytes
        stages = _ServersStages(index, prepared, pairs, request, self._ask, most_bytes)
        best = nearest_in_two_stages(stages, request.wanted.k, kept)
        return Answer.of_top_k(index.version, *best), stages.left

    def _ask(self, round: Round, pairs: Pairs) -> tuple[list[Part], list[Pairs]]:
        by = self._by
        fan_out = FanOut(
            by.fleet, by.metrics, round, self._deadline, self._wait_until_s, by.tracing
        )
        return fan_out.search(pairs)


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
            round = SketchRound(*self._head, self.index.lists_of, capacity)
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
