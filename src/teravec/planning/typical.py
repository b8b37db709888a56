"""How many lists a query visits for a recall: from an index, from advice, or from typical data.

The lists that hold a query's neighbours are those about as near as the neighbours are. So their
number depends on how far neighbours lie, relative to the distance between centroids. Both distances
are powers of density, hence lists are a product of powers of nlist and of the number of vectors:

    lists(nlist, n) = known * (nlist / known_nlist) ** by_lists * (n / known_n) ** by_vectors

The powers below were measured by ``python -m benchmarks.advise --powers``: on each set with a
quarter of the lists, and with a quarter of the vectors, at the same centroids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teravec.errors import InvalidArgument, shown
from teravec.index.calibration import Calibration
from teravec.planning.workload import Queries
from teravec.search.effort import DEFAULT_RECALL

__all__ = [
    "DEFAULT_LIKE",
    "TYPICAL",
    "Known",
    "find_typical",
    "known_of_advice",
    "known_of_index",
    "queries_for",
]


@dataclass(frozen=True)
class Known:
    """Lists visited for some recalls, with one number of lists and of vectors.

    Parameters
    ----------
    origin : str
        In words.
    ntotal, nlist : int
    lists : mapping of float to float
        Mean lists a query, by the recall of the 10 nearest asked for.
    by_lists, by_vectors : float
        Powers.
    refined : float, optional
        With codes in two stages: candidates whose finer codes are read.
    """

    origin: str
    ntotal: int
    nlist: int
    lists: Mapping[float, float]
    by_lists: float = 0.6
    by_vectors: float = -0.25
    refined: float | None = None

    def count(self, recall: float, ntotal: int, nlist: int) -> float:
        """Return the mean lists a query, at least 1 and at most nlist.

        Raises
        ------
        InvalidArgument
            The recall is above the highest that is known.
        """
        above = [known for known in self.lists if known >= recall]
        if not above:
            highest = max(self.lists, default=0.0)
            raise InvalidArgument(
                f"recall {recall:g} asked for; {self.origin} shows lists for at most {highest:g}"
            )
        found = self.lists[min(above)]
        below = [known for known in self.lists if known < recall]
        if below and min(above) > recall:  # between two recalls, by the logarithm of what is missed
            low = max(below)
            share = _between(low, recall, min(above))
            found = self.lists[low] ** (1 - share) * found**share
        grown = (nlist / self.nlist) ** self.by_lists * (ntotal / self.ntotal) ** self.by_vectors
        return float(min(nlist, max(1.0, found * grown)))


def _between(low: float, recall: float, high: float) -> float:
    missed = [math.log(1 - r) for r in (low, recall, high)]
    return (missed[0] - missed[1]) / (missed[0] - missed[2])


TYPICAL = {
    "descriptors": Known(
        "typical data: SIFT descriptors of photographs",
        301_217,
        2048,
        {0.8: 13.3, 0.9: 26.0, 0.95: 44.7},
        0.58,
        -0.28,
    ),
    "sentences": Known(
        "typical data: embeddings of sentences (MiniLM)",
        112_000,
        1024,
        {0.8: 11.9, 0.9: 32.1, 0.95: 74.5},
        0.54,
        -0.33,
    ),
    "words": Known(
        "typical data: word vectors (GloVe), cosine",
        399_000,
        2048,
        {0.8: 18.0, 0.9: 46.9, 0.95: 117.8},
        0.63,
        -0.2,
    ),
}
"""Data sets by name; each was measured with all its vectors."""
DEFAULT_LIKE = "descriptors"


def queries_for(
    recall: float | None, nprobe: float | None, k: int, known: Known, ntotal: int, nlist: int
) -> Queries:
    """Return what a query costs in lists: as given, or for a recall.

    Raises
    ------
    InvalidArgument
        Both are given, or the recall is above what is known.
    """
    if nprobe is not None and recall is not None:
        raise InvalidArgument(f"nprobe {nprobe} and recall {recall} given; one expected")
    if nprobe is not None:
        return Queries(nprobe, k, None, "given")
    recall = DEFAULT_RECALL if recall is None else recall
    return Queries(known.count(recall, ntotal, nlist), k, recall, known.origin, known.refined)


def find_typical(name: str | None) -> Known:
    """Return a typical set by its name."""
    name = DEFAULT_LIKE if name is None else name
    if name not in TYPICAL:
        raise InvalidArgument(f"like is {shown(name)}; one of {', '.join(TYPICAL)} expected")
    return TYPICAL[name]


def known_of_index(info: Mapping[str, Any], calibration: Calibration, k: int) -> Known:
    """Return what an index's calibration shows, with the powers of typical data.

    Parameters
    ----------
    info : mapping
        As ``teravec.info`` returns it.
    calibration : Calibration
    k : int
    """
    column = calibration.column(k)
    if column is None:
        raise InvalidArgument(f"k is {k}; at most {calibration.ks[-1]} expected, as calibrated")
    lists = {point.recall[column]: max(1.0, point.lists) for point in calibration.points}
    typical = TYPICAL[DEFAULT_LIKE]
    return Known(
        "the index's calibration",
        info["ntotal"],
        info["nlist"],
        lists,
        typical.by_lists,
        typical.by_vectors,
    )


def known_of_advice(content: Mapping[str, Any]) -> Known:
    """Return what ``advise`` found for its best option, as ``advise --json`` prints it."""
    try:
        best, bounds, basis = content["best"], content["bounds"], content["basis"]
        if best is None:
            raise InvalidArgument("the advice has no option that meets its bounds")
        lists = {float(bounds["recall"]): float(best["lists"])}
        return Known("advise", int(basis["ntotal"]), int(best["nlist"]), lists)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"no output of teravec advise --json: {error!r}") from error
