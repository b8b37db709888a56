"""How much work a request is, before it is done: small ones need not wait behind large ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from teravec.errors import InvalidArgument
from teravec.search.options import SearchOptions
from teravec.serving.server.served import ServedIndex
from teravec.serving.wire.protocol import (
    CountRequest,
    FindRequest,
    GetRequest,
    ListRequest,
    RefineRequest,
    Request,
    SearchRequest,
)
from teravec.storage.listfile import ID_BYTES

__all__ = ["WorkEstimate"]

_RESULT_WORK = 1 << 10  # to order and send a result takes as long as to scan so many bytes
_UNKNOWN_LISTS = 64  # of a request whose search will say what is wrong with it
_MOST_KNOWN = 1024
_ROW_WORK = 64 << 10  # a chunk of a column
_FILTERED_TIMES = 4  # lists of a search under a filter, over those of one without
_Effort = tuple[int | None, float | None, float | None]


@dataclass(frozen=True)
class _Known:
    """What the estimate needs of one version of an index; looked up for each request."""

    version: str
    nlist: int
    row_bytes: int
    list_bytes: int
    nprobes: dict[_Effort, int] = field(default_factory=dict)  # by k, radius, recall


class WorkEstimate:
    """Estimates the bytes that requests scan; each result counts as some more."""

    def __init__(self) -> None:
        self._known = _Known("", 0, 0, 0)

    def of(self, request: Request, index: ServedIndex) -> int:
        """Return a request's bytes.

        Parameters
        ----------
        request : Request
        index : ServedIndex
            The current version; another one is about as large.
        """
        known = self._known
        if known.version != index.version:
            mean_bytes = index.manifest.ntotal * index.row_bytes // max(1, index.nlist)
            known = self._known = _Known(index.version, index.nlist, index.row_bytes, mean_bytes)
        results = _RESULT_WORK * request.results
        if isinstance(request, SearchRequest):
            nprobe = request.nprobe or _usual_nprobe(request, index, known.nprobes)
            if request.filter is not None:
                nprobe *= _FILTERED_TIMES
            return results + len(request.queries) * min(nprobe, known.nlist) * known.list_bytes
        if isinstance(request, ListRequest):
            return results + len(request.list_nos) * known.list_bytes
        if isinstance(request, RefineRequest):
            return results + len(request.places) * known.row_bytes
        mean_rows = known.list_bytes // max(1, known.row_bytes)
        if isinstance(request, CountRequest | FindRequest):
            return results + len(request.list_nos) * mean_rows * ID_BYTES
        rows = request.rows * _ROW_WORK
        if isinstance(request, GetRequest):
            return rows + known.nlist * mean_rows * ID_BYTES
        return rows


def _usual_nprobe(request: SearchRequest, index: ServedIndex, nprobes: dict[_Effort, int]) -> int:
    """Return the lists per query of a recall, or of the index's default."""
    wanted = request.wanted
    asked = wanted.k, wanted.radius, request.recall
    if (found := nprobes.get(asked)) is not None:
        return found
    try:
        options = SearchOptions(wanted.k, wanted.radius, None, request.recall)
        found = index.effort(options).typical
    except InvalidArgument:
        found = _UNKNOWN_LISTS
    if len(nprobes) >= _MOST_KNOWN:
        nprobes.clear()
    nprobes[asked] = found
    return found
