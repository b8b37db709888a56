"""Which codecs and transforms are worth trying, likely ones first. Pure functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teravec.advising.trial import Choice
from teravec.errors import InvalidArgument
from teravec.kernels.codec import Codec, code_bytes
from teravec.kernels.metric import Metric, normalized
from teravec.storage.listfile import ID_BYTES

__all__ = ["REFERENCE", "list_choices", "pca_dimensions", "row_bytes"]

Float32 = npt.NDArray[np.float32]

REFERENCE = "sq8"
"""The codec that shows how lists depend on their number and on density."""

_USUAL = (
    REFERENCE,
    "rabitq2+sq8",
    "fp16",
    "rabitq1+sq8",
    "sq6",
    "sq4",
    "rabitq2+sq6",
    "rabitq2+fp16",
)
_SLOW = ("rabitq4", "rabitq2")  # scanned by Faiss, one query at a time
_KEPT = 0.98  # of the variance, by a PCA that is worth trying
_FEWER = 0.8  # of the dimensions, at most
_STEP = 8  # dimensions: whole bytes at 1 bit each
_SPECTRUM_ROWS = 20_000


def list_choices(
    d: int,
    nlist: int,
    pca: int | None,
    most_row_bytes: float | None = None,
    codecs: tuple[str, ...] = (),
    transform: str | None = None,
) -> list[Choice]:
    """List what to try, in order.

    Parameters
    ----------
    d : int
    nlist : int
    pca : int, optional
        Dimensions of a PCA that is worth trying.
    most_row_bytes : float, optional
        Leave out what takes more bytes a vector.
    codecs : tuple of str
        Try only these, with the transform below.
    transform : str, optional
    """
    if codecs:
        named = [Choice(Codec.parse(codec).name, transform, nlist) for codec in codecs]
        for choice in named:
            Codec.parse(choice.codec).check_dimension(_dimension(choice, d))
        return named
    product = [f"pq{m}" for m in _parts(d)]
    found = [Choice(codec, None, nlist) for codec in _USUAL]
    if pca is not None:
        reduced = [Choice(codec, f"pca{pca}", nlist) for codec in (REFERENCE, "rabitq2+sq8")]
        found[4:4] = reduced
    found += [Choice(codec, None, nlist) for codec in (*product, *_SLOW)]
    if most_row_bytes is None:
        return found
    kept = [choice for choice in found if row_bytes(choice, d) <= most_row_bytes]
    if not kept:
        least = min(row_bytes(choice, d) for choice in found)
        raise InvalidArgument(
            f"bytes-per-vector is {most_row_bytes:g}; at least {least:,} expected: the smallest "
            f"codec that is tried takes so many, {ID_BYTES} of them for the id"
        )
    return kept


def row_bytes(choice: Choice, d: int) -> int:
    """Return the bytes of a vector's code and id."""
    return code_bytes(Codec.parse(choice.codec), _dimension(choice, d)) + ID_BYTES


def _dimension(choice: Choice, d: int) -> int:
    transform = choice.transform or ""
    return int(transform.removeprefix("pca")) if transform.startswith("pca") else d


def _parts(d: int) -> list[int]:
    """Return the divisors of d nearest a half and a quarter of it: sub-quantizers."""
    divisors = [m for m in range(1, d) if d % m == 0]
    near = [min(divisors, key=lambda m: abs(m - d / share)) for share in (2, 4)]
    return list(dict.fromkeys(near))


def pca_dimensions(sample: Float32, metric: Metric) -> int | None:
    """Return how many dimensions keep 98 % of the variance; None if that saves little."""
    some = sample[:: max(1, len(sample) // _SPECTRUM_ROWS)].astype(np.float64)
    if metric is Metric.COSINE:
        some = normalized(some.astype(np.float32)).astype(np.float64)
    if metric is Metric.L2:
        some = some - some.mean(0)
    values = np.maximum(np.linalg.eigvalsh(some.T @ some)[::-1], 0)
    total, d = float(values.sum()), sample.shape[1]
    if total <= 0:
        return None
    needed = int(np.searchsorted(np.cumsum(values), _KEPT * total)) + 1
    needed = -(-needed // _STEP) * _STEP
    return needed if needed <= _FEWER * d else None
