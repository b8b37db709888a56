"""Searches of the k nearest under a filter: in waves, by one machine or by a coordinator's servers.

When a search may stop depends on how many rows of each list pass. So these counts come first, from
whoever has the lists; the waves then are those of a local search, and so is the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from teravec.search.filtered import FilteredEffort
from teravec.search.filtering import SearchInWaves
from teravec.serving.server.merging import Part, merged
from teravec.serving.server.served import ServedIndex
from teravec.serving.wire.deadline import Deadline
from teravec.serving.wire.limits import Limits
from teravec.serving.wire.protocol import Answer, SearchRequest, Wanted

__all__ = ["FilteredLists", "ServedWaves", "nearest_under_filter"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class FilteredLists(Protocol):
    """The lists of one version under one filter, here or on servers."""

    def scan(
        self, prepared: Float32, list_nos: Int64, distances: Float32, k: int, most: int | None
    ) -> Answer:
        """The k nearest passing rows among lists chosen for each query (nq, n), -1 for none."""


class ServedWaves(SearchInWaves):
    """A search in waves, each a scan of some lists for some queries.

    Parameters
    ----------
    index : ServedIndex
    list_counts, list_sizes : ndarray of shape (nlist,), int64
    lists : FilteredLists
    limits : Limits
        Bounds of one scan: a wave beyond them is cut.
    """

    def __init__(
        self,
        index: ServedIndex,
        list_counts: Int64,
        list_sizes: Int64,
        lists: FilteredLists,
        limits: Limits,
    ) -> None:
        super().__init__(index.steps, list_counts, list_sizes)
        self._index, self._lists, self._limits = index, lists, limits

    def scan(
        self, prepared: Float32, list_nos: Int64, distances: Float32, k: int, most: int | None
    ) -> tuple[Float32, Int64]:
        """Scan a wave."""
        width = max(1, min(self._limits.nprobe, self._limits.pairs // max(1, len(prepared))))
        parts = []
        for start in range(0, max(1, list_nos.shape[1]), width):
            columns = slice(start, start + width)
            lists = np.ascontiguousarray(list_nos[:, columns])
            far = np.ascontiguousarray(distances[:, columns])
            parts.append(self._lists.scan(prepared, lists, far, k, most))
        index = self._index
        everyone = np.arange(len(prepared))
        answer = merged(
            [Part(everyone, part) for part in parts],
            len(prepared),
            Wanted(k=k),
            index.larger_is_closer,
            index.version,
        )
        return answer.top_k(k, index.metric.worst)


def nearest_under_filter(
    index: ServedIndex,
    waves: SearchInWaves,
    request: SearchRequest,
    deadline: Deadline,
    limits: Limits,
    visited: Callable[[Int64], None],
) -> Answer:
    """Answer a request of the k nearest under a filter, some queries at a time.

    Parameters
    ----------
    index : ServedIndex
    waves : SearchInWaves
    request : SearchRequest
        For at most as many results as there are vectors.
    deadline : Deadline
    limits : Limits
    visited : callable
        Learns the lists that some query visited, ascending, of each piece.
    """
    queries, wanted = request.queries, request.wanted
    assert wanted.k is not None
    effort: FilteredEffort = index.filtered_effort_of(request)
    limits.check_nprobe(len(queries), effort.nprobe)
    rows = index.share_of_rows(waves.batch_rows(wanted.k, effort))
    with index.pieces(len(queries), wanted, deadline, limits) as pieces:
        for start in range(0, len(queries), rows):
            deadline.check()
            part = queries[start : start + rows]
            distances, ids, visits = waves.batch(part, wanted.k, effort)
            visited(visits.all_lists())
            pieces.add(Answer.of_top_k(index.version, distances, ids))
        return pieces.answer()
