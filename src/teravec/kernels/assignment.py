"""Assigning many vectors to their nearest centroids.

This is the core of k-means and of sharding. Without the compiled kernels the same scheme runs on
NumPy, more slowly. Both order the centroids c of a vector x by the score ``|c|**2 / 2 - x.c`` in
float32. Centroids whose distances differ by less than about ``1e-6 * |x| * |c|`` may therefore be
confused. If the centroids lie far from the origin, lengths are relative to a common centre
(centre.py).
"""

from __future__ import annotations

from math import ceil, inf, sqrt

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument
from teravec.kernels.blocks import over_blocks
from teravec.kernels.centre import common_centre, seen_from
from teravec.kernels.groups import SCORED_ROWS, Grouping, default_groups, group_centroids
from teravec.kernels.scans import Scan, open_scan
from teravec.kernels.torch_scan import TorchScan

__all__ = ["FEWEST_LISTS", "ITERATION_AGREEMENT", "SHARD_AGREEMENT", "CentroidAssigner"]

Floats = npt.NDArray[np.float32]
Lists = npt.NDArray[np.int32]

SHARD_AGREEMENT = 0.997
"""Share of vectors that must get the same list as by exact search, in the final model."""

ITERATION_AGREEMENT = 0.99
"""The same for an iteration of k-means.

Ten iterations on 1,000,000 x 96, 16,384 lists, took 4.4 s each at 0.997, 2.7 at 0.99 and 2.0 at
0.97; the objectives differed by 0.02 %.
"""

FEWEST_LISTS = 256
"""Below this many lists, scanning all centroids is as fast."""

_MANY_CENTERS = 2048  # from this number on, the centers are grouped in turn
_CENTER_PROBES = 40
_OVERHEAD = 1.3  # time of the grouped scan per score, relative to the exact one
_CALIBRATION_ROWS = 4096
_ROUNDING = 4e-6  # of a squared distance in float32, relative to the vectors' squares


