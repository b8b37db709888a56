"""The coordinator chooses lists, has servers search them, and merges the results.

It needs the index's manifest, model and calibration, but no slice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import Metric

from teravec.errors import InvalidArgument, TeravecError
from teravec.index.manifest import read_manifest
from teravec.index.versions import VersionProbe
from teravec.serving.coordinator.fleet import Fleet
from teravec.serving.coordinator.replicas import State
from teravec.serving.coordinator.rows import ServerRows
from teravec.serving.coordinator.searching import CoordinatedSearch
from teravec.serving.coordinator.servers import AskedServers, FilterCounts, Servers
from teravec.serving.server.gauges import gauge, server_gauges
from teravec.serving.server.metrics import Metrics
from teravec.serving.server.rows import BoundedRows, answer_get
from teravec.serving.server.search_costs import SearchCosts
from teravec.serving.server.served import Ranges, ServedIndex, version_beside, version_within
from teravec.serving.server.step_sizes import USUAL_STEPS, StepSizes
from teravec.serving.server.versions import Versions
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import (
    Answer,
    CountRequest,
    FindRequest,
    GetRequest,
    ListRequest,
    RefineRequest,
    SearchRequest,
    TakeRequest,
)
from teravec.serving.wire.tracing import find_tracing
from teravec.storage.layout import IndexPaths, absolute_place, resolved_place
from teravec.storage.places import Place

__all__ = ["Coordinator"]

log = logging.getLogger(__name__)

Int64 = npt.NDArray[np.int64]

_LATE_S = 5.0  # for which a version waits for servers before a later one takes its place


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
        self._path, self.fleet, self.limits = absolute_place(path), fleet, limits
        self._memory_bytes, self._threads = memory_bytes, threads
        self._costs = SearchCosts()
        self._lock = threading.RLock()  # `_forget` takes it again when a version closes
        self._next: ServedIndex | None = None  # waits for servers that have it
        # An earlier version closes with its last search, or a while after one that named it.
        self.versions = Versions(self._open(), idle_s=0.0, closed=self._forget)
        self._probe = VersionProbe(IndexPaths(self.versions.current.path))
        self._next_since_s = 0.0
        counts = FilterCounts(self.versions.current.steps.shares.filters_bytes)
        self.servers = Servers(fleet, limits, metrics, steps, counts, find_tracing())
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
            return CoordinatedSearch(
                self.servers, index, index.within_ntotal(request), deadline
            ).answer()

    def get(self, request: GetRequest, deadline: Deadline) -> Answer:
        """Return rows by id, as one machine would if every list has a live owner."""
        with self.versions.using(request.version) as index:
            asked = AskedServers(self.servers, index, deadline, request.allow_partial)
            reader = BoundedRows(ServerRows(asked), self.limits, deadline.check)
            return replace(answer_get(index, reader, request), missing=asked.missing)

    def search_lists(self, request: ListRequest, deadline: Deadline) -> Answer:
        """Refuse: only the owners of lists search them."""
        raise InvalidArgument("this is a coordinator; it searches queries, not lists")

    def refine(self, request: RefineRequest, deadline: Deadline) -> Answer:
        """Refuse, as ``search_lists``."""
        raise InvalidArgument("this is a coordinator; it searches queries, not lists")

    def count(self, request: CountRequest, deadline: Deadline) -> Answer:
        """Refuse, as ``search_lists``."""
        raise InvalidArgument("this is a coordinator; it searches queries, not lists")

    def find(self, request: FindRequest, deadline: Deadline) -> Answer:
        """Refuse, as ``search_lists``."""
        raise InvalidArgument("this is a coordinator; it searches queries, not lists")

    def take(self, request: TakeRequest, deadline: Deadline) -> Answer:
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
