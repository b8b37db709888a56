"""Finding the list of each vector of a block, with the compiled kernels or NumPy."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from teravec.kernels.groups import Grouping
from teravec.kernels.panels import half_norms, pack_panels
from teravec.native import extensions as compiled
from teravec.native.extensions import either, panel_places

__all__ = ["Scan", "open_scan"]

Floats = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Lists = npt.NDArray[np.int32]

_SCORE_FLOATS = 1 << 22  # 16 MiB of scores at a time in the fallback
_PAIR_FLOATS = 1 << 16  # of vectors that are compared in float64 at a time


class Scan(Protocol):
    """Writes list and squared distance of every vector of a block.

    Attributes
    ----------
    rows : int
        Most vectors of a block.
    even : bool
        Whether a block may have any size, because results do not depend on it.
    """

    rows: int
    even: bool

    def __call__(self, x: Floats, list_no: Lists, distance: Floats) -> None: ...


class _CompiledScan:
    rows, even = 16384, True

    def __init__(self, centroids: Floats, grouping: Grouping | None) -> None:
        places = panel_places()
        half = half_norms(centroids)
        one = np.array([0, len(centroids)])
        self._level = compiled.level
        if grouping is None:
            panels = pack_panels(centroids, half, np.arange(len(centroids)), one, places)
            self._function = compiled.native.assign_exact
            self._arguments: tuple[Any, ...] = (panels.packed, panels.half)
            return
        panels = pack_panels(centroids, half, grouping.order, grouping.bounds, places)
        centers = pack_panels(
            grouping.centers,
            grouping.center_half,
            np.arange(grouping.ngroups),
            np.array([0, grouping.ngroups]),
            places,
        )
        self._function = compiled.native.assign_grouped
        self._arguments = (
            *(panels.packed, panels.half, panels.ids, panels.starts),
            *(centers.packed, centers.half, grouping.margin),
        )

    def __call__(self, x: Floats, list_no: Lists, distance: Floats) -> None:
        self._function(self._level, x.shape[1], x, *self._arguments, list_no, distance)


class _NumpyScan:
    rows, even = 4096, False

    def __init__(self, centroids: Floats) -> None:
        self._centroids, self._half = centroids, half_norms(centroids)

    def __call__(self, x: Floats, list_no: Lists, distance: Floats) -> None:
        step = max(1, _SCORE_FLOATS // len(self._centroids))
        for i in range(0, len(x), step):
            rows = x[i : i + step]
            list_no[i : i + step], scores = _find_lowest(rows, self._centroids, self._half)
            distance[i : i + step] = _distances(rows, scores)


class _NumpyGroupScan:
    rows, even = 4096, False

    def __init__(self, centroids: Floats, grouping: Grouping) -> None:
        self._grouping = grouping
        self._centroids = centroids[grouping.order]
        self._half = half_norms(self._centroids)

    def __call__(self, x: Floats, list_no: Lists, distance: Floats) -> None:
        step = max(1, _SCORE_FLOATS // self._grouping.ngroups)
        for i in range(0, len(x), step):
            self._rows(x[i : i + step], list_no[i : i + step], distance[i : i + step])

    def _rows(self, x: Floats, list_no: Lists, distance: Floats) -> None:
        g = self._grouping
        visited = np.ascontiguousarray((g.relative_scores(x) <= g.margin).T)
        best = np.full(len(x), inf)
        list_no[:] = 0
        for group in range(g.ngroups):
            rows = np.flatnonzero(visited[group])
            if not len(rows):
                continue
            part = slice(g.bounds[group], g.bounds[group + 1])
            at, score = _find_lowest(x[rows], self._centroids[part], self._half[part])
            found = g.order[part][at]
            lower = (score < best[rows]) | ((score == best[rows]) & (found < list_no[rows]))
            best[rows[lower]] = score[lower]
            list_no[rows[lower]] = found[lower]
        distance[:] = _distances(x, best)


def _find_lowest(x: Floats, centroids: Floats, half: Floats) -> tuple[Int64, Float64]:
    """Find each vector's centroid of lowest score, and that score in float64.

    A product by BLAS, rounded to float32 in any order, errs by at most d + 1 units of the last
    place of the lengths' product (Higham 2002, section 3.1). Where other centroids are within
    twice that, scores in float64 decide, with additions in a fixed order.
    """
    scores = x @ centroids.T
    np.subtract(half, scores, out=scores)
    at = scores.argmin(axis=1)
    longest = np.sqrt(2 * float(half.max(initial=0)))
    lengths = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    error = (x.shape[1] + 8) * 2.0**-23 * longest * (lengths + longest)
    near = scores <= (scores[np.arange(len(x)), at] + 2 * error)[:, None]
    several = np.flatnonzero(np.count_nonzero(near, axis=1) > 1)
    rows, others = np.nonzero(near[several])
    rows = several[rows]
    if len(rows):
        order = np.lexsort((others, _score_pairs(x, centroids, half, rows, others), rows))
        rows, others = rows[order], others[order]
        first = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
        at[rows[first]] = others[first]
    return at, _score_pairs(x, centroids, half, np.arange(len(x)), at)


def _score_pairs(x: Floats, centroids: Floats, half: Floats, rows: Int64, at: Int64) -> Float64:
    """Compute the scores of pairs of a vector and a centroid in float64."""
    scores = np.empty(len(rows))
    step = max(1, _PAIR_FLOATS // x.shape[1])
    for i in range(0, len(rows), step):
        some = slice(i, i + step)
        products = np.multiply(x[rows[some]], centroids[at[some]], dtype=np.float64)
        scores[some] = half[at[some]] - products.sum(axis=1)
    return scores


def _distances(x: Floats, scores: Float64) -> Float64:
    squares = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    result: Float64 = np.maximum(squares + 2 * scores, 0)
    return result


def _scan_in_numpy(centroids: Floats, grouping: Grouping | None) -> Scan:
    return _NumpyScan(centroids) if grouping is None else _NumpyGroupScan(centroids, grouping)


open_scan: Callable[[Floats, Grouping | None], Scan]
open_scan = either("native", _CompiledScan, _scan_in_numpy)
"""Exact where there is no grouping; by the compiled kernels where there are any."""
