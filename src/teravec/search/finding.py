"""Finding rows by id: the ids of lists are read, and compared with those that are wanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teravec.index.opened import OpenedIndex
from teravec.kernels.lists_in_memory import PLACE_BITS

__all__ = ["RunIds", "find_places"]

Int64 = npt.NDArray[np.int64]


class RunIds(NamedTuple):
    """The ids of some runs, one run after another.

    Attributes
    ----------
    runs, counts : ndarray of shape (n,), int64
        Ascending runs, and how many ids of each.
    row_start : int
        Row of the first run at which its ids begin; above 0 only for a part of a large run.
    ids : ndarray of int64
        As in the files.
    """

    runs: Int64
    counts: Int64
    row_start: int
    ids: Int64


def find_places(index: OpenedIndex, wanted: Int64, parts: Iterable[RunIds]) -> Int64:
    """Find the newest visible row of each id.

    Parameters
    ----------
    index : OpenedIndex
    wanted : ndarray of shape (n,), int64
        Ids, ascending and distinct.
    parts : iterable of RunIds
        Of the runs to look in.

    Returns
    -------
    ndarray of shape (n,), int64
        ``run << 32 | row``; -1 where no visible row has the id. Of a build's rows with the same id,
        the first one.
    """
    places, layers = np.full(len(wanted), -1, np.int64), np.full(len(wanted), -1, np.int64)
    for part in parts if len(wanted) else ():
        segments = index.runs.segments_of(part.runs)
        ids = part.ids
        if index.has_id_bases:
            ids = ids + np.repeat(index.id_bases[segments], part.counts)
        at = np.searchsorted(wanted, ids)
        at[at == len(wanted)] = 0
        hits = np.flatnonzero(wanted[at] == ids)
        if not len(hits):
            continue
        ends = np.cumsum(part.counts)
        entries = np.searchsorted(ends, hits, side="right")
        hidden = np.zeros(len(hits), np.bool_)
        for number in np.unique(segments[entries]).tolist():
            mine = segments[entries] == number
            hidden[mine] = index.deleted[number].find(ids[hits[mine]])
        hits, entries = hits[~hidden][::-1], entries[~hidden][::-1]  # the first row is set last
        rows = hits - (ends - part.counts)[entries] + part.row_start
        layer = part.runs[entries] // index.runs.nlist
        newer = layer > layers[at[hits]]
        hits, entries, rows, layer = hits[newer], entries[newer], rows[newer], layer[newer]
        places[at[hits]] = part.runs[entries] << PLACE_BITS | rows
        layers[at[hits]] = layer
    return places
