"""Which lists each server of a deployment owns: a pure function of the lists' sizes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.index.opened import OPEN_END
from teravec.serving.server.served import Ranges

__all__ = ["owned_lists"]


def owned_lists(
    sizes: npt.NDArray[np.int64], servers: int, replicas: int = 1
) -> tuple[Ranges, ...]:
    """Give each server lists of about the same bytes.

    The lists are cut into as many runs as there are servers. With replicas, server i owns runs
    i, i + 1, ... of a ring. Every server then owns the same number of runs, and the two neighbours
    of a lost server share its work (chained declustering).

    Parameters
    ----------
    sizes : ndarray of shape (nlist,), int64
        Vectors of each list; bytes are proportional to them.
    servers, replicas : int
        Servers in all, and servers that own each list.

    Returns
    -------
    tuple of ranges
        The ranges of each server, ascending and disjoint; the last list's has an open end. A server
        at the ring's seam has two.

    Raises
    ------
    InvalidArgument
        Fewer servers than replicas, or fewer lists than servers.

    References
    ----------
    Hsiao, DeWitt, Chained Declustering: A New Availability Strategy for Multiprocessor Database
    Machines, 1990.
    """
    if not 1 <= replicas <= servers:
        raise InvalidArgument(f"replicas is {replicas}; 1 to {servers} (the servers) expected")
    if servers > len(sizes):
        raise InvalidArgument(f"{servers} servers for {len(sizes)} lists; one list each expected")
    bounds = _bounds(sizes, servers)
    return tuple(
        _joined([bounds[(i + j) % servers] for j in range(replicas)]) for i in range(servers)
    )


def _bounds(sizes: npt.NDArray[np.int64], runs: int) -> list[tuple[int, int]]:
    """Cut the lists into runs of nearly equal sizes, none of them empty."""
    ends = np.cumsum(sizes)
    wanted = ends[-1] * np.arange(1, runs) / runs
    after = np.searchsorted(ends, wanted)  # the first list that ends at or beyond each target
    before = np.where(after > 0, ends[after - 1], 0)
    cuts = np.where(wanted - before <= ends[after] - wanted, after, after + 1)
    # Leave at least one list for each run before and after the cut.
    numbers = np.arange(1, runs)
    cuts = np.maximum.accumulate(np.maximum(cuts - numbers, 0)) + numbers
    cuts = np.minimum(cuts, len(sizes) - runs + numbers)
    every = [0, *cuts.tolist(), OPEN_END]  # the last owns what later versions append
    return list(pairwise(every))


def _joined(runs: list[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(runs):
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return tuple(joined)
