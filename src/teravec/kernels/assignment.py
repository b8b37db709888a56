"""Assigning many vectors to their nearest centroids, and summing them by centroid.

This is the core of k-means and of sharding. The compiled kernels (native.py) do it; without them
the same scheme runs on NumPy, more slowly. Both order centroids c of a vector x by the score
``|c|**2 / 2 - x.c`` in float32, so centroids whose distances differ by less than about
``1e-6 * |x| * |c|`` may be taken for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, inf, nan, pow, sqrt
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from teravec.engines.threads import ordered_map
from teravec.errors import InvalidArgument
from teravec.kernels import native as compiled
from teravec.kernels.native import pack_panels

__all__ = [
    "ITERATION_AGREEMENT",
    "SHARD_AGREEMENT",
    "CentroidAssigner",
    "accumulate",
    "half_norms",
    "over_blocks",
]

Floats = npt.NDArray[np.float32]
Lists = npt.NDArray[np.int32]

SHARD_AGREEMENT = 0.997
"""Share of vectors that finished lists are to get as an exact search would give them."""

ITERATION_AGREEMENT = 0.99
"""The same for an iteration of k-means.

Ten iterations on 1,000,000 x 96, 16,384 lists, took 4.4 s each at 0.997, 2.7 at 0.99 and 2.0 at
0.97; the objectives differed by 0.02 %.
"""

_BLOCK_ROWS = 16384  # rows of one call to a compiled kernel
_NUMPY_ROWS = 4096  # rows of one block of the fallback
_SCORE_FLOATS = 1 << 22  # 16 MiB of scores at a time in the fallback
_GROUPING_STEPS = 4  # k-means steps over the centroids; eight save at most 5 % of the work
_GROUPING_SAMPLE = 64  # centroids per group that those steps look at
_MANY_CENTERS = 2048  # from here on the centers are grouped in turn
_CENTER_PROBES = 40
_FEWEST_GROUPS = 8  # the reference score takes a fourth lowest
_FEWEST_LISTS = 256  # below, scanning all centroids is as quick
_OVERHEAD = 1.3  # time of the grouped scan per score, relative to the exact one
_CALIBRATION_ROWS = 4096
_SCORED_ROWS = 512  # against all groups at a time: 32 MB of scores for 10 million lists


class CentroidAssigner:
    """Finds the nearest centroid (squared L2) of many vectors, exactly or through groups.

    The grouped assigner collects nearby centroids in groups, scores a vector against each group's
    center, and compares it with the centroids of those groups whose score is at most ``margin``
    above the mean of its lowest and fourth lowest. Vectors far from any boundary between groups
    so visit few of them. Measured at equal agreement, that is 20 to 25 % fewer centroids than a
    fixed number of groups per vector.

    Ties go to the lowest list number. With the compiled kernels a vector's result depends on the
    vector alone: not on threads, nor on how vectors are split over calls.

    Attributes
    ----------
    nlist, d : int
        Number of centroids and their dimension.
    ngroups : int
        Groups of centroids; 1 where the search is exact.
    margin : float
        Half squared L2; inf where the search is exact.
    probes : int
        Groups visited per vector: the mean, rounded, over the vectors that set the margin.
    work : float
        Centroids and centers compared per vector, likewise.
    agreement : float
        Share of the calibration sample assigned as by exact search; 1.0 where the search is
        exact, nan where it was not measured.

    References
    ----------
    Two levels of centroids: Faiss, IndexIVF with an IVF coarse quantizer. Margin instead of a
    count of groups: Chen et al., SPANN, 2021, section 3.3, here additive.
    """

    def __init__(self, centroids: Floats, grouping: _Grouping | None) -> None:
        self.nlist, self.d = centroids.shape
        self.ngroups = grouping.ngroups if grouping else 1
        self.margin = grouping.margin if grouping else inf
        self.probes = max(1, round(grouping.probes)) if grouping else 1
        self.work = grouping.work if grouping else float(self.nlist)
        self.agreement = grouping.agreement if grouping else 1.0
        self._scan: _Scan
        if compiled.native is not None:
            self._scan = _NativeScan(centroids, grouping)
            self._rows = _BLOCK_ROWS
        else:
            self._scan = _NumpyGroupScan(centroids, grouping) if grouping else _NumpyScan(centroids)
            self._rows = _NUMPY_ROWS

    @classmethod
    def exact(cls, centroids: npt.ArrayLike) -> CentroidAssigner:
        """Compare every vector with every centroid.

        Parameters
        ----------
        centroids : array of shape (nlist, d), converted to float32
        """
        return cls(_checked(centroids, "centroids"), None)

    @classmethod
    def grouped(
        cls,
        centroids: npt.ArrayLike,
        *,
        seed: int,
        threads: int,
        probes: int = 24,
        margin: float | None = None,
        ngroups: int | None = None,
    ) -> CentroidAssigner:
        """Compare every vector with the centroids of a few groups.

        Building costs about as much as assigning ``nlist`` vectors.

        Parameters
        ----------
        centroids : array of shape (nlist, d), converted to float32
        seed : int
            Of the grouping; equal seeds give equal results on any number of threads.
        threads : int
        probes : int
            Groups to visit per vector, on average over the centroids taken as vectors.
            Not used with ``margin``.
        margin : float, optional
            Half squared L2, such as another assigner's ``margin`` over similar centroids.
        ngroups : int, optional
            About ``nlist ** 0.6`` when not given. With fewer than eight the search is exact.
        """
        data = _checked(centroids, "centroids")
        if probes < 1:
            raise InvalidArgument(f"probes is {probes}, expected 1 or more")
        grouping = _group(data, ngroups or _default_groups(len(data)), seed, threads)
        if grouping is None:
            return cls(data, None)
        sample = data[:: max(1, len(data) // _SCORED_ROWS)][:_SCORED_ROWS]
        relative = grouping.relative_scores(sample)
        if margin is None:
            count = min(probes * len(sample), relative.size) - 1
            margin = max(0.0, float(np.partition(relative.ravel(), count)[count]))
        return cls(data, grouping.with_margin(margin, relative))

    @classmethod
    def auto(
        cls,
        centroids: npt.ArrayLike,
        sample: npt.ArrayLike,
        *,
        seed: int,
        threads: int,
        min_agreement: float = SHARD_AGREEMENT,
    ) -> CentroidAssigner:
        """Choose the cheapest way that agrees with exact search on a sample.

        Parameters
        ----------
        centroids : array of shape (nlist, d), converted to float32
        sample : array of shape (n, d), converted to float32
            Vectors like those to be assigned; 4096 of them, evenly spaced, are assigned exactly.
        seed, threads : int
        min_agreement : float
            Share of vectors, 0 to 1. The margin aims one standard error of the sample above it
            (0.0009 for 4096 vectors at 0.997): without, other vectors fell up to 0.002 short.
        """
        data = _checked(centroids, "centroids")
        rows = _checked(sample, "sample", empty=True, d=data.shape[1])
        if not 0 <= min_agreement <= 1:
            raise InvalidArgument(f"min_agreement is {min_agreement}, expected 0 to 1")
        exact = cls(data, None)
        if len(data) < _FEWEST_LISTS or not len(rows):
            return exact
        grouping = _group(data, _default_groups(len(data)), seed, threads)
        if grouping is None:
            return exact
        if len(rows) > _CALIBRATION_ROWS:
            rows = rows[np.linspace(0, len(rows) - 1, _CALIBRATION_ROWS).astype(np.int64)]
        truth, _ = exact.assign(rows, threads=threads)
        need = np.sort(grouping.margins(rows, truth))
        relative = grouping.relative_scores(rows[:: -(-len(rows) // _SCORED_ROWS)])
        error = sqrt(min_agreement * (1 - min_agreement) / len(rows))
        for share in (min_agreement + error, min_agreement + 2 * error, 1.0):
            # One vector more than the share: kernel and BLAS round the last one differently.
            rank = min(len(rows) - 1, ceil(share * len(rows)))
            # Not below 0: the lowest group is then visited, whatever the vector.
            margin = max(0.0, float(np.nextafter(need[rank], np.float32(inf))))
            candidate = grouping.with_margin(margin, relative)
            if candidate.work * _OVERHEAD >= len(data):
                break
            assigner = cls(data, candidate)
            assigner.agreement = float((assigner.assign(rows, threads=threads)[0] == truth).mean())
            if assigner.agreement >= min_agreement:
                return assigner
        return exact

    def assign(self, x: npt.ArrayLike, *, threads: int) -> tuple[Lists, Floats]:
        """Find each vector's nearest centroid.

        Parameters
        ----------
        x : array of shape (n, d)
            Finite; converted to float32 block by block.
        threads : int
            Threads to run on. Each uses about 4 MiB beside its block of at most 16384 vectors.

        Returns
        -------
        list_no : ndarray of shape (n,), int32
        distance : ndarray of shape (n,), float32
            Squared L2 to that centroid, at least 0; the error is about ``1e-6 * |x|**2``.

        Raises
        ------
        InvalidArgument
            The shape does not fit the centroids.
        """
        data = np.asarray(x)
        if data.ndim != 2 or data.shape[1] != self.d:
            raise InvalidArgument(f"vectors have shape {data.shape}, expected (n, {self.d})")
        list_no = np.empty(len(data), np.int32)
        distance = np.empty(len(data), np.float32)

        def block(start: int, stop: int) -> None:
            rows = np.require(data[start:stop], np.float32, ["C", "A"])
            self._scan(rows, list_no[start:stop], distance[start:stop])

        over_blocks(block, len(data), rows=self._rows, threads=threads, even=self._scan.even)
        return list_no, distance


def accumulate(
    x: npt.ArrayLike,
    list_no: Lists,
    sums: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    *,
    threads: int,
) -> None:
    """Add vectors to the sums of their lists, in place.

    Threads share the columns out, so the sums do not depend on their number: each is formed in
    the order of the vectors, with the compiled kernels. The fallback sums a call's vectors first.

    Parameters
    ----------
    x : array of shape (n, d), converted to float32
    list_no : ndarray of shape (n,), int32
        Each within 0 to nlist - 1.
    sums : ndarray of shape (nlist, d), float64
    counts : ndarray of shape (nlist,), int64
    threads : int

    Raises
    ------
    InvalidArgument
        The shapes or dtypes do not fit each other, or a list number is out of range.
    """
    data = np.require(x, np.float32, ["C", "A"])
    lists = np.require(list_no, np.int32, ["C", "A"])
    if data.shape != (len(lists), sums.shape[1]) or counts.shape != sums.shape[:1]:
        raise InvalidArgument(
            f"vectors {data.shape}, lists {lists.shape}, sums {sums.shape} and counts "
            f"{counts.shape} do not fit"
        )
    if sums.dtype != np.float64 or counts.dtype != np.int64:
        raise InvalidArgument(f"sums are {sums.dtype} and counts {counts.dtype}")
    if len(lists) and (lists.min() < 0 or lists.max() >= len(sums)):
        raise InvalidArgument(f"list numbers {lists.min()} to {lists.max()} of {len(sums)} lists")
    d = data.shape[1]
    native, level = compiled.native, compiled.level
    if native is not None:

        def columns(start: int, stop: int) -> None:
            first = counts if start == 0 else None
            native.accumulate(level, d, data, lists, sums, first, start, stop)

        share = -(-d // max(1, threads))
        over_blocks(columns, d, rows=max(32, -(-share // 16) * 16), threads=threads, even=False)
    elif len(lists):
        order = np.argsort(lists, kind="stable")
        found, first, number = np.unique(lists[order], return_index=True, return_counts=True)
        sums[found] += np.add.reduceat(data[order], first, axis=0, dtype=np.float64)
        counts[found] += number


def half_norms(centroids: Floats) -> Floats:
    """``|c|**2 / 2`` of every row, summed in float64 so that equal rows give equal values."""
    half = np.empty(len(centroids), np.float32)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and k-means says so
        for i in range(0, len(centroids), 8192):
            rows = centroids[i : i + 8192]
            half[i : i + 8192] = 0.5 * np.square(rows, dtype=np.float64).sum(axis=1)
    return half


def over_blocks(
    function: Callable[[int, int], None], n: int, *, rows: int, threads: int, even: bool
) -> None:
    """Call ``function(start, stop)`` for blocks of 0..n, on threads where there are several.

    Parameters
    ----------
    rows : int
        Most rows of a block.
    even : bool
        Make blocks smaller where threads would else have nothing to do.
    """
    if even:
        rows = min(rows, max(1024, -(-n // max(1, threads))))
    blocks = [(i, min(i + rows, n)) for i in range(0, n, rows)]
    if threads <= 1 or len(blocks) <= 1:
        for start, stop in blocks:
            function(start, stop)
        return
    for _ in ordered_map(lambda b: function(*b), blocks, threads=min(threads, len(blocks))):
        pass


# ---------------------------------------------------------------------- groups


@dataclass(frozen=True)
class _Grouping:
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
        """Scores of the centers less the vector's reference score, of shape (n, ngroups)."""
        scores: Floats = self.center_half - x @ self.centers.T
        scores -= _reference(scores)
        return scores

    def margins(self, x: Floats, list_no: Lists) -> Floats:
        """The least margin with which each vector's search visits the group of its list, (n,)."""
        found = np.empty(len(x), np.float32)
        for i in range(0, len(x), _SCORED_ROWS):
            part = slice(i, i + _SCORED_ROWS)
            relative = self.relative_scores(x[part])
            found[part] = relative[np.arange(len(relative)), self.group_of[list_no[part]]]
        return found

    def with_margin(self, margin: float, relative: Floats) -> _Grouping:
        """Set the margin, and the probes and work that it means for these relative scores."""
        visited = (relative <= margin).mean(axis=0)
        sizes, places = np.diff(self.bounds), _places()
        work = self.ngroups + float(visited @ (-(-sizes // places) * places))
        return replace(self, margin=margin, probes=float(visited.sum()), work=work)


def _reference(scores: Floats) -> Floats:
    low = np.partition(scores, (0, 3), axis=1)
    reference: Floats = 0.5 * (low[:, :1] + low[:, 3:4])
    return reference


def _default_groups(nlist: int) -> int:
    """Measured best: 64 to 128 groups of 2048 centroids, 192 of 8192, 1024 of 65536."""
    return ceil(pow(nlist, 0.6) / 16) * 16


def _group(centroids: Floats, ngroups: int, seed: int, threads: int) -> _Grouping | None:
    """Group the centroids by a short k-means; None where that leaves too few groups."""
    if not _FEWEST_GROUPS <= ngroups < len(centroids):
        return None
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(centroids), min(len(centroids), ngroups * _GROUPING_SAMPLE), False)
    sample = centroids[np.sort(picked)]
    centers = centroids[np.sort(picked[:ngroups])]
    for _ in range(_GROUPING_STEPS):
        group, _ = _of_centers(centers, seed, threads).assign(sample, threads=threads)
        sums = np.zeros(centers.shape)
        counts = np.zeros(len(centers), np.int64)
        accumulate(sample, group, sums, counts, threads=threads)
        used = counts > 0
        centers = (sums[used] / counts[used, None]).astype(np.float32)
    group, _ = _of_centers(centers, seed, threads).assign(centroids, threads=threads)
    used = np.bincount(group, minlength=len(centers)) > 0
    centers, group = centers[used], (np.cumsum(used) - 1)[group].astype(np.int32)
    if len(centers) < _FEWEST_GROUPS:
        return None
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(len(centers) + 1))
    return _Grouping(centers, half_norms(centers), group, order, bounds)


def _of_centers(centers: Floats, seed: int, threads: int) -> CentroidAssigner:
    """What finds centroids their group: need not be the nearest, as groups are a means only."""
    if len(centers) < _MANY_CENTERS:
        return CentroidAssigner.exact(centers)
    return CentroidAssigner.grouped(centers, seed=seed, threads=threads, probes=_CENTER_PROBES)


# ---------------------------------------------------------------------- scans of one block


class _Scan(Protocol):
    even: bool  # results do not depend on a block's size

    def __call__(self, x: Floats, list_no: Lists, distance: Floats) -> None: ...


class _NativeScan:
    even = True

    def __init__(self, centroids: Floats, grouping: _Grouping | None) -> None:
        assert compiled.native is not None
        places = _places()
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
    even = False

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
    even = False

    def __init__(self, centroids: Floats, grouping: _Grouping) -> None:
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


def _places() -> int:
    """Centroids in a panel; groups are padded to whole ones."""
    return int(compiled.native.panel_places(compiled.level)) if compiled.native else 1


def _checked(
    array: npt.ArrayLike, name: str, *, empty: bool = False, d: int | None = None
) -> Floats:
    data = np.require(array, np.float32, ["C", "A"])
    if data.ndim != 2 or not data.shape[1] or not (empty or len(data)):
        raise InvalidArgument(f"{name} have shape {data.shape}, expected two dimensions, not empty")
    if d is not None and data.shape[1] != d:
        raise InvalidArgument(f"{name} have {data.shape[1]} dimensions, the centroids {d}")
    if not np.isfinite(data).all():
        raise InvalidArgument(f"{name} hold values that are not finite")
    return data
