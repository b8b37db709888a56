"""The transforms in front of a Faiss index, and the one transform of ours that does the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidSource
from teravec.interchange.faiss_fields import Fields
from teravec.interchange.faiss_names import CLASSES
from teravec.model.transform import Transform

__all__ = ["Step", "join_steps", "read_steps"]

Float64 = npt.NDArray[np.float64]

_MOST_STEPS = 64
_MOST_VALUES = 1 << 28  # of a matrix, 1 GiB
_LINEAR = ("rrot", "LTra", "Pcam", "PcAm", "PCAm", "Viqm")


@dataclass(frozen=True)
class Step:
    """One transform of a chain: ``y = A x + b``, or a scaling to unit length.

    Parameters
    ----------
    d_in, d_out : int
    matrix : ndarray of shape (d_out, d_in), float64, optional
        Not given: the identity.
    offset : ndarray of shape (d_out,), float64, optional
    unit : bool
        Scale to unit length; there is no map then.
    """

    d_in: int
    d_out: int
    matrix: Float64 | None = None
    offset: Float64 | None = None
    unit: bool = False


def read_steps(fields: Fields, d: int) -> tuple[Step, ...]:
    """Read the chain of an IndexPreTransform of ``d`` dimensions.

    Raises
    ------
    InvalidSource
        A transform is of another kind, or does not fit the one before it.
    """
    count = fields.take("i")
    if not 0 <= count <= _MOST_STEPS:
        raise InvalidSource(f"{fields.path}: a chain of {count} transforms found")
    steps = []
    for _ in range(count):
        step = _read_step(fields)
        if step.d_in != d:
            raise InvalidSource(
                f"{fields.path}: a transform of {step.d_in} dimensions found, {d} expected"
            )
        steps.append(step)
        d = step.d_out
    return tuple(steps)


def _read_step(fields: Fields) -> Step:
    name = fields.name()
    if name in _LINEAR:
        return _read_linear(fields, name)
    if name == "VNrm":
        norm = fields.take("f")
        if norm != 2:
            raise InvalidSource(f"{fields.path}: NormalizationTransform of norm {norm} found")
        return Step(*_read_dimensions(fields), unit=True)
    if name == "VCnt":
        mean = fields.array("<f4")
        d_in, d_out = _read_dimensions(fields)
        _check_count(fields, len(mean), d_in)
        return Step(d_in, d_out, offset=-mean.astype(np.float64))
    if name == "RmDT":
        chosen = fields.array("<i4")
        d_in, d_out = _read_dimensions(fields)
        _check_count(fields, len(chosen), d_out)
        if (chosen >= d_in).any():
            raise InvalidSource(f"{fields.path}: a dimension of {d_in} or more is selected")
        matrix = np.zeros((d_out, d_in))
        used = np.flatnonzero(chosen >= 0)
        matrix[used, chosen[used]] = 1
        return Step(d_in, d_out, matrix)
    raise InvalidSource(
        f"{fields.path}: transform {CLASSES.get(name, repr(name))} found; rotations, PCA, OPQ and "
        "other linear transforms, centering and L2 normalization are supported"
    )


def _read_linear(fields: Fields, name: str) -> Step:
    if name in ("Pcam", "PcAm", "PCAm"):
        fields.skip(4 + 4 * (name == "Pcam") + 1 + 4 * (name != "PCAm"))
        for _ in range(3):
            fields.section("<f4")  # mean, eigenvalues and vectors: A and b follow from them
    elif name == "Viqm":
        fields.skip(8)
    has_offset = fields.flag("have_bias")
    matrix, offset = fields.section("<f4"), fields.array("<f4")
    d_in, d_out = _read_dimensions(fields)
    _check_count(fields, matrix.count, d_in * d_out)
    if has_offset:
        _check_count(fields, len(offset), d_out)
    values = matrix.read(fields.file).astype(np.float64).reshape(d_out, d_in)
    return Step(d_in, d_out, values, offset.astype(np.float64) if has_offset else None)


def _read_dimensions(fields: Fields) -> tuple[int, int]:
    d_in, d_out = fields.take("i"), fields.take("i")
    if not fields.flag("is_trained"):
        raise InvalidSource(f"{fields.path}: a transform is not trained")
    if not (d_in > 0 and d_out > 0 and d_in * d_out <= _MOST_VALUES):
        raise InvalidSource(f"{fields.path}: a transform of {d_in} to {d_out} dimensions found")
    return d_in, d_out


def _check_count(fields: Fields, found: int, expected: int) -> None:
    if found != expected:
        raise InvalidSource(
            f"{fields.path}: {found:,} values of a transform found, {expected:,} expected"
        )


def join_steps(steps: Sequence[Step], path: str) -> Transform:
    """Return the one transform that does what all steps do, one after another.

    Maps are multiplied in float64. A scaling may come first, last, or both.

    Raises
    ------
    InvalidSource
        There is a map before and after a scaling.
    """
    matrix: Float64 | None = None
    offset: Float64 | None = None
    mapped = before = after = False
    for step in steps:
        if step.unit:
            before, after = before or not mapped, after or mapped
            continue
        if after:
            raise InvalidSource(
                f"{path}: a transform after a normalization after a transform found; one linear "
                "transform with normalizations before and after it is supported"
            )
        mapped = True
        if step.matrix is not None:
            offset = None if offset is None else (step.matrix * offset).sum(axis=1)
            matrix = step.matrix if matrix is None else _multiply(step.matrix, matrix)
        if step.offset is not None:
            offset = step.offset if offset is None else offset + step.offset
    if not mapped:
        return Transform(None, np.zeros(0, np.float32), unit_before=before)
    d_out = steps[-1].d_out
    whole = np.eye(d_out) if matrix is None else matrix
    added = np.zeros(d_out) if offset is None else offset
    return Transform(
        np.ascontiguousarray(whole, np.float32),
        np.ascontiguousarray(added, np.float32),
        None,
        before,
        after,
    )


def _multiply(left: Float64, right: Float64) -> Float64:
    """Multiply matrices with additions in a fixed order, which BLAS does not promise."""
    return np.stack([(row[:, None] * right).sum(axis=0) for row in left])
