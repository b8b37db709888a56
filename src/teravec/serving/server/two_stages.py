"""Codes in two stages, when several searches share the lists out: first all that they sketch.

What is refined for a query follows from the candidates of all its lists together. So a search
has two rounds: each part tells the candidates of its lists, they are put together as one scan of
all lists would have kept them, and each part refines those of its own that are then chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from teravec.errors import ProtocolError
from teravec.kernels.lists_in_memory import PLACE_BITS
from teravec.kernels.sketch import Candidates
from teravec.serving.server.merging import Part
from teravec.serving.wire.protocol import Answer

__all__ = ["check_candidates", "of_candidates", "put_together"]

Int64 = npt.NDArray[np.int64]


def of_candidates(version: str, candidates: Candidates) -> Answer:
    """Candidates as an answer."""
    entries, counts = candidates.entries, candidates.counts
    held = entries[np.arange(entries.shape[1]) < counts[:, None]]
    return Answer(
        version, counts.astype(np.uint32), np.ascontiguousarray(held["estimate"]),
        np.ascontiguousarray(held["place"]), errors=np.ascontiguousarray(held["error"]),
    )  # fmt: skip


def check_candidates(answer: Answer, nq: int, most: int, list_nos: Int64) -> None:
    """Raise ProtocolError where this cannot be the answer for these lists."""
    if answer.errors is None or len(answer.counts) != nq or (answer.counts > most).any():
        raise ProtocolError(f"{nq} rows of at most {most} candidates expected")
    if not (np.isfinite(answer.distances).all() and np.isfinite(answer.errors).all()):
        raise ProtocolError("a candidate has no finite estimate")
    if not np.isin(answer.ids >> PLACE_BITS, list_nos).all():
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
    order = np.lexsort((place, estimate, owner))
    counts = np.bincount(owner, minlength=nq)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    order, kept = order[rank < capacity], rank[rank < capacity]
    at = owner[order], kept
    candidates.entries["estimate"][at] = estimate[order]
    candidates.entries["error"][at] = error[order]
    candidates.entries["place"][at] = place[order]
    candidates.counts[:] = np.minimum(counts, capacity)
    return candidates