class CentroidAssigner:
    """Finds the nearest centroid (squared L2) of many vectors, exactly or through groups.

    The grouped assigner collects nearby centroids in groups, and scores a vector against each
    group's center. Its reference is the mean of the lowest and the fourth lowest score. The vector
    is compared with the centroids of all groups whose score is at most ``margin`` above the
    reference. A vector far from any boundary between groups visits few groups. At equal agreement
    this takes 20 to 25 % fewer comparisons than a fixed number of groups per vector.

    Ties go to the lowest list number. With the compiled kernels a vector's result depends on the
    vector alone: not on threads, nor on how vectors are split over calls.

    Attributes
    ----------
    nlist, d : int
        Number of centroids and their dimension.
    ngroups : int
        Groups of centroids; 1 where the search is exact.
    margin : float
        Half squared L2; inf if the search is exact.
    probes : int
        Groups visited per vector: the mean, rounded, over the vectors that set the margin.
    work : float
        Mean centroids and centers compared per vector, likewise.
    agreement : float
        Share of the calibration sample with the same list as by exact search; 1.0 if the search is
        exact, nan if not measured.
    """

    def __init__(
        self,
        centroids: Floats,
        grouping: Grouping | None,
        centre: Floats | None,
        scan: Scan | None = None,
    ) -> None:
        self.nlist, self.d = centroids.shape
        self._centre = centre  # the origin of centroids, grouping and scan
        self.ngroups = grouping.ngroups if grouping else 1
        self.margin = grouping.margin if grouping else inf
        self.probes = max(1, round(grouping.probes)) if grouping else 1
        self.work = grouping.work if grouping else float(self.nlist)
        self.agreement = grouping.agreement if grouping else 1.0
        self._scan = scan or open_scan(centroids, grouping)
        self._numbers: Lists | None = None

    @classmethod
    def exact(cls, centroids: npt.ArrayLike) -> CentroidAssigner:
        """Compare every vector with every centroid.

        Parameters
        ----------
        centroids : array of shape (nlist, d), converted to float32
        """
        return cls(*_centred(centroids))

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
            Seed of the grouping; equal seeds give equal results on any number of threads.
        threads : int
        probes : int
            Groups to visit per vector, the mean with the centroids as vectors. Not used with
            ``margin``.
        margin : float, optional
            Half squared L2, such as another assigner's ``margin`` over similar centroids.
        ngroups : int, optional
            Not given: about ``nlist ** 0.6``. With fewer than eight groups the search is exact.
        """
        if probes < 1:
            raise InvalidArgument(f"probes is {probes}, expected 1 or more")
        data, _, centre = _centred(centroids)
        grouping = _group(data, ngroups or default_groups(len(data)), seed, threads)
        if grouping is None:
            return cls(data, None, centre)
        sample = data[:: max(1, len(data) // SCORED_ROWS)][:SCORED_ROWS]
        relative = grouping.relative_scores(sample)
        if margin is None:
            count = min(probes * len(sample), relative.size) - 1
            margin = max(0.0, float(np.partition(relative.ravel(), count)[count]))
        return cls(data, grouping.with_margin(margin, relative), centre)

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
            (0.0009 for 4096 vectors at 0.997); without that, other vectors were up to 0.002 short.
        """
        data, _, centre = _centred(centroids)
        rows = _checked(sample, "sample", empty=True, d=data.shape[1])
        if not 0 <= min_agreement <= 1:
            raise InvalidArgument(f"min_agreement is {min_agreement}, expected 0 to 1")
        exact = cls(data, None, centre)
        if len(data) < FEWEST_LISTS or not len(rows):
            return exact
        grouping = _group(data, default_groups(len(data)), seed, threads)
        if grouping is None:
            return exact
        rows = _calibration_rows(rows)
        truth, _ = exact.assign(rows, threads=threads)
        seen = seen_from(centre, rows)
        need = np.sort(grouping.margins(seen, truth))
        relative = grouping.relative_scores(seen[:: -(-len(seen) // SCORED_ROWS)])
        error = sqrt(min_agreement * (1 - min_agreement) / len(rows))
        for share in (min_agreement + error, min_agreement + 2 * error, 1.0):
            # Take one vector more than the share, so that the last one does not decide alone.
            rank = min(len(rows) - 1, ceil(share * len(rows)))
            # At least 0, so that every vector visits its lowest group.
            margin = max(0.0, float(np.nextafter(need[rank], np.float32(inf))))
            candidate = grouping.with_margin(margin, relative)
            if candidate.work * _OVERHEAD >= len(data):
                break
            assigner = cls(data, candidate, centre)
            assigner.agreement = float((assigner.assign(rows, threads=threads)[0] == truth).mean())
            if assigner.agreement >= min_agreement:
                return assigner
        return exact

    @classmethod
    def on_device(
        cls, centroids: npt.ArrayLike, sample: npt.ArrayLike, device: str, *, threads: int
    ) -> CentroidAssigner:
        """Compare every vector with every centroid on a GPU, after checking its results.

        Parameters
        ----------
        centroids : array of shape (nlist, d), converted to float32
        sample : array of shape (n, d), converted to float32
            Vectors like those to be assigned; up to 4096 are also assigned on the processor.
        device : str
            As ``kernels.device.parse_device`` takes it, not ``cpu``.
        threads : int

        Raises
        ------
        InvalidArgument
            PyTorch or the device is missing, or fewer than 99.7 % of the sample agree.
        """
        data, _, centre = _centred(centroids)
        rows = _checked(sample, "sample", empty=True, d=data.shape[1])
        assigner = cls(data, None, centre, TorchScan(data, device))
        if len(rows):
            rows = _calibration_rows(rows)
            truth, _ = cls(data, None, centre).assign(rows, threads=threads)
            found, _ = assigner.assign(rows, threads=threads)
            assigner.agreement = _agreement(data, seen_from(centre, rows), found, truth)
            if assigner.agreement < SHARD_AGREEMENT:
                raise InvalidArgument(
                    f"device {device} finds the nearest centroid of {assigner.agreement:.2%} of "
                    f"{len(rows):,} vectors; at least {SHARD_AGREEMENT:.1%} expected"
                )
        return assigner

    def numbered(self, list_nos: npt.NDArray[np.int64]) -> CentroidAssigner:
        """Number the centroids, (nlist,), which have their rows' numbers otherwise; return self."""
        self._numbers = list_nos.astype(np.int32)
        return self

    def assign(self, x: npt.ArrayLike, *, threads: int) -> tuple[Lists, Floats]:
        """Find each vector's nearest centroid.

        Parameters
        ----------
        x : array of shape (n, d)
            Finite; converted to float32 block by block.
        threads : int
            Each thread uses about 4 MiB in addition to its block of at most 16384 vectors.

        Returns
        -------
        list_no : ndarray of shape (n,), int32
        distance : ndarray of shape (n,), float32
            Squared L2 to that centroid, at least 0. The error is about ``1e-6 * |x|**2``; ``|x|``
            is the distance from the common centre, if there is one.

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
            rows = seen_from(self._centre, rows)
            self._scan(rows, list_no[start:stop], distance[start:stop])

        over_blocks(block, len(data), rows=self._scan.rows, threads=threads, even=self._scan.even)
        return list_no if self._numbers is None else self._numbers[list_no], distance


def _centred(centroids: npt.ArrayLike) -> tuple[Floats, None, Floats | None]:
    """Check centroids; return them relative to their centre, no grouping, and the centre."""
    data = _checked(centroids, "centroids")
    centre = common_centre(data)
    return seen_from(centre, data), None, centre


def _calibration_rows(rows: Floats) -> Floats:
    if len(rows) <= _CALIBRATION_ROWS:
        return rows
    chosen: Floats = rows[np.linspace(0, len(rows) - 1, _CALIBRATION_ROWS).astype(np.int64)]
    return chosen


def _agreement(centroids: Floats, rows: Floats, found: Lists, truth: Lists) -> float:
    """Return the share of rows whose found centroid is as near as the true one, within rounding.

    Distances are compared, not numbers: if many vectors are equal, some centroids are equal too, or
    almost.
    """
    other = np.flatnonzero(found != truth)
    x = rows[other].astype(np.float64)
    distances = [((x - centroids[lists[other]]) ** 2).sum(axis=1) for lists in (found, truth)]
    scale = (x**2).sum(axis=1) + distances[1]
    farther = distances[0] - distances[1] > _ROUNDING * scale
    return 1 - float(farther.sum()) / len(rows)


def _group(centroids: Floats, ngroups: int, seed: int, threads: int) -> Grouping | None:
    def nearest(centers: Floats, x: Floats) -> Lists:
        return _of_centers(centers, seed, threads).assign(x, threads=threads)[0]

    return group_centroids(centroids, ngroups, nearest, seed=seed, threads=threads)


def _of_centers(centers: Floats, seed: int, threads: int) -> CentroidAssigner:
    """Make the assigner of centroids to groups, which may be approximate."""
    if len(centers) < _MANY_CENTERS:
        return CentroidAssigner.exact(centers)
    return CentroidAssigner.grouped(centers, seed=seed, threads=threads, probes=_CENTER_PROBES)


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
