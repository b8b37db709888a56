"""Metrics: squared L2, inner product and cosine."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from teravec.arguments import one_of
from teravec.native.lists import longest_square

__all__ = ["LARGEST_SQUARE", "Metric", "longest_square", "normalized"]

LARGEST_SQUARE = float(np.finfo(np.float32).max) / 4
"""Squared length up to which any squared distance is within float32.

(|q| + |x|)^2 is at most four times the larger square.
"""


# Names in other libraries. "euclidean" usually means distances, whose order is that of l2.
_OTHER_NAMES = {
    **dict.fromkeys(
        (
            "dot",
            "dotproduct",
            "dot_product",
            "inner_product",
            "innerproduct",
            "inner",
            "mips",
            "metric_inner_product",
            "max_inner_product",
        ),
        "ip",
    ),
    **dict.fromkeys(
        (
            "euclidean",
            "euclid",
            "l2sq",
            "sqeuclidean",
            "squared_l2",
            "l2_squared",
            "squared_euclidean",
            "metric_l2",
        ),
        "l2",
    ),
    **dict.fromkeys(
        ("angular", "cos", "cosine_similarity", "cosinesimil", "cosine_distance"), "cosine"
    ),
}


class Metric(StrEnum):
    """How vectors are compared.

    ``l2`` gives squared Euclidean distances, ascending. ``ip`` gives inner products,
    descending. ``cosine`` is the inner product of vectors scaled to unit length.
    """

    L2 = "l2"
    IP = "ip"
    COSINE = "cosine"

    @classmethod
    def parse(cls, name: str) -> Metric:
        """Parse a metric's name; raises InvalidArgument."""
        return cls(one_of(name, cls, "metric", _OTHER_NAMES))

    @property
    def larger_is_closer(self) -> bool:
        """True for similarities (ip, cosine), False for distances (l2)."""
        return self is not Metric.L2

    @property
    def worst(self) -> float:
        """The value of a missing result: +inf for distances, -inf for similarities."""
        return -np.inf if self.larger_is_closer else np.inf


_SHORTEST, _LONGEST = 1e-37, 1e37  # lengths whose inverse float32 has in full precision


def normalized(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale rows to unit length, float32 of the same shape; a zero row stays zero."""
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    norms = np.sqrt(squares)
    norms[norms == 0] = 1.0
    extreme = (norms < _SHORTEST) | (norms > _LONGEST)
    norms[extreme], lengths = 1.0, norms[extreme]
    unit: npt.NDArray[np.float32] = vectors * (1.0 / norms)[:, None].astype(np.float32)
    unit[extreme] = vectors[extreme] / lengths[:, None]  # in float64
    return unit
