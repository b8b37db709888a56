"""Transforms, which are applied to a vector before it is compared with centroids.

``rotation`` spreads the variance over the dimensions and preserves distances. ``pcaM`` keeps the
M directions of largest variance (the 1.5e12-vector index went from 144 to 72 dimensions).
``none`` changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.arguments import similar, text
from teravec.errors import InvalidArgument, shown
from teravec.kernels.centre import common_centre, seen_from
from teravec.kernels.exact_products import sum_of_squares
from teravec.kernels.metric import normalized
from teravec.kernels.orthogonal import orthogonal_of, principal_directions
from teravec.kernels.product import AffineMap

__all__ = ["Moments", "Transform", "TransformKind", "train_transform"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_FAR = 1000.0  # distance from the origin, in units of the spread, that calls for a centre
_GRID = 2.0**-30  # of random numbers: it hides the last bits of logarithms, which libraries round


_OTHER_NAMES = ("opq", "rr", "rotate", "random_rotation")


@dataclass(frozen=True)
class TransformKind:
    """A parsed name of a transform.

    Parameters
    ----------
    name : str
        ``none``, ``rotation`` or ``pcaM``.
    d_out : int or None
        M for ``pcaM``; None if the dimension stays.
    """

    name: str
    d_out: int | None = None

    @classmethod
    def parse(cls, name: str) -> TransformKind:
        """Return the transform of this name, or raise InvalidArgument."""
        given, name = name, text(name, "transform").lower()
        if name in ("none", "rotation"):
            return cls(name)
        if (match := re.fullmatch(r"pca(\d{1,9})", name, re.ASCII)) and int(match[1]) >= 1:
            return cls(f"pca{int(match[1])}", int(match[1]))
        hint = ""
        if re.fullmatch(r"pca", name):
            hint = ": say the dimensions to keep, as pca72"
        elif name in _OTHER_NAMES:
            hint = f": {name!r} is 'rotation' here"
        elif close := similar(name, ("none", "rotation")):
            hint = f": did you mean {close!r}?"
        raise InvalidArgument(
            f"unknown transform {shown(given)}; none, rotation or pcaM (as in pca72) expected{hint}"
        )

    def output_dimension(self, d: int) -> int:
        """Return the dimensions after transforming d dimensions, or raise InvalidArgument."""
        if self.d_out is not None and self.d_out > d:
            raise InvalidArgument(
                f"transform {self.name} asks for more dimensions than {d}: pca1 to pca{d} fit"
            )
        return self.d_out or d


@dataclass(frozen=True)
class Transform:
    """The affine map ``y = A (x - c) + b``, or the identity.

    Parameters
    ----------
    matrix : ndarray of shape (d_out, d_in), float32, or None for no transform
    offset : ndarray of shape (d_out,), float32
    centre : ndarray of shape (d_in,), float32, optional
        The c of the map, for vectors far from the origin. The float32 error of a product grows
        with the vectors' length, and would swamp the differences between them. Not given: 0.
    unit_before, unit_after : bool
        Scale vectors to unit length before the map, and after it. Only imported models do.
    """

    matrix: Float32 | None
    offset: Float32
    centre: Float32 | None = None
    unit_before: bool = False
    unit_after: bool = False

    def apply(self, vectors: Float32, threads: int = 1) -> Float32:
        """Transform vectors (n, d_in) into (n, d_out), float32."""
        if self.unit_before:
            vectors = normalized(vectors)
        if self.matrix is not None:
            vectors = self._map.apply(seen_from(self.centre, vectors), threads)
        return normalized(vectors) if self.unit_after else vectors

    @property
    def imported_name(self) -> str:
        """The name of this transform in the description of an imported model."""
        parts = (
            "unit" if self.unit_before else "",
            "linear" if self.matrix is not None else "",
            "unit" if self.unit_after else "",
        )
        return "+".join(filter(None, parts)) or "none"

    def undo(self, vectors: Float32) -> Float32:
        """Return vectors (n, d_in) that ``apply`` maps to these, (n, d_out): the shortest ones."""
        if self.matrix is None:
            return vectors
        inverse = np.linalg.pinv(self.matrix.astype(np.float64))
        found = (vectors - self.offset) @ inverse.T
        if self.centre is not None:
            found += self.centre
        return found.astype(np.float32)

    @property
    def whole_offset(self) -> Float32:
        """The b of the same map without a centre, ``y = A x + b``."""
        if self.matrix is None or self.centre is None:
            return self.offset
        return (self.offset - _product(self.matrix, self.centre)).astype(np.float32)

    @cached_property
    def _map(self) -> AffineMap:
        assert self.matrix is not None
        return AffineMap(self.matrix, self.offset)

    def pack(self) -> Float32 | None:
        """Return matrix and offset side by side, (d_out, d_in + 1), the form that is stored.

        If there is a centre, one more row holds it, followed by a zero.
        """
        if self.matrix is None:
            return None
        packed = np.hstack([self.matrix, self.offset[:, None]])
        if self.centre is None:
            return packed
        return np.vstack([packed, np.append(self.centre, np.float32(0))])

    @classmethod
    def unpack(cls, packed: Float32 | None, d_out: int = 0, name: str = "") -> Transform:
        """Invert `pack`, given the dimensions after the transform and its name."""
        if packed is None:
            return cls(None, np.zeros(0, np.float32), unit_before=name == "unit")
        matrix, offset = packed[:d_out, :-1], packed[:d_out, -1]
        centre = packed[d_out, :-1] if len(packed) > d_out else None
        return cls(
            np.ascontiguousarray(matrix),
            np.ascontiguousarray(offset),
            centre,
            name.startswith("unit+"),
            name.endswith("+unit"),
        )


@dataclass(frozen=True)
class Moments:
    """Sums over vectors from which their mean and covariance follow.

    Parameters
    ----------
    count : int
        Number of vectors.
    total : ndarray of shape (d,), float64
        Sum of the vectors.
    products : ndarray of shape (d, d), float64
        Sum of each vector's outer product with itself.
    """

    count: int
    total: Float64
    products: Float64

    @classmethod
    def none(cls, d: int) -> Moments:
        """Return the moments of no vectors."""
        return cls(0, np.zeros(d), np.zeros((d, d)))

    @classmethod
    def of(cls, vectors: Float32) -> Moments:
        """Compute the moments of vectors (n, d)."""
        total = vectors.sum(axis=0, dtype=np.float64)
        return cls(len(vectors), total, sum_of_squares(vectors))

    def __add__(self, other: Moments) -> Moments:
        """Add the moments of other vectors."""
        return Moments(
            self.count + other.count, self.total + other.total, self.products + other.products
        )

    def covariance(self, *, centered: bool) -> tuple[Float64, Float64]:
        """Return the mean (d,), or zeros if not ``centered``, and the (d, d) covariance."""
        mean = self.total / self.count if centered else np.zeros(len(self.total))
        return mean, self.products / self.count - np.outer(mean, mean)


def train_transform(
    kind: TransformKind,
    d: int,
    moments: Callable[[], Moments],
    *,
    centered: bool,
    seed: int,
    some: Callable[[], Float32] | None = None,
) -> Transform:
    """Make a transform; only PCA needs the training vectors.

    Parameters
    ----------
    kind : TransformKind
    d : int
    moments : callable
        Returns the training vectors' moments.
    centered : bool
        Whether a mean may be subtracted. It may for l2, but would change inner products.
    seed : int
        Seed of the random rotation.
    some : callable, optional
        Returns some training vectors, (n, d), to check whether all lie far from the origin.
    """
    if kind.name == "none":
        return Transform.unpack(None)
    if kind.name == "rotation":
        matrix, offset = _random_rotation(d, seed), np.zeros(d)
    else:
        mean, covariance = moments().covariance(centered=centered)
        matrix = principal_directions(covariance, kind.output_dimension(d))
        offset = -_product(matrix, mean)
    centre = common_centre(some(), _FAR) if some else None
    if centre is not None:
        offset = np.zeros(len(matrix)) if centered else _product(matrix, centre)
    return Transform(
        np.ascontiguousarray(matrix, np.float32), np.ascontiguousarray(offset, np.float32), centre
    )


def _product(matrix: npt.NDArray[Any], vector: npt.NDArray[Any]) -> Float64:
    """Multiply a matrix (m, d) by a vector (d,) in float64, with additions in a fixed order."""
    product: Float64 = (matrix.astype(np.float64) * vector).sum(axis=1)
    return product


def _random_rotation(d: int, seed: int) -> Float64:
    """Draw a rotation uniformly from the orthogonal group (Mezzadri 2007): QR with fixed signs."""
    gaussian = np.random.default_rng(seed).standard_normal((d, d))
    gaussian /= _GRID
    np.rint(gaussian, out=gaussian)  # QR does not depend on the scale
    return orthogonal_of(gaussian).T
