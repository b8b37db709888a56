"""Searching the lists that this machine has."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import Metric

from teravec.errors import InvalidArgument, TeravecError, Unavailable
from teravec.index.columns import IndexColumns
from teravec.index.versions import VersionProbe
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.search.rows import OpenRows
from teravec.serving.server.damage import Damage
from teravec.serving.server.gauges import gauge
from teravec.serving.server.local_search import LocalSearch
from teravec.serving.server.rows import BoundedRows, answer_get
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
from teravec.storage.layout import IndexPaths, absolute_place
from teravec.storage.places import Place

__all__ = ["LocalLists"]

log = logging.getLogger(__name__)

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
            return LocalSearch(index, request, deadline, self._limits).answer()

    def search_lists(self, request: ListRequest, deadline: Deadline) -> Answer:
        """Search lists that a coordinator chose."""
        with self._damage.noted(), self.versions.using(request.version) as index:
            form = request.filter
            passing = None if form is None else index.passing(form, deadline)
            wanted = request.queries, *request.table()
            if request.candidates is not None:
                most = request.candidates
                return index.sketch_lists(*wanted, most, deadline, self._limits, passing)
            kind = request.wanted
            return index.search_lists(*wanted, kind, deadline, self._limits, passing=passing)

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

    def count(self, request: CountRequest, deadline: Deadline) -> Answer:
        """Count the rows of owned lists that pass a filter."""
        with self._damage.noted(), self.versions.using(request.version) as index:
            list_nos = request.list_nos.astype(np.int64)
            index.check_owned(list_nos)
            counts = index.passing(request.filter, deadline).list_counts[list_nos]
            return Answer.of_numbers(index.version, list_nos << PLACE_BITS | counts)

    def find(self, request: FindRequest, deadline: Deadline) -> Answer:
        """Find rows by id among owned lists."""
        with self._damage.noted(), self.versions.using(request.version) as index:
            list_nos = request.list_nos.astype(np.int64)
            index.check_owned(list_nos)
            places = OpenRows(index.steps, deadline.check).find(request.row_ids, list_nos)
            return Answer.of_numbers(index.version, places)

    def take(self, request: TakeRequest, deadline: Deadline) -> Answer:
        """Read rows of owned lists."""
        with self._damage.noted(), self.versions.using(request.version) as index:
            index.check_places(request.places)
            names = IndexColumns(index.steps.opened).check(request.columns)
            reader = BoundedRows(OpenRows(index.steps), self._limits, deadline.check)
            table = reader.take(request.places, names, vectors=request.vectors)
            return replace(Answer.of_numbers(index.version, request.places), table=table)

    def get(self, request: GetRequest, deadline: Deadline) -> Answer:
        """Return rows by id; only a server of all lists can do that alone."""
        with self._damage.noted(), self.versions.using(request.version) as index:
            if not index.owned.all() and not request.allow_partial:
                raise Unavailable(
                    f"this server has lists {ranges_text(index.ranges)} of {index.nlist:,} only; "
                    "ask a coordinator, or allow a partial answer"
                )
            rows = OpenRows(index.steps, deadline.check)
            answer = answer_get(index, BoundedRows(rows, self._limits, deadline.check), request)
            return replace(answer, missing=float(1 - index.owned.mean()))

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


def _named(index: ServedIndex) -> tuple[str, int]:
    return index.version, index.number
