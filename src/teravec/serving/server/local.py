"""Searching the lists that this machine has."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import Metric

from teravec.errors import InvalidArgument, TeravecError, Unavailable
from teravec.index.versions import VersionProbe
from teravec.serving.server.damage import Damage
from teravec.serving.server.gauges import gauge
from teravec.serving.server.search_costs import SearchCosts
from teravec.serving.server.served import (
    Ranges,
    ServedIndex,
    ranges_text,
    slice_ranges,
    version_beside,
    version_within,
)
from teravec.serving.server.step_sizes import USUAL_STEPS, StepSizes
from teravec.serving.server.versions import IDLE_S, Versions
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer, ListRequest, RefineRequest, SearchRequest
from teravec.storage.layout import IndexPaths, absolute_place
from teravec.storage.places import Place

__all__ = ["LocalLists"]

log = logging.getLogger(__name__)

Chosen = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float32]]
_LOOK_AGAIN_S, _MOST_LOOKED_FOR = 5.0, 64


class LocalLists:
    """Answers from the files of this machine.

    Parameters
    ----------
    path : Place
        Index directory.
    limits : Limits
    ranges : tuple of (start, stop), optional
        Lists to own; all if neither these nor slices are given.
    slices : tuple of int, optional
        Slices whose lists to own.
    memory_bytes, threads : int, optional
    idle_s : float
        See ``Versions``.
    steps : StepSizes
    """

    def __init__(
        self,
        path: Place,
        limits: Limits,
        *,
        ranges: Ranges | None = None,
        slices: tuple[int, ...] | None = None,
        memory_bytes: int | None = None,
        threads: int | None = None,
        idle_s: float = IDLE_S,
        steps: StepSizes = USUAL_STEPS,
    ) -> None:
        if ranges is not None and slices is not None:
            raise InvalidArgument("lists and slices given; one of them expected")
        self._path, self._limits = absolute_place(path), limits
        self._ranges, self._slices = ranges, slices
        self._memory_bytes, self._threads, self._steps = memory_bytes, threads, steps
        self._reloading, self._damage = threading.Lock(), Damage()
        self._costs = SearchCosts()
        self._looked_for: dict[str, float] = {}  # when, by version
        self._looking = threading.Lock()
        self.versions = Versions(self._open(), idle_s=idle_s)
        self._probe = VersionProbe(IndexPaths(self.versions.current.path))

    @property
    def looked_for(self) -> int:
        """Versions that are remembered as looked for in vain, a bounded number."""
        return len(self._looked_for)

    def _open(self, path: Place | None = None) -> ServedIndex:
        path = path or self._path
        ranges = self._ranges
        if self._slices is not None:
            ranges = slice_ranges(path, self._slices)
        index = ServedIndex(path, ranges, self._memory_bytes, self._threads, self._steps)
        self._costs.watch(index.stats)
        return index

    def _at_version(self, number: int) -> ServedIndex:
        index = self.versions.current.at_version(number, beside_bytes=self.versions.beside_bytes)
        self._costs.watch(index.stats)
        return index

    def search(self, request: SearchRequest, deadline: Deadline) -> Answer:
        """Choose lists and search them; only the whole index can do that alone."""
        with (
            self._damage.noted(),
            self.versions.using(request.version, keep_s=request.keep_s) as index,
        ):
            request = index.within_ntotal(request)
            queries, wanted, candidates = request.queries, request.wanted, request.candidates
            effort = index.effort_of(request, self._limits)
            index.check_k(wanted)
            rows = index.rows_at_a_time(effort.nprobe, wanted, candidates)
            all_lists = left_out = 0
            with index.pieces(len(queries), wanted, deadline, self._limits) as pieces:
                for start in range(0, len(queries), rows):
                    some = index.nearest_lists(queries[start : start + rows], effort)
                    if not index.owned.all():
                        some, visited, others = _owned(index, some, request.allow_partial)
                        all_lists, left_out = all_lists + visited, left_out + others
                    index.add_piece(pieces, *some, wanted, deadline, candidates)
                return pieces.answer(left_out / max(1, all_lists))

    def search_lists(self, request: ListRequest, deadline: Deadline) -> Answer:
        """Search lists that a coordinator chose."""
        with self._damage.noted(), self.versions.using(request.version) as index:
            list_nos, distances = request.table()
            if request.candidates is not None:
                return index.sketch_lists(
                    request.queries, list_nos, distances, request.candidates, deadline, self._limits
                )
            return index.search_lists(
                request.queries, list_nos, distances, request.wanted, deadline, self._limits
            )

    def refine(self, request: RefineRequest, deadline: Deadline) -> Answer:
        """Compare queries with vectors that a coordinator chose."""
        with self._damage.noted(), self.versions.using(request.version) as index:
            return index.refine(
                request.queries,
                request.counts,
                request.places,
                request.wanted,
                deadline,
                self._limits,
            )

    def list_sizes(self, index: ServedIndex) -> tuple[npt.NDArray[np.int64], Ranges]:
        """Vectors of each list, 0 where it is not owned, and the ranges that are."""
        return index.sizes, index.ranges

    def why_not_ready(self, *, partial: bool = False) -> str | None:
        """None: what was opened is ready."""
        return None

    def statistics(self) -> dict[str, Any]:
        """Damage that searches met."""
        return self._damage.describe()

    def gauges(self) -> Iterable[Metric]:
        """Damage that searches met, and memory of what is kept."""
        yield gauge(
            "damaged_lists",
            "Damaged lists, pages and files met since the last reload.",
            len(self._damage),
        )
        yield gauge(
            "cached_bytes",
            "Bytes of lists and finer codes that are kept in memory.",
            sum(index.cached_bytes for index in self.versions.open),
        )
        yield from self._costs.gauges()

    def reload(self) -> str:
        """Open the directory's index again; return its version, and serve it if it is another.

        The same version takes the place of one that is damaged: its files may be repaired.

        Raises
        ------
        TeravecError
            It cannot be opened; what was served goes on.
        """
        with self._reloading:
            index = self._open()
            same = _named(index) == _named(self.versions.current)
            if same and not len(self._damage):
                index.close()
            else:
                self.versions.replace(index)
                self._probe = VersionProbe(IndexPaths(index.path))
                self._damage.forget()
                self._looked_for.clear()
                log.info("serving version %s", index.version)
            return self.versions.current.version

    def follow(self) -> None:
        """Go over to the index's newest version, if there is a newer one.

        Raises
        ------
        TeravecError
            It cannot be opened; what was served goes on.
        """
        with self._reloading:
            current = self.versions.current
            number = self._probe.find_newer(current.number)
            if number is None or not self.versions.has_room():
                return
            index = self._at_version(number)
            self.versions.replace(index)
            log.info("serving version %d (%s): %s", number, index.version, index.manifest.what)

    def want(self, versions: dict[str, str]) -> None:
        """Serve versions that coordinators make requests for, by name of their directories.

        One that is not open is opened, if it lies beside this server's index: a server that was
        restarted after the index's path had moved on serves what its coordinators still want.
        """
        missing, now_s = self.versions.want(versions), time.monotonic()
        for version in missing:
            if now_s - self._looked_for.get(version, -math.inf) < _LOOK_AGAIN_S:
                continue
            if not self._looking.acquire(blocking=False):
                return  # one at a time, whatever callers name; polls come again
            if len(self._looked_for) >= _MOST_LOOKED_FOR:
                self._looked_for.clear()
            self._looked_for[version] = now_s
            opening = threading.Thread(
                target=self._open_beside,
                args=(version, versions[version]),
                name="teravec-previous",
                daemon=True,
            )
            opening.start()

    def _open_beside(self, version: str, name: str) -> None:
        try:
            with self._reloading:
                if not self.versions.has_room():
                    self._looked_for.pop(version, None)  # a later poll may find room
                    return
                index = self._open_version(version, name)
                if index is None:
                    return
                if index.version == version and self.versions.add(index):
                    self._looked_for.pop(version, None)
                    log.info(
                        "serving version %d (%s) of %s too, which a coordinator wants",
                        index.number,
                        version,
                        index.path,
                    )
                else:
                    index.close()
        except TeravecError as error:
            log.error("version %s, which a coordinator wants, cannot be opened: %s", version, error)
        finally:
            self._looking.release()

    def _open_version(self, version: str, name: str) -> ServedIndex | None:
        """Open another version of the index, or one whose directory lies beside."""
        current = self.versions.current
        number = version_within(current.path, version)
        if number is not None:
            return self._at_version(number)
        path = version_beside(self._path, version, name)
        return None if path is None or len(self.versions.open) > 1 else self._open(path)

    def close(self) -> None:
        """Close the index."""
        self.versions.close()


def _owned(index: ServedIndex, chosen: Chosen, allow_partial: bool) -> tuple[Chosen, int, int]:
    """Leave out lists that are not owned; return the rest, and the counts of lists and of those.

    Raises
    ------
    Unavailable
        Some are not owned, and a partial answer is not allowed.
    """
    prepared, list_nos, distances = chosen
    owned = (list_nos >= 0) & index.owned[list_nos]
    visited, left_out = int((list_nos >= 0).sum()), int((list_nos >= 0).sum() - owned.sum())
    if left_out and not allow_partial:
        raise Unavailable(
            f"this server has lists {ranges_text(index.ranges)} of {index.nlist:,} only; ask a "
            "coordinator, or allow a partial answer"
        )
    return (prepared, np.where(owned, list_nos, -1), distances), visited, left_out


def _named(index: ServedIndex) -> tuple[str, int]:
    return index.version, index.number
