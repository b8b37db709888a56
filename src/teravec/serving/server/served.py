"""An index as a server holds it: one version, open for the lists that the server owns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, OtherIndex, TeravecError
from teravec.index.manifest import Manifest, list_versions, read_manifest
from teravec.index.opened import OPEN_END
from teravec.kernels.metric import Metric
from teravec.kernels.sketch import Candidates
from teravec.memory import default_memory
from teravec.search.bounded import steps_of_lists
from teravec.search.candidates import best_k
from teravec.search.effort import Effort
from teravec.search.filtered import FilteredEffort
from teravec.search.filtering import find_passing_rows
from teravec.search.index import Index, open_index
from teravec.search.options import SearchOptions
from teravec.search.passing import PassingRows, bind_filter
from teravec.search.request import check_places
from teravec.search.stages import nearest_in_two_stages
from teravec.search.steps import SearchSteps
from teravec.serving.server.budget import release_memory
from teravec.serving.server.merging import Part, merged
from teravec.serving.server.pieces import LARGE_RESULTS, AnswerPieces, row_pieces
from teravec.serving.server.step_sizes import USUAL_STEPS, StepSizes
from teravec.serving.server.two_stages import of_candidates, put_together
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.filter_form import FilterForm, read_form
from teravec.serving.wire.harder import read_harder
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted
from teravec.storage.jsonfile import json_checksum
from teravec.storage.layout import IndexPaths, resolved_place
from teravec.storage.listfile import ID_BYTES
from teravec.storage.places import Place

__all__ = [
    "Ranges",
    "ServedIndex",
    "close_end",
    "index_version",
    "ranges_text",
    "slice_ranges",
    "version_beside",
    "version_within",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Ranges = tuple[tuple[int, int], ...]


_LATEST = 32  # versions among which one is looked for by what it finds
_BATCHES_AT_A_TIME = 2  # a large one, and a small one that need not wait
_OWN_LIST_BYTES = 24  # numbers of runs, and sizes of lists
_ANY_K = 10  # where a radius is asked for, no k counts


def index_version(manifest: Manifest) -> str:
    """Name what an index finds: a checksum of its model's, segments' and delete sets' seals."""
    slices = [[list(s.lists), s.checksum] for s in manifest.segments]
    content: dict[str, Any] = {"model": manifest.model, "slices": slices}
    if manifest.number:
        content["sequences"] = [[list(s.sequences), s.id_base] for s in manifest.segments]
        content["deletes"] = [[entry.checksum, entry.sequence] for entry in manifest.deletes]
    return json_checksum(content)


def slice_ranges(path: Place, numbers: Sequence[int]) -> Ranges:
    """The lists of some slices, as few ranges.

    Raises
    ------
    InvalidArgument
        A slice that the index does not have, or has been named twice.
    """
    manifest = read_manifest(IndexPaths(path))
    slices = manifest.layers[0]
    if not set(numbers) <= set(range(len(slices))) or len(set(numbers)) != len(numbers):
        raise InvalidArgument(f"slices {list(numbers)} asked for; the index has {len(slices)}")
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        start, stop = slices[number].lists
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, OPEN_END if stop == manifest.nlist else stop))
    return tuple(ranges)


def version_beside(path: Place, version: str, name: str) -> Path | None:
    """The directory of another version, ``name``, beside the one that ``path`` leads to.

    None where there is none of that name and version. The name may come from a stranger: it is
    one part of a path, and the version must be right.
    """
    if not isinstance(path, Path):  # servers of an object store read the same address
        return None
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        return None
    beside = path.resolve().parent / name
    try:
        found = index_version(read_manifest(IndexPaths(beside)))
    except (TeravecError, UnicodeEncodeError):  # the latter: no name of a file here
        return None
    return beside if found == version else None


def version_within(path: Place, version: str) -> int | None:
    """The number of a version of the index at ``path``; None if none of the latest is that one."""
    try:
        paths = IndexPaths(path)
        for number in reversed((list_versions(paths) or [0])[-_LATEST:]):
            if index_version(read_manifest(paths, number)) == version:
                return number
    except TeravecError:  # as one that was removed meanwhile
        return None
    return None


