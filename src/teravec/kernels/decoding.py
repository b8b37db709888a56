"""The parameters by which the compiled kernels decode a codec's codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teravec.kernels.codec import Codec

__all__ = ["STEPS", "Decoding"]

Float32 = npt.NDArray[np.float32]

_NUMBERS = {"flat": 0, "fp16": 1, "sq8": 2, "sq6": 3, "sq4": 4}  # as _codes.h numbers them
_BITS = (32, 16, 8, 6, 4)
STEPS = {"sq8": 255, "sq6": 63, "sq4": 15}
_LANES = 16  # a code's values are padded to a multiple of this


@dataclass(frozen=True)
class Decoding:
    """Value i of a code stands for low[i] + step[i] * value, plus the centroid.

    Parameters
    ----------
    number : int
        The codec's number in the kernels.
    code_size : int
    low, step : ndarray of float32
        Padded to whole vectors; ``low`` is None unless codes are of residuals.
    centroids : ndarray of shape (nlist, d), float32
        None unless codes are of residuals.
    """

    number: int
    code_size: int
    low: Float32 | None
    step: Float32
    centroids: Float32 | None

    @staticmethod
    def knows(name: str) -> bool:
        """Whether the kernels can decode the codec of this ``Codec.fine_name``."""
        return name in _NUMBERS

    @classmethod
    def of(cls, codec: Codec, centroids: Float32, parameters: Float32) -> Decoding:
        """Return the decoding of a codec's fine codes, or of its only codes.

        Parameters
        ----------
        codec : Codec
            One whose ``fine_name`` the kernels know.
        centroids : ndarray of shape (nlist, d), float32
        parameters : ndarray of float32
            The codec's, from ``train_codec``.
        """
        d, name = centroids.shape[1], codec.fine_name
        padded = -(-d // _LANES) * _LANES
        low, step = None, np.ones(padded, np.float32)
        if name in STEPS:
            low = np.zeros(padded, np.float32)
            step[:d] = parameters[d:] / np.float32(STEPS[name])
            low[:d] = parameters[:d] + np.float32(0.5) * step[:d]
        residual = centroids if low is not None else None
        number = _NUMBERS[name]
        return cls(number, -(-d * _BITS[number] // 8), low, step, residual)
