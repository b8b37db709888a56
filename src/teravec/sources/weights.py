"""Weights of a source's rows in training, from a file or an array."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from teravec.arguments import PathArgument, path_of
from teravec.errors import InvalidSource
from teravec.sources.held import hold_array
from teravec.sources.matrix import Source
from teravec.sources.npy import open_npy
from teravec.sources.skipped import Skipped
from teravec.sources.vectorfile import VectorFile
from teravec.storage.layout import absolute

__all__ = ["Weights"]


class Weights:
    """The weight of each row of a source in training.

    Parameters
    ----------
    weights : path-like or array-like
        An array of shape (ntotal,), of a type that vectors may have, or a ``.npy`` file of one.
    ntotal : int
        Rows of the source's files.
    skipped : Skipped, optional
        Bad rows of the source; they have weights too.

    Raises
    ------
    InvalidSource
        The file holds no such array.
    """

    def __init__(
        self, weights: PathArgument | npt.ArrayLike, ntotal: int, skipped: Skipped | None = None
    ) -> None:
        if isinstance(weights, str | os.PathLike):
            self.path = absolute(path_of(weights, "weights"))
            file: VectorFile = open_npy(self.path, column=True)
        else:
            self.path = Path("weights in memory")
            file = _hold(self.path, weights)
        if file.n != ntotal:
            raise InvalidSource(
                f"{self.path}: {file.n:,} weights found, {ntotal:,} expected, one for each vector"
            )
        self._rows = Source([file], skipped=skipped)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read the weights of some rows, ascending, float32 of shape (len(rows),).

        Raises
        ------
        InvalidSource
            A weight that is negative or not finite; the message names the row.
        """
        weights: npt.NDArray[np.float32] = self._rows.take(rows)[:, 0]
        if len(wrong := np.flatnonzero(weights < 0)):
            raise InvalidSource(
                f"{self.path}: row {rows[wrong[0]]} has weight {weights[wrong[0]]}, "
                "0 or more expected"
            )
        return weights

    def describe(self) -> dict[str, Any]:
        """Return name, size and fingerprint, by which a later process recognises the weights."""
        described: dict[str, Any] = self._rows.describe()["files"][0]
        return described


def _hold(path: Path, weights: npt.ArrayLike) -> VectorFile:
    array = np.asarray(weights)
    if array.ndim != 1:
        raise InvalidSource(f"{path}: array of shape {array.shape} found, (ntotal,) expected")
    return hold_array(path, array[:, None])
