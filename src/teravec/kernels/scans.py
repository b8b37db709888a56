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
Lists = npt.NDArray[np.int32]

_SCORE_FLOATS = 1 << 22  # 16 MiB of scores at a time in the fallback


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
        self._centroids = centroids
        self._half = half_norms(centroids)

    def __call__(self, x: Floats, list_no: Lists, distance: Floats) -> None:
        step = max(1, _SCORE_FLOATS // len(self._centroids))
        for i in range(0, len(x), step):
            rows = x[i : i + step]
            scores = rows @ self._centroids.T
            np.subtract(self._half, scores, out=scores)
            best = scores.argmin(axis=1)
            list_no[i : i + step] = best
            distance[i : i + step] = _distances(rows, scores[np.arange(len(rows)), best])


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
        best = np.full(len(x), inf, np.float32)
        list_no[:] = 0
        for group in range(g.ngroups):
            rows = np.flatnonzero(visited[group])
            if not len(rows):
                continue
            part = slice(g.bounds[group], g.bounds[group + 1])
            scores = x[rows] @ self._centroids[part].T
            np.subtract(self._half[part], scores, out=scores)
            at = scores.argmin(axis=1)
            score = scores[np.arange(len(rows)), at]
            found = g.order[part][at]
            lower = (score < best[rows]) | ((score == best[rows]) & (found < list_no[rows]))
            best[rows[lower]] = score[lower]
            list_no[rows[lower]] = found[lower]
        distance[:] = _distances(x, best)


def _distances(x: Floats, scores: Floats) -> Floats:
    result: Floats = np.maximum(np.einsum("ij,ij->i", x, x) + 2 * scores, 0)
    return result


def _scan_in_numpy(centroids: Floats, grouping: Grouping | None) -> Scan:
    return _NumpyScan(centroids) if grouping is None else _NumpyGroupScan(centroids, grouping)


open_scan: Callable[[Floats, Grouping | None], Scan]
open_scan = either("native", _CompiledScan, _scan_in_numpy)
"""Exact where there is no grouping; by the compiled kernels where there are any."""
