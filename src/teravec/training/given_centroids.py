"""Centroids that someone else computed, in the place of those of k-means."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, InvalidSource
from teravec.kernels.metric import Metric, normalized
from teravec.model.transform import Transform
from teravec.sources import Source

__all__ = ["GivenCentroids"]

Float32 = npt.NDArray[np.float32]


class GivenCentroids:
    """Centroids in the space of the source's vectors, before the transform.

    Parameters
    ----------
    source : Source
        One row for each list.
    d : int
        Dimensions of the vectors.

    Attributes
    ----------
    n : int
        Number of centroids.

    Raises
    ------
    InvalidArgument
        Their dimensions are not those of the vectors.
    """

    def __init__(self, source: Source, d: int) -> None:
        if source.d != d:
            raise InvalidArgument(
                f"{source.files[0].path}: centroids of {source.d} dimensions found, {d} expected, "
                "those of the vectors before the transform"
            )
        self._source, self.n = source, source.ntotal

    def describe(self) -> dict[str, Any]:
        """Return sizes and fingerprints, by which a later process recognises the centroids."""
        return self._source.describe()

    def check_nlist(self, nlist: int | None) -> None:
        """Raise InvalidArgument if the user asked for another number of lists."""
        if nlist not in (None, self.n):
            raise InvalidArgument(
                f"nlist is {nlist:,}; {self.n:,} centroids are given: leave nlist out"
            )

    def check(self, metric: Metric) -> None:
        """Check the values.

        Raises
        ------
        InvalidArgument
            A value is not finite, two centroids are equal, or one has length 0 where its
            direction counts.
        """
        try:
            vectors = self._read(metric)
        except InvalidSource as error:  # the vectors to be indexed are not to blame
            raise InvalidArgument(f"centroids: {error}") from error
        if metric is Metric.COSINE and len(zero := np.flatnonzero(~vectors.any(axis=1))):
            raise InvalidArgument(
                f"{self._source.place_of(int(zero[0]))} is a centroid of length 0; one with a "
                "direction expected for cosine"
            )
        self._check_distinct(vectors)

    def read(self, metric: Metric, transform: Transform) -> Float32:
        """Read the centroids as the model holds them, float32 of shape (n, d_index).

        Cosine scales them to unit length before and after the transform.
        """
        centroids = transform.apply(self._read(metric))
        return normalized(centroids) if metric is Metric.COSINE else centroids

    def _read(self, metric: Metric) -> Float32:
        vectors: Float32 = self._source.take(np.arange(self.n))
        return normalized(vectors) if metric is Metric.COSINE else vectors

    def _check_distinct(self, vectors: Float32) -> None:
        values = np.ascontiguousarray(vectors + np.float32(0))  # -0 is 0
        rows = values.view(np.dtype((np.void, values.strides[0]))).ravel()
        order = np.argsort(rows, kind="stable")
        equal = np.flatnonzero(rows[order][1:] == rows[order][:-1])
        if len(equal):
            first, second = sorted(order[equal[0] : equal[0] + 2].tolist())
            raise InvalidArgument(
                f"{self._source.place_of(first)} and {self._source.place_of(second)} hold the "
                f"same centroid; distinct ones expected ({len(equal):,} repeat another)"
            )
