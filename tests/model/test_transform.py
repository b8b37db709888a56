"""Transforms: distances kept by rotations, variance by PCA, inner products where they must be."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest

from teravec.errors import InvalidArgument
from teravec.model.transform import Moments, Transform, TransformKind, train_transform


def no_moments() -> Moments:
    raise AssertionError("this transform needs no vectors")


def in_blocks(vectors: np.ndarray, rows: int) -> Callable[[], Moments]:
    parts = (Moments.of(vectors[i : i + rows]) for i in range(0, len(vectors), rows))
    return lambda: reduce(Moments.__add__, parts)


def vectors_of(n: int, d: int) -> np.ndarray:
    """Vectors off the origin, with a different variance along each of d directions."""
    rng = np.random.default_rng(d)
    axes, _ = np.linalg.qr(rng.standard_normal((d, d)))
    scaled = rng.standard_normal((n, d)) * 3.0 ** -np.arange(d)
    return np.asarray(scaled @ axes.T + rng.standard_normal(d), np.float32)


def make(name: str, vectors: np.ndarray, *, centered: bool = True, rows: int = 50) -> Transform:
    kind = TransformKind.parse(name)
    moments = in_blocks(vectors, rows)
    return train_transform(kind, vectors.shape[1], moments, centered=centered, seed=1)


@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_rotation_is_orthogonal(d: int) -> None:
    kind = TransformKind.parse("rotation")
    made = [train_transform(kind, d, no_moments, centered=True, seed=s) for s in (5, 5, 6)]
    matrix = made[0].matrix
    assert matrix is not None
    assert made[1].matrix is not None
    assert made[2].matrix is not None
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(d), atol=1e-6)
    assert made[1].matrix.tobytes() == matrix.tobytes()
    assert d == 1 or not np.allclose(made[2].matrix, matrix, atol=0.01)
    x = vectors_of(20, d)
    y = made[0].apply(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y @ y.T, x @ x.T, rtol=1e-4, atol=1e-4)


def test_rotation_favours_no_direction() -> None:
    """Over seeds, the image of one axis is anywhere: each coordinate has mean 0, variance 1/d."""
    kind = TransformKind.parse("rotation")
    images = [
        train_transform(kind, 4, no_moments, centered=True, seed=s).apply(np.eye(4, dtype="f4")[:1])
        for s in range(400)
    ]
    image = np.concatenate(images)
    np.testing.assert_allclose(image.mean(0), 0, atol=4 * 0.5 / 20)
    np.testing.assert_allclose((image**2).mean(0), 0.25, atol=0.06)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("m", [1, 3, 6])
def test_pca_is_numpys_svd_up_to_sign(m: int, centered: bool) -> None:
    x = vectors_of(500, 6)
    wide = x.astype(np.float64)
    wide -= wide.mean(0) if centered else 0
    _, strengths, axes = np.linalg.svd(wide, full_matrices=False)
    found = make(f"pca{m}", x, centered=centered).apply(x)
    assert found.shape == (500, m)
    np.testing.assert_allclose(np.abs(found), np.abs(wide @ axes[:m].T), atol=2e-4)
    kept = (found.astype(np.float64) ** 2).sum(0)
    np.testing.assert_allclose(kept, strengths[:m] ** 2, rtol=1e-3)
    if centered:
        np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 37, 10_000])
def test_pca_does_not_depend_on_blocks(rows: int) -> None:
    x = vectors_of(500, 6)
    ours, whole = make("pca4", x, rows=rows).matrix, make("pca4", x, rows=500).matrix
    assert ours is not None
    assert whole is not None
    np.testing.assert_allclose(ours, whole, atol=1e-5)


def test_full_pca_keeps_what_the_metric_compares() -> None:
    x = vectors_of(100, 5)
    uncentered = make("pca5", x, centered=False)
    assert not uncentered.offset.any()
    y = uncentered.apply(x)
    np.testing.assert_allclose(y @ y.T, x @ x.T, rtol=1e-4, atol=1e-4)
    z = make("pca5", x, centered=True).apply(x)
    after, before = (((a[:, None] - a) ** 2).sum(-1) for a in (z, x))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_none_and_packing() -> None:
    x = vectors_of(10, 4)
    none = train_transform(TransformKind.parse("none"), 4, no_moments, centered=True, seed=0)
    assert none.pack() is None
    assert Transform.unpack(none.pack()).apply(x) is x
    for name in ("rotation", "pca3"):
        made = make(name, x)
        packed = made.pack()
        assert packed is not None
        assert packed.shape == (len(made.offset), 5)
        assert packed.dtype == np.float32
        np.testing.assert_array_equal(Transform.unpack(packed, len(packed)).apply(x), made.apply(x))


def test_names() -> None:
    assert TransformKind.parse("PCA72") == TransformKind("pca72", 72)
    assert TransformKind.parse("pca72").output_dimension(144) == 72
    assert TransformKind.parse("rotation").output_dimension(9) == 9
    for name in ("", "pca-1", "pca0", "pca1.5", "rotation2", "PCA 3"):
        with pytest.raises(InvalidArgument, match="unknown transform"):
            TransformKind.parse(name)
    with pytest.raises(InvalidArgument, match="more dimensions than 71"):
        TransformKind.parse("pca72").output_dimension(71)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("name", ["rotation", "pca9"])
def test_far_vectors_are_seen_from_their_centre(name: str, centered: bool) -> None:
    near = np.random.default_rng(2).standard_normal((700, 9))
    x = (near + 3e5).astype(np.float32)
    kind = TransformKind.parse(name)

    def moments() -> Moments:
        return Moments.of(x)

    made = train_transform(kind, 9, moments, centered=centered, seed=1, some=lambda: x)
    assert made.centre is not None
    packed = made.pack()
    assert packed is not None
    assert packed.shape == (10, 10)
    y = made.apply(x)
    np.testing.assert_array_equal(Transform.unpack(packed, 9).apply(x), y)
    wide = x.astype(np.float64)
    if centered:  # distances are those of the vectors, though these are far away
        assert np.abs(y).max() < 20
        after, before = (((a[:, None] - a[:50]) ** 2).sum(-1) for a in (y.astype(float), wide))
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-3)
    else:  # inner products are those about the origin
        np.testing.assert_allclose(y.astype(float) @ y[0], wide @ wide[0], rtol=1e-6)
    assert made.matrix is not None
    whole = made.matrix.astype(np.float64) @ wide.T + made.whole_offset[:, None]
    np.testing.assert_allclose(y, whole.T, rtol=1e-5, atol=0.2)


def test_ordinary_vectors_have_no_centre() -> None:
    x = vectors_of(400, 6) + np.float32(50)
    kind = TransformKind.parse("rotation")
    made = train_transform(kind, 6, no_moments, centered=True, seed=1, some=lambda: x)
    assert made.centre is None
    assert made.whole_offset is made.offset
    same = train_transform(kind, 6, no_moments, centered=True, seed=1)
    np.testing.assert_array_equal(made.apply(x), same.apply(x))
