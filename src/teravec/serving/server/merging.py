"""Merging the results of several searches of different lists for the same queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric
from teravec.search.candidates import best_k
from teravec.serving.wire.protocol import Answer, Wanted

__all__ = ["Part", "merged"]

Int64 = npt.NDArray[np.int64]


class Part(NamedTuple):
    """One search's results; ``rows`` (n,), ascending, are the query numbers of its rows."""

    rows: Int64
    answer: Answer


def merged(
    parts: Sequence[Part], nq: int, wanted: Wanted, larger_is_closer: bool, version: str
) -> Answer:
    """Merge the results of all parts, best first; ties go by id, as in a local search."""
    if len(parts) == 1 and len(parts[0].rows) == nq:
        return parts[0].answer
    owners = [np.repeat(part.rows, part.answer.counts) for part in parts]
    owner = np.concatenate([np.empty(0, np.int64), *owners])
    distances = np.concatenate([np.empty(0, np.float32), *(p.answer.distances for p in parts)])
    ids = np.concatenate([np.empty(0, np.int64), *(p.answer.ids for p in parts)])
    if wanted.k is not None:
        metric = Metric.IP if larger_is_closer else Metric.L2
        return Answer.of_top_k(version, *best_k(nq, wanted.k, owner, distances, ids, metric))
    order = np.lexsort((ids, -distances if larger_is_closer else distances, owner))
    counts = np.bincount(owner, minlength=nq)
    return Answer(version, counts.astype(np.uint32), distances[order], ids[order])
