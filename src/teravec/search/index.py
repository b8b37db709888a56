"""The index as its users hold it."""

from __future__ import annotations

import warnings
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.arguments import PathArgument, check_ranges, flag
from teravec.filters.each import group_filters
from teravec.filters.filter import FilterArgument
from teravec.index.calibration import Calibration
from teravec.index.manifest import Manifest, count_copies_of_id, list_versions
from teravec.index.opened import Lists, OpenedIndex
from teravec.memory import granted_memory
from teravec.native.extensions import warn_if_missing
from teravec.processors import check_threads, default_threads
from teravec.search.bounded import Gathered, steps_of_lists
from teravec.search.caches import IndexCaches
from teravec.search.each_filter import range_search_each, search_each
from teravec.search.effort import Effort
from teravec.search.filtering import FilteredSearch, explain_search
from teravec.search.fixed import Fixed
from teravec.search.memory_shares import MemoryShares
from teravec.search.request import as_queries, checked_k, checked_queries, checked_radius, padded
from teravec.search.row_tables import RowTables
from teravec.search.stats import SearchStats
from teravec.search.steps import SearchSteps
from teravec.storage.layout import store_at
from teravec.storage.local_store import LocalStore
from teravec.storage.places import PlaceLike, cached
from teravec.storage.store import Reader