class ServedIndex:
    """One version of an index, open for some ranges of lists.

    Parameters
    ----------
    path : Place
        Index directory; only the slices that hold these lists need be there.
    ranges : tuple of (start, stop), optional
        Lists owned; all if not given, and none if empty: what a coordinator needs.
    memory_bytes : int, optional
        Shared by all ranges, which have one model and one cache.
    threads : int, optional
    steps : StepSizes
    opened : Index, optional
        What is to be served, if it is open already; see ``at_version``.

    Attributes
    ----------
    version : str
        Names what the index finds: see ``index_version``.
    ranges : tuple of (start, stop)
    sizes : ndarray of shape (nlist,), int64
        Vectors of each list that is owned, 0 for others.
    stats : SearchStats
        What its searches cost.
    """

    def __init__(
        self,
        path: Place,
        ranges: Ranges | None = None,
        memory_bytes: int | None = None,
        threads: int | None = None,
        steps: StepSizes = USUAL_STEPS,
        opened: Index | None = None,
    ) -> None:
        self._options = ranges, memory_bytes, threads, steps
        self._step_bytes = steps.scanned_bytes
        # A link may be moved on while we open.
        self.path = resolved_place(path)
        if opened is None:
            memory = memory_bytes or default_memory()
            lists = ranges if ranges is None else ranges or (0, 0)
            opened = open_index(self.path, memory=memory, threads=threads, lists=lists)
        self._index = opened
        self.version = index_version(self._index.manifest)
        self.ranges = ((0, self.nlist),) if ranges is None else close_end(ranges, self.nlist)
        self.stats = self._index.stats
        self.owned = np.zeros(self.nlist, bool)
        for start, stop in self.ranges:
            self.owned[start:stop] = True
        self.sizes = np.where(self.owned, self._index.list_sizes, 0)

    def at_version(self, number: int | None = None, *, beside_bytes: int = 0) -> ServedIndex:
        """Open another version of the index, the newest if not given: see ``Index.at_version``."""
        opened = self._index.at_version(number, beside_bytes=beside_bytes)
        return ServedIndex(self.path, *self._options, opened)

    def shares_with(self, other: ServedIndex) -> bool:
        """Whether the two have caches together."""
        return self._index.caches.shared_with(other._index.caches)

    @property
    def name(self) -> str:
        """The last part of the index's path or address."""
        return self._index.where.rpartition("/")[2]

    @property
    def is_closed(self) -> bool:
        """Whether it was closed: then it searches no more."""
        return self._index.is_closed

    @property
    def manifest(self) -> Manifest:
        """The index's manifest."""
        return self._index.manifest

    @property
    def number(self) -> int:
        """The version's number; 0 for the build."""
        return self._index.version

    @property
    def nlist(self) -> int:
        """Lists of the whole index."""
        return self._index.nlist

    @property
    def d(self) -> int:
        """Dimensions of queries."""
        return self._index.d

    @property
    def larger_is_closer(self) -> bool:
        """True for similarities (ip, cosine)."""
        return self.manifest.metric != "l2"

    @property
    def metric(self) -> Metric:
        """The metric of its distances."""
        return Metric(self.manifest.metric)

    @property
    def two_stages(self) -> bool:
        """Whether codes have two stages."""
        return self._index.two_stages

    def candidates_kept(self, k: int, candidates: int | None) -> int:
        """See ``Index.candidates_kept``."""
        return self._index.steps.candidates_kept(k, candidates)

    def lists_of(self, places: Int64) -> Int64:
        """Return the list of each place, (n,)."""
        return self._index.steps.lists_of(places)

    @property
    def steps(self) -> SearchSteps:
        """The steps of its searches."""
        return self._index.steps

    @property
    def copies_of_an_id(self) -> int:
        """Most vectors that have the same id."""
        return self._index.copies_of_an_id

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector in a list: code and id."""
        return self.manifest.code_size + ID_BYTES

    def check_k(self, wanted: Wanted) -> None:
        """Raise InvalidArgument where more results are wanted than there are vectors."""
        if wanted.k is not None and wanted.k > max(1, self.manifest.ntotal):
            raise InvalidArgument(
                f"k is {wanted.k}; 1 to {self.manifest.ntotal:,} (ntotal) expected"
            )

    def within_ntotal(self, request: SearchRequest) -> SearchRequest:
        """The request for as many results as there are vectors, where it asks for more."""
        k = request.wanted.k
        most = max(1, self.manifest.ntotal)
        if k is None or k <= most:
            return request
        return replace(request, wanted=Wanted(k=most))

    def effort_of(self, request: SearchRequest, limits: Limits) -> Effort:
        """Return the effort that a request asks for.

        Raises
        ------
        InvalidArgument
            Queries of another dimension; a recall that was not calibrated.
        LimitExceeded
            The recall asked for visits more lists than a request may.
        """
        self._check_dimensions(request)
        queries, wanted = request.queries, request.wanted
        effort = self.effort(
            SearchOptions(
                wanted.k, wanted.radius, request.nprobe, request.recall, request.candidates
            )
        )
        if request.prune:
            effort = replace(effort, prune=request.prune)
        if request.harder is not None:
            usual, hardness = read_harder(request.harder)
            effort = replace(effort, usual=min(usual, effort.nprobe), hardness=hardness)
        limits.check_nprobe(len(queries), effort.typical)
        return effort

    def _check_dimensions(self, request: SearchRequest) -> None:
        shape = request.queries.shape
        if shape[1] != self.d:
            raise InvalidArgument(f"queries of shape {shape} found, (nq, {self.d}) expected")

    def filtered_effort_of(self, request: SearchRequest) -> FilteredEffort:
        """Return the effort that a request of the k nearest under a filter asks for.

        Raises as ``effort_of``.
        """
        self._check_dimensions(request)
        assert request.wanted.k is not None
        asked = request.nprobe, request.recall, request.wanted.k, request.candidates
        return self.steps.efforts.filtered(*asked)

    def passing(self, form: FilterForm, deadline: Deadline) -> PassingRows:
        """Find which rows of the owned lists pass a filter; the deadline may end the work."""
        return find_passing_rows(self.steps, read_form(form), deadline.check)

    def check_filter(self, form: FilterForm) -> None:
        """Raise InvalidFilter if a filter does not fit the columns."""
        bind_filter(self.steps.opened, read_form(form))

    def nearest_lists(self, queries: Float32, effort: Effort) -> tuple[Float32, Int64, Float32]:
        """Prepared queries, and the lists that each should visit: see ``Index.nearest_lists``."""
        return self._index.steps.nearest_lists(queries, effort)

    def rows_at_a_time(self, nprobe: int, wanted: Wanted, candidates: int | None = None) -> int:
        """Queries of a piece: memory holds those of all batches that may run at a time."""
        if self.two_stages and wanted.k is not None:
            candidates = self.candidates_kept(wanted.k, candidates)
        else:
            candidates = None
        return self.share_of_rows(self._index.batch_rows(nprobe, wanted.k or 0, candidates))

    @staticmethod
    def share_of_rows(rows: int) -> int:
        """Queries of one batch, of those that memory holds of all batches that run at a time."""
        return max(1, rows // _BATCHES_AT_A_TIME)

    def effort(self, options: SearchOptions) -> Effort:
        """The effort that these options take: see ``Index.effort``."""
        return self._index.effort(
            options.nprobe,
            options.recall,
            k=options.k or _ANY_K,
            radius=options.radius,
            candidates=options.candidates,
        )

    def search_lists(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        wanted: Wanted,
        deadline: Deadline,
        limits: Limits,
        candidates: int | None = None,
        passing: PassingRows | None = None,
    ) -> Answer:
        """Search lists chosen for each query, -1 for none; all must be owned.

        Work goes by queries in pieces, and by ranges of lists within a piece, so that memory is
        bounded, and a deadline that is over stops the search soon.
        """
        self.check_k(wanted)
        rows = self.rows_at_a_time(list_nos.shape[1], wanted, candidates)
        with self.pieces(len(prepared), wanted, deadline, limits) as pieces:
            for start in range(0, len(prepared), rows):
                piece = slice(start, start + rows)
                chosen = prepared[piece], list_nos[piece], distances[piece]
                self.add_piece(pieces, *chosen, wanted, deadline, candidates, passing)
            return pieces.answer()

    def pieces(self, nq: int, wanted: Wanted, deadline: Deadline, limits: Limits) -> AnswerPieces:
        """Make the place where the pieces of an answer to ``nq`` queries are put together."""
        most = limits.results if wanted.k is None else nq * wanted.k
        return AnswerPieces(self.version, most, limits, deadline, unknown=wanted.k is None)

    def add_piece(
        self,
        pieces: AnswerPieces,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        wanted: Wanted,
        deadline: Deadline,
        candidates: int | None = None,
        passing: PassingRows | None = None,
    ) -> None:
        """Search for some queries, and append their results; only rows that pass, if given."""
        chosen = prepared, list_nos, distances
        if wanted.radius is not None:
            self._add_within(pieces, *chosen, wanted.radius, deadline, passing)
            return
        assert wanted.k is not None
        if self.two_stages:
            stages = _OwnedStages(self, *chosen, deadline, passing)
            kept = self.candidates_kept(wanted.k, candidates)
            best = nearest_in_two_stages(stages, wanted.k, kept)
            pieces.add(Answer.of_top_k(self.version, *best))
            return
        parts: list[Part] = []
        for rows, step in self._row_steps(prepared, list_nos, distances, deadline):
            parts.append(Part(rows, self._search(*step, wanted.k, passing)))
            if len(parts) > 1:  # never many results of one query at a time
                parts = [Part(np.arange(len(prepared)), self._merged(parts, prepared, wanted))]
        pieces.add(self._merged(parts, prepared, wanted))

    def _search(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        k: int,
        passing: PassingRows | None,
    ) -> Answer:
        chosen = prepared, list_nos, distances
        found = self._index.steps.search_lists(*chosen, k, passing=passing)
        return Answer.of_top_k(self.version, *found)

    def _merged(self, parts: list[Part], prepared: Float32, wanted: Wanted) -> Answer:
        return merged(parts, len(prepared), wanted, self.larger_is_closer, self.version)

    def _add_within(
        self,
        pieces: AnswerPieces,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        radius: float,
        deadline: Deadline,
        passing: PassingRows | None,
    ) -> None:
        """Search within a radius, so few codes at a time that memory would hold all of them."""

        def found(rows: slice | Int64, list_nos: Int64) -> Answer:
            deadline.check()
            wanted = prepared[rows], list_nos, np.ascontiguousarray(distances[rows])
            lims, values, ids = self._index.steps.range_search_lists(*wanted, radius, passing)
            return Answer(self.version, np.diff(lims).astype(np.uint32), values, ids)

        self.check_owned(list_nos[list_nos >= 0])
        codes = np.where(list_nos >= 0, self.sizes[list_nos], 0).sum(axis=1)
        for rows in row_pieces(codes, LARGE_RESULTS):
            if int(codes[rows].sum()) <= LARGE_RESULTS:
                pieces.add(found(rows, list_nos[rows]))
                continue
            steps = steps_of_lists(list_nos[rows], self.sizes, LARGE_RESULTS)
            pieces.add_of_one((found(rows, step) for _, step in steps), self.metric)

    def sketch_lists(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        candidates: int,
        deadline: Deadline,
        limits: Limits,
        passing: PassingRows | None = None,
    ) -> Answer:
        """As ``search_lists``, the first of two stages alone: candidates, by their estimates."""
        kept = min(candidates, self.manifest.ntotal)
        rows = self.rows_at_a_time(list_nos.shape[1], Wanted(k=kept), kept)
        with AnswerPieces(self.version, len(prepared) * kept, limits, deadline) as pieces:
            for start in range(0, len(prepared), rows):
                piece = slice(start, start + rows)
                chosen = prepared[piece], list_nos[piece], distances[piece]
                found = self.sketched(*chosen, kept, deadline, passing)
                pieces.add(of_candidates(self.version, found))
            return pieces.answer()

    def refine(
        self,
        prepared: Float32,
        counts: npt.NDArray[np.uint32],
        places: Int64,
        wanted: Wanted,
        deadline: Deadline,
        limits: Limits,
    ) -> Answer:
        """The second of two stages alone: the k best of ``counts`` vectors of each query."""
        self.check_k(wanted)
        assert wanted.k is not None
        self.check_owned(self.lists_of(places))
        weights = counts.astype(np.int64) + wanted.k
        ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        with self.pieces(len(prepared), wanted, deadline, limits) as pieces:
            for rows in row_pieces(weights, LARGE_RESULTS):
                mine = slice(int(ends[rows.start]), int(ends[rows.stop]))
                owners = np.repeat(np.arange(rows.stop - rows.start), counts[rows])
                found = self.refined(prepared[rows], owners, places[mine], deadline)
                best = best_k(rows.stop - rows.start, wanted.k, owners, *found, self.metric)
                pieces.add(Answer.of_top_k(self.version, *best))
            return pieces.answer()

    def sketched(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        kept: int,
        deadline: Deadline,
        passing: PassingRows | None,
    ) -> Candidates:
        """Candidates of all lists wanted, which must be owned."""
        parts: list[Part] = []
        for rows, step in self._row_steps(prepared, list_nos, distances, deadline):
            found = self._index.steps.sketch_lists(*step, kept, passing)
            if step[1] is list_nos:  # all in one step
                return found
            parts.append(Part(rows, of_candidates(self.version, found)))
            if len(parts) > 1:
                found = put_together(parts, len(prepared), kept)
                everyone = np.arange(len(prepared))
                parts = [Part(everyone, of_candidates(self.version, found))]
        return put_together(parts, len(prepared), kept)

    def refined(
        self, prepared: Float32, owners: Int64, places: Int64, deadline: Deadline
    ) -> tuple[Float32, Int64]:
        """Distances to the finer codes at owned places, and ids."""
        deadline.check()
        return self._index.steps.refine(prepared, owners, places)

    def _row_steps(
        self, prepared: Float32, list_nos: Int64, distances: Float32, deadline: Deadline
    ) -> Iterator[tuple[Int64, tuple[Float32, Int64, Float32]]]:
        """Rows of queries that want lists of a step, and what the step searches."""
        for mine in self._steps(list_nos):
            deadline.check()
            if mine is list_nos:  # all in one step
                yield np.arange(len(prepared)), (prepared, mine, distances)
                return
            rows = np.flatnonzero((mine >= 0).any(axis=1))
            if len(rows) == len(prepared):
                yield rows, (prepared, mine, distances)
            elif len(rows):
                yield rows, (prepared[rows], mine[rows], distances[rows])

    def _steps(self, list_nos: Int64) -> Iterator[Int64]:
        """Lists of each step, of shape (nq, width)."""
        wanted = list_nos[list_nos >= 0]
        self.check_owned(wanted)
        scanned = self.sizes[wanted] * self.row_bytes
        if int(scanned.sum()) <= self._step_bytes:
            yield list_nos
            return
        order = np.argsort(wanted, kind="stable")
        wanted, until = wanted[order], np.cumsum(scanned[order])
        targets = np.arange(self._step_bytes, int(until[-1]), self._step_bytes)
        cuts = np.unique([0, *(wanted[np.searchsorted(until, targets)] + 1).tolist(), self.nlist])
        for low, high in pairwise(cuts.tolist()):
            yield np.where((list_nos >= low) & (list_nos < high), list_nos, -1)

    def check_places(self, places: Int64) -> None:
        """Raise OtherIndex, or InvalidArgument, unless there are rows at places of owned lists."""
        self.check_owned(self.lists_of(places))
        check_places(places, self.steps.opened)

    def check_owned(self, wanted: Int64) -> None:
        """Raise OtherIndex unless all lists (n,) are owned."""
        strange = wanted[wanted >= self.nlist]
        if not len(strange):
            strange = wanted[~self.owned[wanted]]
        if len(strange):
            raise OtherIndex(
                f"list {strange[0]} asked for; this server has lists {ranges_text(self.ranges)}"
            )

    @property
    def model_bytes(self) -> int:
        """Memory that it holds without any cache."""
        return self._index.caches.model_bytes

    @property
    def own_bytes(self) -> int:
        """Memory of tables that versions with shared caches have each for themselves."""
        return _OWN_LIST_BYTES * self.nlist * len(self.manifest.layers)

    @property
    def cached_bytes(self) -> int:
        """Memory of the lists and finer codes that are kept."""
        return self._index.caches.kept_bytes

    def hold_back(self, size: int) -> None:
        """Keep so many bytes less than memory allows: see ``IndexCaches.hold_back``."""
        self._index.caches.hold_back(size)

    def release_caches(self) -> None:
        """Give up what is kept, and its memory, for good."""
        self._index.caches.release()
        release_memory()

    def close(self) -> None:
        """Close the index."""
        self._index.close()
        release_memory()


@dataclass(frozen=True)
class _OwnedStages:
    """Both stages among lists that a server owns; see ``Stages``."""

    index: ServedIndex
    prepared: Float32
    list_nos: Int64
    distances: Float32
    deadline: Deadline
    passing: PassingRows | None

    @property
    def ntotal(self) -> int:
        return self.index.manifest.ntotal

    @property
    def metric(self) -> Metric:
        return self.index.metric

    def scan(self, capacity: int) -> Iterator[Candidates]:
        chosen = self.prepared, self.list_nos, self.distances
        yield self.index.sketched(*chosen, capacity, self.deadline, self.passing)

    def refine(self, owners: Int64, places: Int64) -> tuple[Int64, Float32, Int64]:
        return owners, *self.index.refined(self.prepared, owners, places, self.deadline)


def close_end(ranges: Ranges, nlist: int) -> Ranges:
    """Return the ranges with nlist in place of an open end."""
    return tuple((start, nlist if stop == OPEN_END else stop) for start, stop in ranges)


def ranges_text(ranges: Ranges) -> str:
    """Ranges as users write them: 0:10,20:."""
    ends = (f"{start}:{'' if stop == OPEN_END else stop}" for start, stop in ranges)
    return ",".join(ends) or "none"
