"""Measuring a ``Spread``: queries beside lists of each band, some of each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.index.spread import Spread, bands_of, positions
from teravec.kernels.metric import Metric
from teravec.search.effort import Effort
from teravec.search.index import Index

__all__ = ["measure_spread"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_PAIRS = 400  # of a query and a list, in each band
_MOST_CODES = 1 << 22  # that are compared in each band
_RANKS = 1 << 16  # lists that are ranked: those behind are like the last of them
_WIDTH = 256
_COUNTED = 8  # rows above a position, from which on their share is believed


def measure_spread(index: Index, queries: Float32, own: Int64 | None = None) -> Spread:
    """Compare queries with all rows of lists, near ones and far ones.

    Parameters
    ----------
    index : Index
        Open, with all lists.
    queries : ndarray of shape (nq, d), float32
    own : ndarray of shape (nq,), int64, optional
        The queries' own ids, which do not count.
    """
    rng = np.random.default_rng([len(queries), index.nlist])
    metric = Metric(index.metric)
    nranks = min(index.nlist, _RANKS)
    bands = bands_of(np.arange(nranks))
    samples = []
    for band in range(int(bands[-1]) + 1):
        ranks = np.flatnonzero(bands == band)
        samples.append(_sample(index, queries, own, (int(ranks[0]), int(ranks[-1]) + 1), rng))
    energy = 0.0
    if metric is Metric.L2:  # far lists lie in all directions about their centroids
        far, values, _ = samples[-1]
        energy = float(np.mean(values.astype(np.float64) - far)) if len(far) else 1.0
        energy = max(energy, 1e-30)
    found: list[Float64] = []
    for far, values, lengths in samples:
        of = None if metric is Metric.L2 else lengths
        z = positions(far[:, None], values[:, None], energy, of)
        found.append(z[:, 0].astype(np.float64))
    every = np.concatenate([np.array([-1.0, 1.0]), *found])
    first, last = float(every.min()), float(every.max())
    step = (last - first) * 1.5 / _WIDTH  # beyond what was seen, shares go on falling
    edges = np.asarray(first + step * np.arange(_WIDTH), np.float64)
    return Spread(energy, first, step, tuple(_log_shares(each, edges) for each in found))


def _sample(
    index: Index,
    queries: Float32,
    own: Int64 | None,
    ranks: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Float32, Float32, Float64]:
    """Distances of centroids and of rows, and the queries' lengths, for pairs of one band."""
    some = rng.integers(0, len(queries), _PAIRS)
    codes, parts = 0, []
    worst, bounds = index.steps.opened.model.metric.worst, np.finfo(np.float32)
    radius = float(np.clip(worst, bounds.min, bounds.max))
    for start in range(0, _PAIRS, 50):
        rows = some[start : start + 50]
        prepared, list_nos, distances = index.steps.nearest_lists(queries[rows], Effort(ranks[1]))
        picked = rng.integers(ranks[0], list_nos.shape[1], len(rows))[:, None]
        far = np.take_along_axis(distances, picked, 1)
        lims, values, ids = index.steps.range_search_lists(
            prepared, np.take_along_axis(list_nos, picked, 1), far, radius
        )
        owner = np.repeat(np.arange(len(rows)), np.diff(lims))
        keep = np.ones(len(ids), np.bool_) if own is None else ids != own[rows][owner]
        lengths = np.maximum(np.linalg.norm(prepared, axis=1).astype(np.float64), 1e-30)
        parts.append((far[owner, 0][keep], values[keep], lengths[owner][keep]))
        codes += len(values)
        if codes >= _MOST_CODES:
            break
    far, values, lengths = (np.concatenate(part) for part in zip(*parts, strict=True))
    return far, values, lengths


def _log_shares(z: Float64, edges: Float64) -> tuple[float, ...]:
    """The logarithm of the share of z above each edge; where few are, it goes on in a line."""
    above = len(z) - np.searchsorted(np.sort(z), edges, side="right")
    trusted = max(1, int(np.count_nonzero(above >= _COUNTED)))
    logs = np.log(np.maximum(above, 1) / max(1, len(z)))
    base = max(0, trusted - 1 - len(edges) // 16)
    slope = (logs[trusted - 1] - logs[base]) / max(1, trusted - 1 - base)
    beyond = np.arange(1, len(edges) - trusted + 1)
    logs[trusted:] = logs[trusted - 1] + min(slope, -0.05) * beyond
    return tuple(round(float(value), 4) for value in logs)
