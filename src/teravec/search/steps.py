"""The steps of a search of one open index: which lists, their vectors, the finer codes.

``Index`` takes them one after another. A search server and a coordinator take some each, for lists
that several servers share out; a calibration takes them with queries that are indexed themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import once
from teravec.errors import InvalidArgument
from teravec.index.opened import OpenedIndex
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.metric import Metric
from teravec.kernels.sketch import Candidates
from teravec.search.batch import Batch, BatchInWaves, SearchResources
from teravec.search.caches import IndexCaches
from teravec.search.candidates import candidates_kept
from teravec.search.decoding import decode_rows, take_codes, take_fine_codes
from teravec.search.effort import Effort
from teravec.search.efforts import Efforts
from teravec.search.finding import find_places
from teravec.search.lists import IndexLists
from teravec.search.memory_shares import MemoryShares
from teravec.search.passing import PassingRows, PassingRowsCache
from teravec.search.probing import choose_lists, prune_lists
from teravec.search.reader import ListReader
from teravec.search.refine import TwoStageBatch, TwoStages
from teravec.search.request import (
    check_lengths,
    check_places,
    check_wanted,
    checked_k,
    checked_radius,
    none_found,
    padded,
)
from teravec.search.stats import SearchStats

__all__ = ["SearchSteps"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
T = TypeVar("T")


class SearchSteps:
    """The steps of a search, for any number of threads.

    Parameters
    ----------
    opened : OpenedIndex
    shares : MemoryShares
    threads : int
    before : SearchSteps, optional
        Those of another version of the index, which ``may_share``: scanners, and what the caches
        hold of segments that both versions have. Both go on, and either may be closed first.

    Attributes
    ----------
    opened : OpenedIndex
    stats : SearchStats
        What all searches so far cost together.
    efforts : Efforts
    passing_rows : PassingRowsCache
        Rows that pass the filters of late.
    shares : MemoryShares
    batch_bytes : int
        Memory for the queries and results of a batch.
    caches : IndexCaches
    is_closed : bool
        Whether ``close`` was called: then every step raises InvalidArgument.
    """

    stats: SearchStats
    caches: IndexCaches
    _resources: SearchResources

    def __init__(
        self,
        opened: OpenedIndex,
        *,
        shares: MemoryShares,
        threads: int,
        before: SearchSteps | None = None,
    ) -> None:
        self.opened, self.shares, self.batch_bytes = opened, shares, shares.batch_bytes
        lists = IndexLists(opened, shares, None if before is None else before.caches.lists)
        self.ranges = opened.store.reader()
        if before is None:
            opened.model.make_ready()
            scanners = opened.model.scanner(), once(opened.model.faiss_scanner)
        else:
            scanners = before._resources.scanner, before._resources.range_scanner
        self._resources = SearchResources(opened, *scanners, lists, self.ranges, threads)
        self._two_stages: TwoStages | None = None
        if opened.fine:  # none where codes have one stage, or no lists are open
            self._two_stages = TwoStages.of(
                opened,
                self.ranges,
                shares,
                threads,
                lists.segment_keys,
                None if before is None else before._two_stages,
            )
        refiner = None if self._two_stages is None else self._two_stages.refiner
        self.caches = IndexCaches(opened.memory_bytes, lists, refiner)
        self.stats = SearchStats() if before is None else before.stats
        self.efforts = Efforts(opened)
        self.passing_rows = PassingRowsCache(opened, shares.filters_bytes)
        lists.hold_small(ListReader(opened, self.ranges, self.stats))
        self.is_closed = False
        self._all_open = opened.ranges == ((0, opened.model.nlist),)

    def may_share(self, opened: OpenedIndex, *, beside_bytes: int = 0) -> bool:
        """Whether steps of another version, with these as ``before``, may share their caches.

        Parameters
        ----------
        opened : OpenedIndex
            Opened with this version as ``before``.
        beside_bytes : int
            Tables of further versions that are open.

        Returns
        -------
        bool
            False if there is too little to share: another model, or more rows and tables than
            memory was set aside for.
        """
        same_model = opened.model is self.opened.model
        same_stages = bool(opened.fine) == (self._two_stages is not None)
        return same_model and same_stages and self.shares.fit(opened, beside_bytes=beside_bytes)

    def search(self, queries: Float32, k: int, effort: Effort) -> tuple[Float32, Int64]:
        """Take all steps for one batch of checked queries, and a k of at most ntotal, or 1."""
        wanted = self.nearest_lists(queries, effort)
        if not self._all_open:  # then some may be wanted that are not open
            return self.search_lists(*wanted, k, effort.candidates)
        return self._batch(*wanted, effort.candidates or self.efforts.candidates(k)).top_k(k)

    def prepare(self, queries: Float32) -> Float32:
        """Scale and transform checked queries (nq, d): (nq, d_index)."""
        self.check_open()
        model = self.opened.model
        prepared = model.prepare(queries)
        if model.metric is not Metric.COSINE:
            check_lengths(prepared, model.metric, model.centroids)
        return prepared

    def nearest_lists(self, queries: Float32, effort: Effort) -> tuple[Float32, Int64, Float32]:
        """Do a search's first step: prepare queries, and choose the lists that each visits.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), float32
        effort : Effort

        Returns
        -------
        prepared : ndarray of shape (nq, d_index), float32
            Scaled and transformed, as ``search_lists`` takes them.
        list_nos : ndarray of shape (nq, at most effort.nprobe), int64
            Best first; -1 where fewer lists are worth a visit.
        distances : ndarray of the same shape, float32
            Squared distance to the list's centroid (l2), or inner product with it.
        """
        started = time.perf_counter()
        model, prepared = self.opened.model, self.prepare(queries)
        if effort.hardness is not None and effort.usual is not None:
            list_nos, distances = choose_lists(
                self._nearest,
                prepared,
                model.metric,
                effort.hardness,
                usual=effort.usual,
                prune=effort.prune,
                most=effort.nprobe,
            )
        else:
            list_nos, distances = self._nearest(prepared, effort.nprobe)
            if effort.prune:
                list_nos, distances = prune_lists(
                    list_nos, distances, prepared, model.metric, effort.prune
                )
        self.stats.coarse_s += time.perf_counter() - started
        return prepared, list_nos, distances

    def _nearest(self, prepared: Float32, nprobe: int) -> tuple[Int64, Float32]:
        return self.opened.model.nearest_lists(prepared, nprobe, self._resources.threads)

    def search_lists(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        k: int,
        candidates: int | None = None,
        passing: PassingRows | None = None,
    ) -> tuple[Float32, Int64]:
        """Do a search's other steps: the k nearest of each query among lists chosen for it.

        Parameters
        ----------
        prepared, list_nos, distances
            As ``nearest_lists`` returns them. Lists in any order, distinct within a row; all
            within the lists that were opened.
        k : int
        candidates : int, optional
            As for ``search``.
        passing : PassingRows, optional
            Find only these rows.

        Returns
        -------
        distances : ndarray of shape (nq, k), float32, best first
        ids : ndarray of shape (nq, k), int64, -1 for none

        Raises
        ------
        InvalidArgument
            A list that was not opened, or shapes that do not fit.
        CorruptFile
        """
        k = checked_k(k)
        if not self.opened.ntotal:
            return padded(*none_found(len(prepared)), k, self.opened.model.metric.worst)
        if k > self.opened.ntotal:
            ntotal = self.opened.ntotal
            found = self.search_lists(prepared, list_nos, distances, ntotal, candidates, passing)
            return padded(*found, k, self.opened.model.metric.worst)
        most = candidates or self.efforts.candidates(k)
        return self._checked_batch(prepared, list_nos, distances, most, passing).top_k(k)

    @property
    def two_stages(self) -> bool:
        """Whether codes have two stages here."""
        return self._two_stages is not None

    def begin_waves(self, prepared: Float32, k: int, passing: PassingRows) -> BatchInWaves:
        """Begin a search of prepared queries for the k nearest of the rows that pass.

        Codes have one stage, and all lists are open.
        """
        self.check_open()
        return BatchInWaves(self._resources, prepared, k, self.stats, passing)

    def range_search_lists(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        radius: float,
        passing: PassingRows | None = None,
    ) -> tuple[Int64, Float32, Int64]:
        """All vectors within the radius among lists chosen for each query.

        Parameters as for ``search_lists``, returns as ``range_search``.
        """
        batch = self._checked_batch(prepared, list_nos, distances, passing=passing)
        return batch.within(checked_radius(radius))

    def sketch_lists(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        capacity: int,
        passing: PassingRows | None = None,
    ) -> Candidates:
        """The first of two stages alone, for lists that several indexes or servers share out.

        Parameters
        ----------
        prepared, list_nos, distances, passing
            As for ``search_lists``.
        capacity : int
            Candidates a query: `candidates_kept`, for the result of ``search_lists``.

        Raises
        ------
        InvalidArgument
            Codes of this index have one stage; or as ``search_lists``.
        """
        batch = self._checked_batch(prepared, list_nos, distances, passing=passing)
        return next(self._of_two_stages(batch).scan(capacity))

    def _of_two_stages(self, batch: Batch) -> TwoStageBatch:
        if not isinstance(batch, TwoStageBatch):
            raise InvalidArgument(f"codes of {self.opened.paths} have one stage, not two")
        return batch

    def refine(self, prepared: Float32, owners: Int64, places: Int64) -> tuple[Float32, Int64]:
        """The second of two stages alone: distances of queries to finer codes, and ids.

        Parameters
        ----------
        prepared : ndarray of shape (nq, d_index), float32
        owners, places : ndarray of shape (n,), int64
            Row of ``prepared``, and place of the vector as ``Candidates`` have it.

        Raises
        ------
        InvalidArgument
            A place that there is not, or that was not opened; codes of one stage.
        CorruptFile
        """
        self.check_open()
        if self._two_stages is None:
            raise InvalidArgument(f"codes of {self.opened.paths} have one stage, not two")
        started = time.perf_counter()
        check_places(places, self.opened)
        found = self._two_stages.refiner.distances(prepared, owners, places, self.stats)
        self.stats.refine_s += time.perf_counter() - started
        return found

    def search_beside_own(
        self, queries: Float32, k: int, effort: Effort, own: Int64
    ) -> tuple[Float32, Int64]:
        """Do as ``search_at`` with codes in two stages, if no query were among the vectors.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), float32
        k : int
        effort : Effort
        own : ndarray of shape (nq,), int64
            The id of each query's own vector, which is left out.
        """
        most = effort.candidates or self.efforts.candidates(k)
        kept = self.candidates_kept(k, effort.candidates)
        # Candidates with the query's own vector, and without it.
        row_bytes = self.row_bytes(effort.nprobe, k, 2 * (kept + 1))
        rows = max(1, self.batch_bytes // row_bytes)
        parts = []
        for start in range(0, len(queries), rows):
            wanted = self.nearest_lists(queries[start : start + rows], effort)
            batch = self._of_two_stages(self._checked_batch(*wanted, most))
            parts.append(batch.top_k(k, own[start : start + rows]))
        distances, ids = (np.concatenate(part) for part in zip(*parts, strict=True))
        return distances, ids

    def candidates_kept(self, k: int, candidates: int | None = None) -> int:
        """Candidates that such a search of the k nearest keeps for a query, in its first stage."""
        return candidates_kept(k, candidates or self.efforts.candidates(k), self.opened.ntotal)

    def row_bytes(self, nprobe: int, k: int, candidates: int | None = None) -> int:
        """Return the memory of one query of a batch and its results."""
        # What each thread keeps of a query; that of all threads side by side, and sorted.
        kept = 12 * (2 * k + 12) * 3 * self._resources.threads
        row_bytes = 2 * 4 * self.opened.model.d + 80 * nprobe + 60 * k + (kept if k else 0)
        if self.opened.fine:
            row_bytes += 140 * max(k, candidates or self.efforts.candidates(k))
        return row_bytes

    @property
    def threads(self) -> int:
        """Threads to scan with."""
        return self._resources.threads

    def lists_of(self, places: Int64) -> Int64:
        """Return the list of each place (n,), as ``Candidates`` have places."""
        return self.opened.runs.lists_of(places >> PLACE_BITS)

    def _checked_batch(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        candidates: int = 1,
        passing: PassingRows | None = None,
    ) -> Batch:
        self.check_open()
        d_index = self.opened.model.description.d_index
        check_wanted(prepared, list_nos, distances, d_index, self.opened)
        return self._batch(prepared, list_nos, distances, candidates, passing)

    def _batch(
        self,
        prepared: Float32,
        list_nos: Int64,
        distances: Float32,
        candidates: int,
        passing: PassingRows | None = None,
    ) -> Batch:
        wanted = self._resources, prepared, list_nos, distances, self.stats, passing
        if self._two_stages is None:
            return Batch(*wanted)
        return TwoStageBatch(*wanted, stages=self._two_stages, candidates=candidates)

    def find_rows(
        self, ids: Int64, list_nos: Int64 | None = None, check: Callable[[], None] | None = None
    ) -> Int64:
        """Find the newest visible row of each id.

        Parameters
        ----------
        ids : ndarray of shape (n,), int64
            Ascending and distinct.
        list_nos : ndarray of shape (n,), int64, optional
            Open lists to look in, ascending and distinct; all that are open if not given.
        check : callable, optional
            Called before each part of the work; may raise to end it.

        Returns
        -------
        ndarray of shape (n,), int64
            The rows' places; -1 where there is none.
        """
        self.check_open()
        opened = self.opened
        if list_nos is None:
            list_nos = np.concatenate([np.arange(*bounds) for bounds in opened.ranges])
        reader = ListReader(opened, self.ranges, self.stats)
        parts = self._resources.lists.ids_of(list_nos, reader)
        return find_places(opened, ids, parts if check is None else _checked(parts, check))

    def read_vectors(self, places: Int64) -> Float32:
        """Read and decode the vectors at places (n,): (n, d), float32."""
        opened = self.opened
        if opened.fine:
            return decode_rows(opened, places, take_fine_codes(opened, places))
        reader = ListReader(opened, self.ranges, self.stats)
        lists = self._resources.lists.codes(np.unique(self.lists_of(places)), reader)
        return decode_rows(opened, places, take_codes(opened, places, lists))

    def warm(self, queries: Float32, effort: Effort) -> None:
        """Read the lists that these queries would visit into the cache, most wanted first."""
        _, list_nos, _ = self.nearest_lists(queries, effort)
        wanted, counts = np.unique(list_nos[list_nos >= 0], return_counts=True)
        reader = ListReader(self.opened, self.ranges, self.stats)
        self._resources.lists.warm(wanted[np.argsort(-counts, kind="stable")], reader)

    def close(self) -> None:
        """Close files and end threads."""
        self.is_closed = True
        self.passing_rows.release()
        self.ranges.close()
        self.caches.close()
        self.opened.close()

    def check_open(self) -> None:
        """Raise InvalidArgument after ``close``."""
        # The system gives a closed descriptor's number to the next file that is opened.
        if self.is_closed:
            raise InvalidArgument(f"{self.opened.paths} was closed; open it again")


def _checked(parts: Iterator[T], check: Callable[[], None]) -> Iterator[T]:
    """Yield the same, with a check before each."""
    for part in parts:
        check()
        yield part