__all__ = ["Index", "open_index"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class Index(Fixed, RowTables):
    """An index on disk, open for searching from any number of threads.

    Made by ``teravec.open``. Use it as a context manager, or call ``close``; one that is dropped
    is closed with a ResourceWarning. Pickled, it is its path and options, and is opened anew where
    it is loaded. A process that was forked while other threads searched opens it anew: it has
    their locks, but not them.

    Attributes
    ----------
    steps : SearchSteps
        The steps of a search, for those who take them one by one.
    stats : SearchStats
        What all searches so far cost together.
    batch_bytes : int
        Memory for the queries and results of a batch.
    """

    steps: SearchSteps
    stats: SearchStats
    batch_bytes: int

    def __init__(
        self,
        opened: OpenedIndex,
        *,
        shares: MemoryShares,
        threads: int,
        before: SearchSteps | None = None,
    ) -> None:
        self.steps = SearchSteps(opened, shares=shares, threads=threads, before=before)
        self.stats, self.batch_bytes = self.steps.stats, self.steps.batch_bytes
        self._opened_by: dict[str, Any] = {}
        self._dropped = self._watch()

    @property
    def _opened(self) -> OpenedIndex:
        return self.steps.opened

    @property
    def where(self) -> str:
        """The index's directory or address, for messages."""
        return str(self._opened.paths)

    @property
    def root(self) -> Path:
        """The index's directory."""
        return self._opened.paths.root

    @property
    def d(self) -> int:
        """Dimensions of vectors and queries."""
        return self._opened.model.d

    @property
    def ntotal(self) -> int:
        """Vectors held; an upper bound while the version has deleted ids (``info``)."""
        return self._opened.ntotal

    @property
    def nlist(self) -> int:
        """Inverted lists."""
        return self._opened.model.nlist

    @property
    def metric(self) -> str:
        """``l2``, ``ip`` or ``cosine``."""
        return str(self._opened.model.metric)

    @property
    def _worst(self) -> float:
        return self._opened.model.metric.worst

    @property
    def manifest(self) -> Manifest:
        """What the index directory's manifest says."""
        return self._opened.manifest

    @property
    def codec(self) -> str:
        """What codes are, as ``build`` was told."""
        return self.manifest.codec

    @property
    def seal(self) -> str:
        """A checksum of the manifest's fields."""
        return self.manifest.seal

    @property
    def source(self) -> dict[str, Any]:
        """The vectors that the index was built from, as the manifest describes them."""
        return self.manifest.source

    @property
    def copies_of_an_id(self) -> int:
        """Most vectors that have the same id."""
        return count_copies_of_id(self.manifest)

    def holds(self, path: Path) -> bool:
        """Whether a file of this path would lie inside the index's directory."""
        return self.root.resolve() in path.resolve().parents

    @property
    def two_stages(self) -> bool:
        """Whether codes have two stages: sketches, and finer codes of candidates."""
        return bool(self._opened.model.codec.sketch_bits)

    @property
    def list_sizes(self) -> Int64:
        """Vectors of each inverted list, int64 of shape (nlist,)."""
        return self._opened.runs.list_sizes.copy()

    @property
    def version(self) -> int:
        """Number of the version that is open; 0 for an index that was only built."""
        return self.manifest.number

    @property
    def calibration_age(self) -> float:
        """Share of the rows added or deleted since the calibration measured the index."""
        return self.manifest.calibration_age

    @property
    def calibration(self) -> Calibration | None:
        """Recall as it was measured against effort; None where the index has no calibration.

        Raises
        ------
        ForeignFile, CorruptFile
            The file is that of another index, or damaged. Searches by nprobe go on.
        """
        return self.steps.efforts.calibration

    def search(
        self,
        queries: Float32,
        k: int = 10,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        candidates: int | None = None,
        filter: FilterArgument | None = None,
    ) -> tuple[Float32, Int64]:
        """Find each query's nearest vectors by scanning some inverted lists.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), a real number type
            Or one vector of shape (d,): results then have shape (k,).
        k : int
            Results a query. Beyond ntotal there are none: id -1, as in Faiss.
        nprobe : int, optional
            Lists read a query, to which disk bytes are roughly proportional. More than
            nlist is taken as nlist, and logged.
        recall : float, optional
            Instead of nprobe: the share of the true k nearest to find, on average over
            queries like those of the calibration. Harder queries visit more lists, at most 8
            times as many as usual ones; what they get is not promised. Neither given: 0.9, or an
            nprobe of 16 where the index has no calibration that promises 0.9.
        candidates : int, optional
            Most vectors a query whose finer codes are read, where codes have two stages; each
            may cost a page of the device. Not given: ``effort.default_candidates``. With ntotal,
            bounds spare none, and the result is that of a scan of the finer codes.
        filter : str or pyarrow.compute.Expression, optional
            Find only rows that pass: a condition on columns in SQL, see docs/filters.md. Recall is
            then the share of the k nearest of these rows, nprobe counts lists that hold one of
            them, and k are found where k pass. A sequence has one for each query; None among them
            finds all rows.

        Returns
        -------
        distances : ndarray of shape (nq, k), float32
            Best first: squared L2 ascending (l2), or similarities descending (ip, cosine).
        ids : ndarray of shape (nq, k), int64
            -1 where fewer than k were found. Equal distances go by id.

        Raises
        ------
        InvalidArgument
            Shape, dtype or range does not fit the index.
        CorruptFile
            A list fails its checksum; names the file and the list.
        """
        k = checked_k(k)
        if filter is not None:
            return self._search_filtered(queries, k, nprobe, recall, candidates, filter)
        effort = self.effort(nprobe, recall, k=min(k, self.ntotal), candidates=candidates)
        return self._search(queries, k, effort)

    def _search_filtered(
        self,
        queries: Float32,
        k: int,
        nprobe: int | None,
        recall: float | None,
        candidates: int | None,
        given: FilterArgument,
    ) -> tuple[Float32, Int64]:
        """As ``search``, under a filter."""
        rows = checked_queries(queries, self.d)
        groups = group_filters(given, len(rows))
        if groups is not None:
            distances, ids = search_each(
                groups,
                lambda group: self.search(
                    rows[group.rows],
                    k,
                    nprobe,
                    recall=recall,
                    candidates=candidates,
                    filter=group.filter,
                ),
                k,
            )
        else:
            most = min(k, self.ntotal)
            effort = self.steps.efforts.filtered(nprobe, recall, most, candidates)
            search = FilteredSearch(self.steps, given)
            distances, ids, _ = search.search(rows, most, effort)
            if k > most:
                distances, ids = padded(distances, ids, k, self._worst)
        return (distances, ids) if np.ndim(queries) == 2 else (distances[0], ids[0])

    def explain(
        self,
        queries: Float32,
        k: int = 10,
        nprobe: int | None = None,
        *,
        filter: FilterArgument,
        recall: float | None = None,
        candidates: int | None = None,
    ) -> dict[str, Any]:
        """Search under a filter, and tell how; parameters as for ``search``.

        Returns
        -------
        dict
            ``plan`` (``compare all`` or ``nearest lists``), ``why``, ``rows`` of the index and
            ``passing`` of them (deleted ones count until a compaction), ``lists`` and
            ``matching_lists``, ``visited`` (lists a query, on average) and ``waves``.
        """
        search = FilteredSearch(self.steps, filter)
        k = min(checked_k(k), self.ntotal)
        effort = self.steps.efforts.filtered(nprobe, recall, k, candidates)
        _, _, visits = search.search(checked_queries(queries, self.d), k, effort)
        return explain_search(search, effort, k, visits)

    def search_at(self, queries: Float32, k: int, effort: Effort) -> tuple[Float32, Int64]:
        """Do as ``search``, at a stated effort."""
        return self._search(queries, checked_k(k), effort)

    def _search(self, queries: Float32, k: int, effort: Effort) -> tuple[Float32, Int64]:
        queries = as_queries(queries)
        if queries.ndim == 1 and len(queries):
            distances, ids = self._search(checked_queries(queries, self.d), k, effort)
            return distances[0], ids[0]
        if k > max(1, self.ntotal):
            return padded(*self._search(queries, max(1, self.ntotal), effort), k, self._worst)
        queries = checked_queries(queries, self.d)
        if len(queries) == 1:
            return self.steps.search(queries, k, effort)
        rows = self.batch_rows(effort.nprobe, k, effort.candidates)
        if len(queries) <= rows:
            return self.steps.search(queries, k, effort)
        distances = np.empty((len(queries), k), np.float32)
        ids = np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            distances[part], ids[part] = self.steps.search(queries[part], k, effort)
        return distances, ids

    def range_search(
        self,
        queries: Float32,
        radius: float,
        nprobe: int | None = None,
        *,
        recall: float | None = None,
        filter: FilterArgument | None = None,
    ) -> tuple[Int64, Float32, Int64]:
        """Find all vectors within a radius of each query among some inverted lists.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), a real number type
            Or one vector of shape (d,), with the results of one query.
        radius : float
            Squared L2 below this (l2), or similarity above it (ip, cosine), as in Faiss.
        nprobe, recall : optional
            As for ``search``; recall is the share of the true vectors within the radius,
            over all queries together.
        filter : optional
            As for ``search``. The lists visited are those of a search without it, so a recall is
            promised only for filters that do not depend on the query.

        Returns
        -------
        lims : ndarray of shape (nq + 1,), int64
            Results of query i are at [lims[i], lims[i + 1]).
        distances : ndarray of float32, best first within a query
        ids : ndarray of int64

        Raises
        ------
        InvalidArgument, CorruptFile
        """
        queries, radius = checked_queries(queries, self.d), checked_radius(radius)
        groups = group_filters(filter, len(queries))
        if groups is not None:
            return range_search_each(
                groups,
                lambda group: self.range_search(
                    queries[group.rows], radius, nprobe, recall=recall, filter=group.filter
                ),
            )
        effort = self.effort(nprobe, recall, radius=radius)
        passing = None if filter is None else FilteredSearch(self.steps, filter).passing
        rows = self.batch_rows(effort.nprobe, 0)
        parts = []
        for start in range(0, len(queries), rows):
            wanted = self.steps.nearest_lists(queries[start : start + rows], effort)
            parts.append(self.steps.range_search_lists(*wanted, radius, passing))
        counts = [np.diff(lims) for lims, _, _ in parts]
        lims = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *counts]))])
        distances = np.concatenate([np.empty(0, np.float32), *(d for _, d, _ in parts)])
        ids = np.concatenate([np.empty(0, np.int64), *(i for _, _, i in parts)])
        return lims.astype(np.int64), distances, ids

    def search_under(
        self,
        queries: Float32,
        k: int,
        nprobe: int | None,
        recall: float | None,
        candidates: int | None,
        filter: FilterArgument,
    ) -> tuple[Float32, Int64]:
        """Search as ``search``, under a filter or one for each query: see ``Searchable``."""
        return self.search(queries, k, nprobe, recall=recall, candidates=candidates, filter=filter)

    def range_search_at(
        self,
        queries: Float32,
        radius: float,
        effort: Effort,
        most: int,
        filter: FilterArgument | None = None,
    ) -> tuple[Int64, Float32, Int64]:
        """Do as ``range_search`` for the first queries, in bounded memory.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), float32
        radius : float
        effort : Effort
        most : int
            Results that may be returned. Queries are left out from the end where there are more:
            all of them, where the first alone has more.
        filter : optional
            As for ``search``.
        """
        passing = None if filter is None else FilteredSearch(self.steps, filter).passing
        queries, radius = checked_queries(queries, self.d), checked_radius(radius)
        prepared, list_nos, distances = self.steps.nearest_lists(queries, effort)
        counted, found = self.stats.queries, Gathered(len(queries))
        for rows, step in steps_of_lists(list_nos, self._opened.runs.list_sizes, most):
            rows, step = rows[rows < found.nq], step[rows < found.nq]
            if len(rows):
                lims, values, ids = self.steps.range_search_lists(
                    prepared[rows], step, np.ascontiguousarray(distances[rows]), radius, passing
                )
                found.add(np.repeat(rows, np.diff(lims)), values, ids)
                found.halve_to(most)
        self.stats.queries = counted + found.nq  # each step counted them
        return found.arrays(self._opened.model.metric)

    def warm(self, queries: Float32, nprobe: int = 16) -> None:
        """Read the lists that these queries would visit into the cache, most wanted first.

        Parameters
        ----------
        queries : ndarray of shape (nq, d), a real number type
            Like those to come.
        nprobe : int
        """
        self.steps.warm(checked_queries(queries, self.d), self.effort(nprobe))

    def batch_rows(self, nprobe: int, k: int, candidates: int | None = None) -> int:
        """Queries of a batch: as many as memory holds, since each list is read once a batch."""
        return max(1, self.batch_bytes // self.steps.row_bytes(nprobe, k, candidates))

    @property
    def caches(self) -> IndexCaches:
        """Kept lists and finer codes."""
        return self.steps.caches

    def effort(
        self,
        nprobe: int | None = None,
        recall: float | None = None,
        *,
        k: int = 10,
        radius: float | None = None,
        candidates: int | None = None,
    ) -> Effort:
        """The effort that nprobe or recall asks for: of the k nearest, or within a radius.

        Raises
        ------
        InvalidArgument
            Both given; out of range; the index is not calibrated, or not for this; or
            candidates where codes have one stage.
        """
        return self.steps.efforts.effort(nprobe, recall, k, radius, candidates)

    def _watch(self) -> weakref.finalize[Any, Index]:
        """Close the files if this index is lost without ``close``."""
        watch = weakref.finalize(self, _close_dropped, self.steps.ranges, self._opened)
        watch.atexit = False  # the system frees all then
        return watch

    def refresh(self) -> bool:
        """Go to the newest version of the index; return whether there was a newer one.

        What both versions have stays as it is: the model, and what the caches hold of segments
        that did not change. No other thread may be searching meanwhile.

        Raises
        ------
        MissingFile, CorruptFile
            The newest version cannot be opened; this index stays on its own.
        """
        self.steps.check_open()
        if (list_versions(self._opened.paths) or [0])[-1] == self.version:
            return False
        newest = self.at_version()
        newest._dropped.detach()
        newest._opened_by = {**self._opened_by, "version": None}
        self.close()
        if newest.stats is not self.stats:
            newest.stats.add(self.stats)
        self.steps, self.stats, self.batch_bytes = newest.steps, newest.stats, newest.batch_bytes
        self._opened_by, self._dropped = newest._opened_by, self._watch()
        return True

    def at_version(self, number: int | None = None, *, beside_bytes: int = 0) -> Index:
        """Open another version of this index, beside this one.

        They share what both have: the model, open files, and caches as far as memory allows.
        Either may be closed first.

        Parameters
        ----------
        number : int, optional
            Not given: the newest.
        beside_bytes : int
            Tables of further versions that are open, in the same memory.

        Raises
        ------
        MissingFile, CorruptFile, ForeignFile, IncompatibleVersion
        """
        self.steps.check_open()
        options = {**self._opened_by, "version": number}
        opened = OpenedIndex(self._opened.store, options["lists"], number, self._opened)
        try:
            shares, before = self.steps.shares, None
            if self.steps.may_share(opened, beside_bytes=beside_bytes):
                before = self.steps
            else:
                memory_bytes = granted_memory(options["memory"])
                shares = MemoryShares.of(opened, memory_bytes, keep_lists=options["keep_lists"])
            index = Index(opened, shares=shares, threads=self.steps.threads, before=before)
        except BaseException:
            opened.close()
            raise
        index._opened_by = options
        return index

    def close(self) -> None:
        """Close files and end threads; searches afterwards raise InvalidArgument."""
        self._dropped.detach()
        self.steps.close()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called: then searches raise InvalidArgument."""
        return self.steps.is_closed

    def __len__(self) -> int:
        return self.ntotal

    def __bool__(self) -> bool:
        return True  # also where there is no vector: it is an index

    def __repr__(self) -> str:
        codec = self.manifest.codec
        closed, where = ", closed" if self.is_closed else "", str(self._opened.paths)
        return (
            f"<teravec.Index {where!r}: {self.ntotal:,} x {self.d}, {self.metric}, "
            f"{codec}, {self.nlist:,} lists{closed}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied is where the index lies and how it was opened; it is opened anew."""
        self.steps.check_open()
        return _open_again, (self._opened_by,)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_index(
    path: PlaceLike,
    *,
    memory: str | int | None = None,
    threads: int | None = None,
    keep_lists: bool = True,
    direct: bool = True,
    lists: Lists | None = None,
    version: int | None = None,
    cache: PathArgument | None = None,
    cache_bytes: str | int | None = None,
) -> Index:
    """Open an index for searching.

    Reads and checks manifest, model and the tables of the slices; lists stay on disk until
    a query wants them, and are checked then.

    Parameters
    ----------
    path : path-like or Store
        Index directory, a URL of an object store, or what ``teravec.store`` returned.
    memory : str or int, optional
        Limit in bytes, or as "512MiB". Not given: 4 GiB, or half of the memory
        that the machine or its container has to give.
    threads : int, optional
        Threads to scan with. Not given: the processors that this process may use.
    keep_lists : bool
        Keep lists once they were read, in a cache of half of the memory left. Without it every
        search reads the lists it wants from their files.
    direct : bool
        Read past the page cache what is not in it. It is quicker, and leaves the page cache to
        others; without it, the page cache holds what the limit on memory does not.
    lists : tuple of int or tuple of tuples of int, optional
        Open only lists [start, stop), or several such ranges, for ``search_lists``: of the slices,
        only the files that hold some of them need be there. ``search`` needs all lists.
    version : int, optional
        The version to open. Not given: the newest.
    cache : path-like, optional
        Directory on a local disk that keeps what is read of an index elsewhere, for this process
        and others; see docs/object-stores.md.
    cache_bytes : str or int, optional
        Largest size of the cache, as "200GiB". Not given: that which it has, or 16 GiB.

    Raises
    ------
    MissingFile, CorruptFile, ForeignFile, IncompatibleVersion
        Names the file that is missing, damaged or from elsewhere.
    MemoryLimitTooSmall
    """
    warn_if_missing()
    check_threads(threads)
    memory_bytes = granted_memory(memory)
    keep_lists, direct = flag(keep_lists, "keep_lists"), flag(direct, "direct")
    store, lists = store_at(path), check_ranges(lists, "lists")
    if isinstance(store, LocalStore):
        store = replace(store, direct=direct)
    store = cached(store, cache, cache_bytes)
    opened = OpenedIndex(store, lists=lists, version=version)
    try:
        index = Index(
            opened,
            shares=MemoryShares.of(opened, memory_bytes, keep_lists=keep_lists),
            threads=threads or default_threads(),
        )
    except BaseException:
        opened.close()
        raise
    index._opened_by = {
        "path": str(store.root) if isinstance(store, LocalStore) else store,
        "memory": memory,
        "threads": threads,
        "keep_lists": keep_lists,
        "direct": direct,
        "lists": lists,
        "version": version,
    }
    return index


def _open_again(options: dict[str, Any]) -> Index:
    return open_index(**options)


def _close_dropped(ranges: Reader, opened: OpenedIndex) -> None:
    """Close what a lost index had open; the collector may run in any thread, so wait for none."""
    ranges.close(wait=False)
    opened.close()
    warnings.warn(
        f"index {opened.paths} was dropped without close()", ResourceWarning, stacklevel=2
    )
