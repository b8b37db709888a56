"""Merging the results of several searches of different lists for the same queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teravec.kernels.metric import Metric
from teravec.search.candidates import best_k
from teravec.search.ordering import by_query
from teravec.serving.wire.protocol import Answer, Wanted

__all__ = ["Part", "merged", "together"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class Part(NamedTuple):
    """One search's results; ``rows`` (n,), ascending, are the query numbers of its rows."""

    rows: Int64
    answer: Answer


def together(parts: Sequence[Part]) -> tuple[Int64, Float32, Int64]:
    """Queries, distances and ids of all parts' results, in no order."""
    owners = [np.repeat(part.rows, part.answer.counts) for part in parts]
    return (
        np.concatenate([np.empty(0, np.int64), *owners]),
        np.concatenate([np.empty(0, np.float32), *(part.answer.distances for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.answer.ids for part in parts)]),
    )


def merged(
    parts: Sequence[Part], nq: int, wanted: Wanted, larger_is_closer: bool, version: str
) -> Answer:
    """Merge the results of all parts, best first; ties go by id, as in a local search."""
    if len(parts) == 1 and len(parts[0].rows) == nq:
        return parts[0].answer
    owner, distances, ids = together(parts)
    metric = Metric.IP if larger_is_closer else Metric.L2
    if wanted.k is not None:
        return Answer.of_top_k(version, *best_k(nq, wanted.k, owner, distances, ids, metric))
    lims, distances, ids = by_query(nq, owner, distances, ids, metric)
    return Answer(version, np.diff(lims).astype(np.uint32), distances, ids)
