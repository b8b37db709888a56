"""How much work a request is, before it is done: small ones need not wait behind large ones."""

from __future__ import annotations

from teravec.errors import InvalidArgument
from teravec.search.options import SearchOptions
from teravec.serving.server.served import ServedIndex
from teravec.serving.wire.protocol import ListRequest, RefineRequest, SearchRequest

__all__ = ["work_of"]

_RESULT_WORK = 1 << 10  # to order and send a result takes as long as to scan so many bytes
_UNKNOWN_LISTS = 64  # of a request whose search will say what is wrong with it


def work_of(request: SearchRequest | ListRequest | RefineRequest, index: ServedIndex) -> int:
    """Return the bytes that a request scans, roughly; each result counts as some more.

    Parameters
    ----------
    request : SearchRequest, ListRequest or RefineRequest
    index : ServedIndex
        The current version; another one is about as large.
    """
    results = _RESULT_WORK * request.results
    if isinstance(request, RefineRequest):
        return results + len(request.places) * index.row_bytes
    if isinstance(request, ListRequest):
        return results + len(request.list_nos) * index.mean_list_bytes
    lists = len(request.queries) * min(_nprobe(request, index), index.nlist)
    return results + lists * index.mean_list_bytes


def _nprobe(request: SearchRequest, index: ServedIndex) -> int:
    if request.nprobe is not None:
        return request.nprobe
    wanted = request.wanted
    try:
        return index.effort(SearchOptions(wanted.k, wanted.radius, None, request.recall)).nprobe
    except InvalidArgument:
        return _UNKNOWN_LISTS
