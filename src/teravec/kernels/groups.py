"""Groups of centroids, so that a vector is compared with the centroids of a few groups only.

References
----------
Two levels of centroids: Faiss, IndexIVF with an IVF coarse quantizer. Margin instead of a
count of groups: Chen et al., SPANN, 2021, section 3.3, here additive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, inf, nan, pow

import numpy as np
import numpy.typing as npt

from teravec.kernels.accumulation import accumulate
from teravec.kernels.panels import half_norms
from teravec.kernels.product import AffineMap

__all__ = ["SCORED_ROWS", "Grouping", "default_groups", "group_centroids"]

Floats = npt.NDArray[np.float32]
Lists = npt.NDArray[np.int32]

Nearest = Callable[[Floats, Floats], Lists]
"""Takes centers (ngroups, d) and vectors (n, d); returns each vector's center, (n,)."""

SCORED_ROWS = 512  # rows scored against all groups at a time: 32 MB for 10 million lists
_GROUPING_STEPS = 4  # k-means steps over the centroids; eight would save at most 5 % of the work
_GROUPING_SAMPLE = 64  # centroids per group used in these steps
_FEWEST_GROUPS = 8  # the reference score needs a fourth lowest
_PLACES = 32  # centroids of a panel at the widest level: the margin must not depend on the level


@dataclass(frozen=True)
class Grouping:
    """Centroids in groups: group g holds ``order[bounds[g]:bounds[g + 1]]``, ascending."""

    centers: Floats
    center_half: Floats
    group_of: npt.NDArray[np.int32]
    order: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]
    margin: float = inf
    probes: float = nan
    work: float = nan
    agreement: float = nan

    @property
    def ngroups(self) -> int:
        return len(self.centers)

    def relative_scores(self, x: Floats) -> Floats:
        """Return the centers' scores less each vector's reference score, (n, ngroups).

        They are computed as the scan computes them. The margin is read off them, so their rounding
        must not depend on BLAS, its threads or its choice of kernels.
        """
        scores = np.negative(self._products.apply(x, 1))
        scores -= _reference(scores)
        return scores

    @cached_property
    def _products(self) -> AffineMap:
        """The map to inner products with the centers, less their half-norms."""
        return AffineMap(self.centers, -self.center_half)

    def margins(self, x: Floats, list_no: Lists) -> Floats:
        """Return the least margin with which each vector visits the group of its list, (n,)."""
        found = np.empty(len(x), np.float32)
        for i in range(0, len(x), SCORED_ROWS):
            part = slice(i, i + SCORED_ROWS)
            relative = self.relative_scores(x[part])
            found[part] = relative[np.arange(len(relative)), self.group_of[list_no[part]]]
        return found

    def with_margin(self, margin: float, relative: Floats) -> Grouping:
        """Return a copy with a margin, and its probes and work for these relative scores."""
        visited = np.count_nonzero(relative <= margin, axis=0)
        padded = -(-np.diff(self.bounds) // _PLACES) * _PLACES
        n = len(relative)
        work = self.ngroups + int((visited * padded).sum()) / n
        return replace(self, margin=margin, probes=int(visited.sum()) / n, work=work)


def _reference(scores: Floats) -> Floats:
    low = np.partition(scores, (0, 3), axis=1)
    reference: Floats = 0.5 * (low[:, :1] + low[:, 3:4])
    return reference


def default_groups(nlist: int) -> int:
    """Return about nlist^0.6. Measured best: 64 to 128 for 2048, 192 for 8192, 1024 for 65536."""
    return ceil(pow(nlist, 0.6) / 16) * 16


def group_centroids(
    centroids: Floats, ngroups: int, nearest: Nearest, *, seed: int, threads: int
) -> Grouping | None:
    """Group the centroids by a short k-means; None if too few groups remain.

    Parameters
    ----------
    centroids : ndarray of shape (nlist, d), float32
    ngroups : int
        Initial groups; groups without centroids are dropped.
    nearest : callable
        Finds a center for each centroid. It may be approximate.
    seed, threads : int
    """
    if not _FEWEST_GROUPS <= ngroups < len(centroids):
        return None
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(centroids), min(len(centroids), ngroups * _GROUPING_SAMPLE), False)
    sample = centroids[np.sort(picked)]
    centers = centroids[np.sort(picked[:ngroups])]
    for _ in range(_GROUPING_STEPS):
        group = nearest(centers, sample)
        sums = np.zeros(centers.shape)
        counts = np.zeros(len(centers), np.int64)
        accumulate(sample, group, sums, counts, threads=threads)
        used = counts > 0
        centers = (sums[used] / counts[used, None]).astype(np.float32)
    group = nearest(centers, centroids)
    used = np.bincount(group, minlength=len(centers)) > 0
    centers, group = centers[used], (np.cumsum(used) - 1)[group].astype(np.int32)
    if len(centers) < _FEWEST_GROUPS:
        return None
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(len(centers) + 1))
    return Grouping(centers, half_norms(centers), group, order, bounds)
