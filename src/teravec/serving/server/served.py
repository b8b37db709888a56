"""An index as a server holds it: one version, open for the lists that the server owns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, OtherIndex, TeravecError
from teravec.index.manifest import Manifest, read_manifest
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.metric import Metric
from teravec.kernels.sketch import Candidates
from teravec.memory import default_memory
from teravec.search.candidates import best_k
from teravec.search.effort import Effort
from teravec.search.index import Index, open_index
from teravec.search.options import SearchOptions
from teravec.search.stages import nearest_in_two_stages
from teravec.search.stats import SearchStats
from teravec.serving.server.budget import release_memory
from teravec.serving.server.merging import Part, merged
from teravec.serving.server.two_stages import of_candidates, put_together
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted
from teravec.storage.jsonfile import json_checksum
from teravec.storage.layout import IndexPaths
from teravec.storage.listfile import ID_BYTES

__all__ = [
    "Ranges",
    "ServedIndex",
    "index_version",
    "ranges_text",
    "slice_ranges",
    "version_beside",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Ranges = tuple[tuple[int, int], ...]

# Scanned between two looks at the deadline: some 0.1 to 0.3 s of work on two processors.
_STEP_BYTES = 1 << 30
_ANY_K = 10  # where a radius is asked for, no k counts


def index_version(manifest: Manifest) -> str:
    """What names a version of an index: a checksum of its model's and its slices' seals."""
    slices = [[list(s.lists), s.checksum] for s in manifest.slices]
    return json_checksum({"model": manifest.model, "slices": slices})


def slice_ranges(path: Path, numbers: Sequence[int]) -> Ranges:
    """The lists of some slices, as few ranges.

    Raises
    ------
    InvalidArgument
        A slice that the index does not have, or has been named twice.
    """
    slices = read_manifest(IndexPaths(path)).slices
    if not set(numbers) <= set(range(len(slices))) or len(set(numbers)) != len(numbers):
        raise InvalidArgument(f"slices {list(numbers)} asked for; the index has {len(slices)}")
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        start, stop = slices[number].lists
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, stop))
    return tuple(ranges)


def version_beside(path: Path, version: str, name: str) -> Path | None:
    """The directory of another version, ``name``, beside the one that ``path`` leads to.

    None where there is none of that name and version. The name may come from a stranger: it is
    one part of a path, and the version must be right.
    """
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        return None
    beside = path.resolve().parent / name
    try:
        found = index_version(read_manifest(IndexPaths(beside)))
    except TeravecError:
        return None
    return beside if found == version else None


class ServedIndex:
    """One version of an index, open for some ranges of lists.

    Parameters
    ----------
    path : Path
        Index directory; only the slices that hold these lists need be there.
    ranges : tuple of (start, stop), optional
        Lists owned; all if not given, and none if empty: what a coordinator needs.
    memory_bytes : int, optional
        Shared by the ranges; each range that is apart holds the model for itself.
    threads : int, optional

    Attributes
    ----------
    version : str
    ranges : tuple of (start, stop)
    sizes : ndarray of shape (nlist,), int64
        Vectors of each list that is owned, 0 for others.
    mean_list_bytes : int
        Of all lists of the index.
    """

    def __init__(
        self,
        path: Path,
        ranges: Ranges | None = None,
        memory_bytes: int | None = None,
        threads: int | None = None,
    ) -> None:
        path = path.resolve()  # a link may be moved on while we open
        manifest = read_manifest(IndexPaths(path))
        self.path, self.version = path, index_version(manifest)
        self.ranges = ((0, manifest.nlist),) if ranges is None else ranges
        opened = self.ranges or ((0, 0),)
        memory = (memory_bytes or default_memory()) // len(opened)
        self._indexes: list[Index] = []
        try:
            for lists in opened:
                index = open_index(path, memory=memory, threads=threads, lists=lists)
                self._indexes.append(index)
        except BaseException:
            self.close()
            raise
        manifest = self.manifest
        self.mean_list_bytes = manifest.ntotal * self.row_bytes // max(1, manifest.nlist)
        self.owned = np.zeros(self.nlist, bool)
        self.sizes = np.zeros(self.nlist, np.int64)
        for (start, stop), index in zip(opened, self._indexes, strict=True):
            self.owned[start:stop] = True
            self.sizes[start:stop] = index.list_sizes[start:stop]

    @property
    def manifest(self) -> Manifest:
        """The index's manifest."""
        return self._indexes[0].manifest

    @property
    def nlist(self) -> int:
        """Lists of the whole index."""
        return self._indexes[0].nlist

    @property
    def d(self) -> int:
        """Dimensions of queries."""
        return self._indexes[0].d

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
        return self._indexes[0].two_stages

    def candidates_kept(self, k: int, candidates: int | None) -> int:
        """See ``Index.candidates_kept``."""
        return self._indexes[0].candidates_kept(k, candidates)

    @property
    def copies_of_an_id(self) -> int:
        """Most vectors that have the same id."""
        return self._indexes[0].copies_of_an_id

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector in a list: code and id."""
        return self.manifest.code_size + ID_BYTES

    def check_k(self, wanted: Wanted) -> None:
        """Raise InvalidArgument where more results are wanted than there are vectors."""
        if wanted.k is not None and wanted.k > self.manifest.ntotal:
            raise InvalidArgument(
                f"k is {wanted.k}; 1 to {self.manifest.ntotal:,} (ntotal) expected"
            )

    def within_ntotal(self, request: SearchRequest) -> SearchRequest:
        """The request for as many results as there are vectors, where it asks for more."""
        k = request.wanted.k
        if k is None or k <= self.manifest.ntotal:
            return request
        return replace(request, wanted=Wanted(k=self.manifest.ntotal))

    def nearest_lists(
        self, request: SearchRequest, limits: Limits
    ) -> tuple[Float32, Int64, Float32]:
        """Prepared queries, and the lists that each should visit: see ``Index.nearest_lists``.

        Raises
        ------
        InvalidArgument
            Queries of another dimension; a recall that was not calibrated.
        LimitExceeded
            The recall asked for visits more lists than a request may.
        """
        queries, wanted = request.queries, request.wanted
        if queries.shape[1] != self.d:
            raise InvalidArgument(
                f"queries of shape {queries.shape} found, (nq, {self.d}) expected"
            )
        effort = self.effort(
            SearchOptions(
                wanted.k, wanted.radius, request.nprobe, request.recall, request.candidates
            )
        )
        if request.prune:
            effort = replace(effort, prune=request.prune)
        limits.check_nprobe(len(queries), effort.nprobe)
        return self._indexes[0].nearest_lists(queries, effort)

    def effort(self, options: SearchOptions) -> Effort:
        """The effort that these options take: see ``Index.effort``."""
        return self._indexes[0].effort(
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
    ) -> Answer:
        """Search lists chosen for each query, -1 for none; all must be owned.

        Work goes by ranges of lists, so that each list is read once, and a deadline that is
        over stops it soon.
        """
        self.check_k(wanted)
        if self.two_stages and wanted.k is not None:
            stages = _OwnedStages(self, prepared, list_nos, distances, deadline)
            kept = self.candidates_kept(wanted.k, candidates)
            return Answer.of_top_k(self.version, *nearest_in_two_stages(stages, wanted.k, kept))
        parts: list[Part] = []
        results = 0
        for index, rows, step in self._row_steps(prepared, list_nos, distances, deadline):
            parts.append(Part(rows, self._search(index, *step, wanted)))
            results += len(parts[-1].answer.ids) if wanted.k is None else 0
            limits.check_results(results)
        return merged(parts, len(prepared), wanted, self.larger_is_closer, self.version)

    def sketch_lists(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        candidates: int,
        deadline: Deadline,
    ) -> Answer:
        """As ``search_lists``, the first of two stages alone: candidates, by their estimates."""
        kept = min(candidates, self.manifest.ntotal)
        return of_candidates(
            self.version, self.sketched(prepared, list_nos, distances, kept, deadline)
        )

    def refine(
        self,
        prepared: Float32,
        counts: npt.NDArray[np.uint32],
        places: Int64,
        wanted: Wanted,
        deadline: Deadline,
    ) -> Answer:
        """The second of two stages alone: the k best of ``counts`` vectors of each query."""
        self.check_k(wanted)
        assert wanted.k is not None
        self._check_owned(places >> PLACE_BITS)
        owners = np.repeat(np.arange(len(prepared)), counts)
        found = self.refined(prepared, owners, places, deadline)
        best = best_k(len(prepared), wanted.k, owners, *found, self.metric)
        return Answer.of_top_k(self.version, *best)

    def sketched(
        self, prepared: Float32, list_nos: Int64, distances: Float32, kept: int, deadline: Deadline
    ) -> Candidates:
        """Candidates of all lists wanted, which must be owned."""
        parts: list[Part] = []
        for index, rows, step in self._row_steps(prepared, list_nos, distances, deadline):
            found = index.sketch_lists(*step, kept)
            if step[1] is list_nos:  # all in one step
                return found
            parts.append(Part(rows, of_candidates(self.version, found)))
        return put_together(parts, len(prepared), kept)

    def refined(
        self, prepared: Float32, owners: Int64, places: Int64, deadline: Deadline
    ) -> tuple[Float32, Int64]:
        """Distances to the finer codes at owned places, and ids."""
        distances, ids = np.empty(len(places), np.float32), np.empty(len(places), np.int64)
        list_nos = places >> PLACE_BITS
        for (start, stop), index in zip(self.ranges, self._indexes, strict=False):
            deadline.check()
            mine = np.flatnonzero((list_nos >= start) & (list_nos < stop))
            distances[mine], ids[mine] = index.refine(prepared, owners[mine], places[mine])
        return distances, ids

    def _row_steps(
        self, prepared: Float32, list_nos: Int64, distances: Float32, deadline: Deadline
    ) -> Iterator[tuple[Index, Int64, tuple[Float32, Int64, Float32]]]:
        """An index, rows of queries that want lists of its step, and what it is to search."""
        for index, mine in self._steps(list_nos):
            deadline.check()
            if mine is list_nos:  # all in one step
                yield index, np.arange(len(prepared)), (prepared, mine, distances)
                return
            rows = np.flatnonzero((mine >= 0).any(axis=1))
            if len(rows) == len(prepared):
                yield index, rows, (prepared, mine, distances)
            elif len(rows):
                yield index, rows, (prepared[rows], mine[rows], distances[rows])

    def _steps(self, list_nos: Int64) -> Iterator[tuple[Index, Int64]]:
        """Lists of each step, of shape (nq, width), and the index that holds them."""
        wanted = list_nos[list_nos >= 0]
        self._check_owned(wanted)
        scanned = self.sizes[wanted] * self.row_bytes
        if len(self._indexes) == 1 and int(scanned.sum()) <= _STEP_BYTES:
            yield self._indexes[0], list_nos
            return
        order = np.argsort(wanted, kind="stable")
        wanted, until = wanted[order], np.cumsum(scanned[order])
        targets = np.arange(_STEP_BYTES, int(until[-1]) if len(until) else 0, _STEP_BYTES)
        cuts = wanted[np.searchsorted(until, targets)] + 1
        for (start, stop), index in zip(self.ranges, self._indexes, strict=False):
            inside = cuts[(cuts > start) & (cuts < stop)]
            for low, high in pairwise(np.unique([start, *inside.tolist(), stop]).tolist()):
                yield index, np.where((list_nos >= low) & (list_nos < high), list_nos, -1)

    def _check_owned(self, wanted: Int64) -> None:
        strange = wanted[wanted >= self.nlist]
        if not len(strange):
            strange = wanted[~self.owned[wanted]]
        if len(strange):
            raise OtherIndex(
                f"list {strange[0]} asked for; this server has lists {ranges_text(self.ranges)}"
            )

    def _search(
        self, index: Index, prepared: Float32, list_nos: Int64, distances: Float32, wanted: Wanted
    ) -> Answer:
        if wanted.k is not None:
            return Answer.of_top_k(
                self.version, *index.search_lists(prepared, list_nos, distances, wanted.k)
            )
        assert wanted.radius is not None
        lims, found, ids = index.range_search_lists(prepared, list_nos, distances, wanted.radius)
        return Answer(self.version, np.diff(lims).astype(np.uint32), found, ids)

    @property
    def stats(self) -> tuple[SearchStats, ...]:
        """What its searches cost, by range of lists; they go on counting."""
        return tuple(index.stats for index in self._indexes)

    @property
    def model_bytes(self) -> int:
        """Memory that it holds without any cache."""
        return sum(index.caches.model_bytes for index in self._indexes)

    @property
    def cached_bytes(self) -> int:
        """Memory of the lists and finer codes that are kept."""
        return sum(index.caches.kept_bytes for index in self._indexes)

    def hold_back(self, size: int) -> None:
        """Keep so many bytes less than memory allows: see ``IndexCaches.hold_back``."""
        for index in self._indexes:
            index.caches.hold_back(size // len(self._indexes))

    def release_caches(self) -> None:
        """Give up what is kept, and its memory, for good."""
        for index in self._indexes:
            index.caches.release()
        release_memory()

    def close(self) -> None:
        """Close the index."""
        for index in self._indexes:
            index.close()
        release_memory()


@dataclass(frozen=True)
class _OwnedStages:
    """Both stages among lists that a server owns; see ``Stages``."""

    index: ServedIndex
    prepared: Float32
    list_nos: Int64
    distances: Float32
    deadline: Deadline

    @property
    def ntotal(self) -> int:
        return self.index.manifest.ntotal

    @property
    def metric(self) -> Metric:
        return self.index.metric

    def scan(self, capacity: int) -> Iterator[Candidates]:
        yield self.index.sketched(
            self.prepared, self.list_nos, self.distances, capacity, self.deadline
        )

    def refine(self, owners: Int64, places: Int64) -> tuple[Int64, Float32, Int64]:
        return owners, *self.index.refined(self.prepared, owners, places, self.deadline)


def ranges_text(ranges: Ranges) -> str:
    """Ranges as users write them: 0:10,20:30."""
    return ",".join(f"{start}:{stop}" for start, stop in ranges) or "none"
