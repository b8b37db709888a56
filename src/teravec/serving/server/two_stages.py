"""Codes in two stages, when several searches share the lists out: first all that they sketch.

What is refined for a query follows from the candidates of all its lists together. So a search
has two rounds: each part tells the candidates of its lists, they are put together as one scan of
all lists would have kept them, and each part refines those of its own that are then chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from teravec.errors import ProtocolError
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.metric import Metric
from teravec.kernels.sketch import Candidates
from teravec.search.ordering import first_of_each
from teravec.serving.server.merging import Part
from teravec.serving.wire.protocol import Answer

__all__ = ["check_candidates", "of_candidates", "put_together"]

Int64 = npt.NDArray[np.int64]


def of_candidates(version: str, candidates: Candidates) -> Answer:
    """Candidates as an answer."""
    entries, counts = candidates.entries, candidates.counts
    held = entries[np.arange(entries.shape[1]) < counts[:, None]]
    return Answer(
        version,
        counts.astype(np.uint32),
        np.ascontiguousarray(held["estimate"]),
        np.ascontiguousarray(held["place"]),
        errors=np.ascontiguousarray(held["error"]),
    )


def check_candidates(
    answer: Answer,
    nq: int,
    most: int,
    list_nos: Int64,
    lists_of: Callable[[Int64], Int64] = lambda places: places >> PLACE_BITS,
) -> None:
    """Raise ProtocolError unless this can be the answer for these lists.

    ``lists_of`` returns the lists of places; by default, those of an index with one run a list.
    """
    if answer.errors is None or len(answer.counts) != nq or (answer.counts > most).any():
        raise ProtocolError(f"{nq} rows of at most {most} candidates expected")
    if not (np.isfinite(answer.distances).all() and np.isfinite(answer.errors).all()):
        raise ProtocolError("a candidate has no finite estimate")
    if not np.isin(lists_of(answer.ids), list_nos).all():
        raise ProtocolError("a candidate lies in a list that was not asked for")


def put_together(parts: Sequence[Part], nq: int, capacity: int) -> Candidates:
    """The candidates that one scan of all the parts' lists would have kept."""
    candidates = Candidates.none(nq, capacity)
    if not parts:
        return candidates
    owner = np.concatenate([np.repeat(part.rows, part.answer.counts) for part in parts])
    estimate = np.concatenate([part.answer.distances for part in parts])
    place = np.concatenate([part.answer.ids for part in parts])
    error = np.concatenate([part.answer.errors for part in parts])
    # Estimates of every metric are lower where vectors are closer, as distances are.
    which, *at = first_of_each(nq, capacity, owner, estimate, place, Metric.L2)
    candidates.entries["estimate"][tuple(at)] = estimate[which]
    candidates.entries["error"][tuple(at)] = error[which]
    candidates.entries["place"][tuple(at)] = place[which]
    candidates.counts[:] = np.bincount(at[0], minlength=nq)
    return candidates
